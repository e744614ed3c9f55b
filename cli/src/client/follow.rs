//! Following a run to its end.

use std::time::Duration;

use muster_shared::{
    ids::RunId,
    wire::{RunResult, RunStatus, RunView},
};
use tokio::time::Instant;

use crate::{
    client::{Link, http::Client},
    failure::{Exit, Failure},
    progress::Progress,
    serve::signals,
};

/// Between two looks at a run: short at first, so that short runs end at once.
const FIRST_POLL: Duration = Duration::from_millis(50);
const LAST_POLL: Duration = Duration::from_millis(500);

/// A server may be away for this long while a run is followed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Follows until the run ends, or until Ctrl-C; the run itself goes on in that case.
pub(crate) async fn follow(link: &Link, run: RunId) -> Result<RunView, Failure> {
    let mut progress = Progress::start();
    let ended = tokio::select! {
        ended = to_its_end(&link.client, run, &mut progress) => ended,
        _ = tokio::signal::ctrl_c() => {
            // A fleet in this process drains first.
            signals::exit_on_next_interrupt();
            Err(Failure::interrupted(format!(
                "no longer following; nothing is lost. Go on: muster run watch {run}{flags}   Cancel: muster run cancel {run}{flags}",
                flags = link.flags
            )))
        }
    };
    progress.finish();
    ended
}

async fn to_its_end(client: &Client, run: RunId, progress: &mut Progress) -> Result<RunView, Failure> {
    let path = format!("/v1/runs/{run}");
    let mut pause = FIRST_POLL;
    let mut away_since: Option<Instant> = None;
    loop {
        match client.get::<RunView>(&path).await {
            Ok(view) => {
                away_since = None;
                progress.show(&view);
                if view.status.is_terminal() {
                    return Ok(view);
                }
            }
            Err(failure) if failure.exit == Exit::Unreachable => {
                let since = *away_since.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    return Err(failure);
                }
                progress.trouble("the server is away; the run is safe there, trying again");
            }
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 5 / 4).min(LAST_POLL);
    }
}

/// The answer of a run that has ended; a failure that says why if it has none.
pub(crate) async fn answer(link: &Link, run: &RunView) -> Result<RunResult, Failure> {
    let why = || run.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    let (id, flags) = (run.id, &link.flags);
    match run.status {
        RunStatus::Completed => link.client.get(&format!("/v1/runs/{id}/result")).await,
        RunStatus::Failed => Err(Failure::failed(format!("{id} failed{}. Look at it: muster run show {id} --instances{flags}", why()))),
        RunStatus::Timeout => Err(Failure::failed(format!("{id} ran out of time{}", why()))),
        RunStatus::Cancelled => Err(Failure::failed(format!("{id} was cancelled{}", why()))),
        RunStatus::Running | RunStatus::Cancelling => {
            Err(Failure::failed(format!("{id} is still {}. Follow it: muster run watch {id}{flags}", run.status.as_str())))
        }
    }
}
