//! What the command line adds to the library's errors: the flag or the command that helps.

use ettin::Error;
use ettin::generate::GenerationDefaults;

/// The library's error, with what to type about it.
pub(crate) fn told(error: &Error) -> String {
    format!("{error}{}", added(error))
}

/// What follows the message of an error that a command failed with.
pub(crate) fn behind(error: &anyhow::Error) -> &'static str {
    error.downcast_ref().map_or("", added)
}

fn added(error: &Error) -> &'static str {
    match error {
        Error::UnknownModel { .. } => " (`ettin-run models` lists the names of the suite)",
        Error::NotCached { .. } if cfg!(feature = "hub") => " (without --offline, `ettin-run pull` fetches it)",
        Error::TooLong { .. } => " (--truncate right or left)",
        error if GenerationDefaults::are_refused_by(error) => " (--ignore-generation-config)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_known_is_told_where_the_known_ones_are() {
        let error = Error::UnknownModel { name: "x".into(), hint: ": no".into() };
        assert!(told(&error).starts_with("unknown model \"x\": no (`ettin-run models`"), "{}", told(&error));
        let wrapped = anyhow::Error::new(error).context("while opening");
        assert!(format!("{wrapped:#}{}", behind(&wrapped)).contains("ettin-run models"));
        assert_eq!(told(&Error::input("odd")), "odd");
    }
}
