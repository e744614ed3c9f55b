//! Waiting at the start for what is down, and saying what is waited for.

use std::time::Duration;

use muster_shared::store::StoreError;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// Before the second try; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Between two tries at most.
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// A try that takes longer is said while it lasts.
const SILENCE: Duration = Duration::from_secs(1);

/// Why there is nothing yet.
#[derive(Debug)]
pub(crate) enum Pause {
    /// It is down: try again.
    Again(String),
    /// It will never be there.
    Final(Failure),
}

/// What an error of the store means for waiting. A wrong schema does not become right by itself.
pub(crate) fn store(error: StoreError) -> Pause {
    match error {
        StoreError::Unavailable(why) => Pause::Again(why),
        StoreError::Schema(why) => Pause::Final(Failure::usage(format!("{why}. `muster migrate` brings an older schema up to date"))),
        other @ (StoreError::NotFound(_)
        | StoreError::Conflict(_)
        | StoreError::KeyReused(_)
        | StoreError::Refused(_)
        | StoreError::Corrupt(_)) => Pause::Final(other.into()),
    }
}

/// Tries until it is there. `None` when the process is told to stop meanwhile.
pub(crate) async fn until_there<T, F>(what: &str, stop: &CancellationToken, attempt: impl Fn() -> F) -> Result<Option<T>, Failure>
where
    F: Future<Output = Result<T, Pause>>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        let outcome = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            outcome = said_while_it_takes(what, attempt()) => outcome,
        };
        match outcome {
            Ok(there) => return Ok(Some(there)),
            Err(Pause::Final(failure)) => return Err(failure),
            Err(Pause::Again(why)) => {
                tracing::warn!(retry_ms = pause.as_millis(), "waiting for {what}: {why}");
            }
        }
        if tokio::time::timeout(pause, stop.cancelled()).await.is_ok() {
            return Ok(None);
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Drivers try for a while by themselves: whoever looks at the log shall not wonder.
async fn said_while_it_takes<T>(what: &str, attempt: impl Future<Output = T>) -> T {
    tokio::pin!(attempt);
    match tokio::time::timeout(SILENCE, &mut attempt).await {
        Ok(outcome) => outcome,
        Err(_still_trying) => {
            tracing::warn!("waiting for {what}");
            attempt.await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_down_is_waited_for_and_what_is_wrong_is_not() {
        let (tries, stop) = (AtomicU32::new(0), CancellationToken::new());
        let there = until_there("x", &stop, || async {
            if tries.fetch_add(1, Ordering::SeqCst) < 6 { Err(store(StoreError::Unavailable("down".to_owned()))) } else { Ok(7) }
        });
        let began = tokio::time::Instant::now();
        assert_eq!(there.await.unwrap(), Some(7));
        assert_eq!(began.elapsed().as_millis(), 500 + 1000 + 2000 + 4000 + 5000 + 5000);
        let wrong = until_there::<(), _>("x", &stop, || async { Err(store(StoreError::Schema("schema 9".to_owned()))) });
        assert!(wrong.await.unwrap_err().message.contains("schema 9"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_the_wait() {
        let stop = CancellationToken::new();
        let waiting = until_there::<(), _>("x", &stop, || async {
            stop.cancel();
            Err(Pause::Again("down".to_owned()))
        });
        assert_eq!(waiting.await.unwrap(), None);
    }
}
