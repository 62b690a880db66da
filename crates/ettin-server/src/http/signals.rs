//! What the system tells the process: to end, to end at once, to load its models again.

use std::io;
use std::sync::Arc;

use crate::models::Registry;

/// Signals to end.
pub(super) struct EndSignals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl EndSignals {
    /// Begins to listen.
    ///
    /// # Errors
    /// Where no signals can be heard.
    pub(super) fn listen() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            Ok(Self { terminate, interrupt })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        // Where nothing can be heard, nothing ends it but the system.
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Loads all models again at each SIGHUP, for as long as the runtime lives.
///
/// # Errors
/// Where the signal cannot be heard.
pub(super) fn reload_when_told(registry: &Arc<Registry>) -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut hangup, registry) = (signal(SignalKind::hangup())?, registry.clone());
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                tracing::info!("loading all models again");
                if let Err(error) = registry.reload_all() {
                    tracing::error!(%error, "models cannot be loaded again");
                }
            }
        });
    }
    #[cfg(not(unix))]
    let _ = registry;
    Ok(())
}
