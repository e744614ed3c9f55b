//! SIGTERM and SIGINT: the first drains, a second SIGINT ends the process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::failure::Exit;

/// A token that is cancelled by the first signal.
pub(crate) fn watch() -> CancellationToken {
    let stop = CancellationToken::new();
    let token = stop.clone();
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("signals cannot be watched: this process can only be killed");
        return stop;
    };
    drop(tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
            _ = interrupt.recv() => tracing::info!("interrupted: draining; once more to stop at once"),
        }
        token.cancel();
        interrupt.recv().await;
        // Everything that was acknowledged is durable: this is a crash like any other.
        std::process::exit(Exit::Interrupted as i32);
    }));
    stop
}

/// Ends the process at once when Ctrl-C is pressed once more.
pub(crate) fn exit_on_next_interrupt() {
    drop(tokio::spawn(async {
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(Exit::Interrupted as i32);
        }
    }));
}
