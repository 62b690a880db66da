//! How a run ends: what is said, and with which exit status.

use std::process::ExitCode;

use crate::advice;

/// How a command that was carried out ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub(crate) enum Status {
    /// Everything was answered.
    Done,
    /// So many records were bad and left out; each was reported.
    BadRecords(usize),
    /// A model is not computed as it should be; this says where.
    CheckFailed(String),
}

/// The request makes no sense as it was typed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

impl Usage {
    /// The error to return with `?` or `bail!`.
    pub(crate) fn error(message: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Usage(message.into()))
    }
}

/// The reader of our output has gone (`| head`): not a failure, but nothing is left to do.
#[derive(Debug, thiserror::Error)]
#[error("the reader closed the pipe")]
pub(crate) struct ClosedPipe;

/// Exit status of a run that failed.
pub(crate) const FAILURE: u8 = 1;
/// Exit status of a request that makes no sense.
pub(crate) const USAGE: u8 = 2;
/// Exit status when the model is not cached and the network is off.
pub(crate) const NOT_CACHED: u8 = 3;

/// The exit status for a run's result.
pub(crate) fn code(result: &anyhow::Result<Status>) -> ExitCode {
    let error = match result {
        Ok(Status::Done) => return ExitCode::SUCCESS,
        Ok(Status::BadRecords(_) | Status::CheckFailed(_)) => return ExitCode::from(FAILURE),
        Err(error) => error,
    };
    if error.is::<ClosedPipe>() {
        ExitCode::SUCCESS
    } else if error.is::<Usage>() {
        ExitCode::from(USAGE)
    } else if matches!(error.downcast_ref(), Some(ettin::Error::NotCached { .. })) {
        ExitCode::from(NOT_CACHED)
    } else {
        ExitCode::from(FAILURE)
    }
}

/// What is printed on stderr for a run's result, if anything.
pub(crate) fn message(result: &anyhow::Result<Status>) -> Option<String> {
    match result {
        Ok(Status::Done) => None,
        Ok(Status::BadRecords(1)) => Some("1 record was left out".into()),
        Ok(Status::BadRecords(count)) => Some(format!("{count} records were left out")),
        Ok(Status::CheckFailed(verdict)) => Some(verdict.clone()),
        Err(error) if error.is::<ClosedPipe>() => None,
        Err(error) => Some(format!("{error:#}{}", advice::behind(error))),
    }
}
