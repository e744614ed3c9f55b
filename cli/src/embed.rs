//! A whole fleet in this process: API, housekeeping and worker over a SQLite file and an in-process queue. The same
//! code as the servers, with other adapters; crash-safe too.

use std::path::{Path, PathBuf};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    failure::Failure,
    serve::{self, Context, backbone::Backbone},
};

/// Lets the operating system choose a port of the loopback.
pub(crate) const ANY_PORT: &str = "127.0.0.1:0";

/// The file in which a fleet says where it listens, for client commands with `--data`.
const ADDRESS_FILE: &str = "address";

/// Whether a fleet in this process works, or only answers questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Instances are driven.
    Done,
    /// Nothing changes but by request.
    LeftAlone,
}

/// A running fleet.
pub(crate) struct Embedded {
    url: String,
    address_file: PathBuf,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Embedded {
    /// Starts a fleet on a data directory, which no other process may hold.
    pub(crate) async fn start(context: &Context, data: &Path, listen: &str, work: Work) -> Result<Self, Failure> {
        let (listener, address) = serve::listen(listen).await?;
        let backbone = Backbone::embedded(&context.config, data).await?;
        backbone.install_presets(&context.config).await?;
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        context.keep_metrics_small(&stop);
        let state = serve::api_state(&backbone, context);
        let served = stop.clone();
        tasks.spawn(async move {
            if let Err(error) = muster_api::serve(listener, state, served).await {
                tracing::error!(%error, "the API stopped");
            }
        });
        match work {
            Work::LeftAlone => {}
            Work::Done => {
                tasks.spawn(serve::control(&backbone, &context.config).run(stop.clone()));
                tasks.spawn(worker(backbone, context.config.clone(), stop.clone()));
            }
        }
        let (url, address_file) = (format!("http://{address}"), data.join(ADDRESS_FILE));
        // Only a convenience: without it, --data cannot find this process.
        if let Err(error) = std::fs::write(&address_file, &url) {
            tracing::warn!(%error, "{} cannot be written", address_file.display());
        }
        Ok(Self { url, address_file, stop, tasks })
    }

    /// Where its API listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Drains and ends it. What is not finished goes on when a fleet is started on the same data again.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            serve::joined(ended, "a part of the fleet");
        }
        // Left over, it only costs a connection that is refused.
        drop(std::fs::remove_file(&self.address_file));
    }
}

async fn worker(backbone: Backbone, config: Config, stop: CancellationToken) {
    let drained = serve::run_worker(&backbone, &config, stop).await;
    backbone.journal.close().await;
    serve::say_drained(drained);
}

/// Where the fleet of a data directory listens, or did before it was killed.
pub(crate) fn address_of(data: &Path) -> Option<String> {
    std::fs::read_to_string(data.join(ADDRESS_FILE)).ok()
}
