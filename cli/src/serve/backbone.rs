//! Store, journal, queue, models and tools of one process, wired for one of the two ways to run.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use muster_control::{SpawnError, Spawner};
use muster_engine::Router;
use muster_queue::{MemoryQueue, RedisQueue};
use muster_shared::{
    engine::Engine,
    ids::TeamId,
    queue::{Intake, ReadyQueue},
    store::Store,
    template,
    time::{SystemClock, SystemRandom},
    tool::Toolbox,
};
use muster_store::{GroupCommit, GroupCommitOptions};
use muster_tools::{ArtifactRoots, Registry};
use tokio_util::sync::CancellationToken;

use super::{is_missing, make_private, wait};
use crate::{address::Address, config::Config, failure::Failure};

/// The file of an embedded fleet in its data directory.
const DATABASE_FILE: &str = "muster.db";

/// What everything else stands on.
pub(crate) struct Backbone {
    /// The truth.
    pub(crate) store: Arc<dyn Store>,
    /// Its front for steps, which commits them together.
    pub(crate) journal: Arc<GroupCommit>,
    /// The hint, on the side of dispatch.
    pub(crate) queue: Arc<dyn ReadyQueue>,
    /// The hint, on the side of workers.
    pub(crate) intake: Arc<dyn Intake>,
    /// The models.
    pub(crate) engine: Arc<Router>,
    /// The tools.
    pub(crate) tools: Arc<dyn Toolbox>,
}

/// Why there is nothing to connect to.
pub(crate) fn no_database() -> Failure {
    Failure::usage("no database is configured: set MUSTER_DATABASE_URL (postgres://…), or use `muster dev`, which brings its own")
}

impl Backbone {
    /// Beside Postgres and Redis, once they are there. `None` when the process is told to stop before that.
    pub(crate) async fn fleet(config: &Config, stop: &CancellationToken) -> Result<Option<Self>, Failure> {
        let database = config.database_url.as_ref().ok_or_else(no_database)?;
        let redis = config.redis_url.as_ref().ok_or_else(|| Failure::usage("no Redis is configured: set MUSTER_REDIS_URL (redis://…)"))?;
        let engine = engine(config)?;
        let Some(queue) = connect_queue(redis, &config.redis_prefix, stop).await? else { return Ok(None) };
        let open = || async { muster_store::open(database.expose()).await.map_err(wait::store) };
        let Some(store) = wait::until_there(&format!("the database at {database}"), stop, open).await? else { return Ok(None) };
        let check = || async { store.check().await.map_err(wait::store) };
        if wait::until_there(&format!("the database at {database}"), stop, check).await?.is_none() {
            return Ok(None);
        }
        let tools = tools(config, None, &store)?;
        Ok(Some(Self { journal: journal(&store), queue: Arc::new(queue.clone()), intake: Arc::new(queue), engine, tools, store }))
    }

    /// In this process alone, on a SQLite file in `data`.
    pub(crate) async fn embedded(config: &Config, data: &Path) -> Result<Self, Failure> {
        let engine = engine(config)?;
        make_private(data)?;
        let file = data.join(DATABASE_FILE);
        let path = file.to_str().ok_or_else(|| Failure::file(&file, "the path of a database must be UTF-8"))?;
        let url = format!("sqlite:{path}");
        muster_store::migrate(&url).await?;
        let store = muster_store::open(&url).await?;
        let queue = MemoryQueue::new();
        let tools = tools(config, Some(data), &store)?;
        Ok(Self { journal: journal(&store), queue: Arc::new(queue.clone()), intake: Arc::new(queue), engine, tools, store })
    }

    /// Admits templates, runs and cancellations.
    pub(crate) fn spawner(&self) -> Spawner {
        let engine: Arc<dyn Engine> = self.engine.clone();
        Spawner::new(self.store.clone(), self.queue.clone(), engine, self.tools.clone(), Arc::new(SystemClock), Arc::new(SystemRandom))
    }

    /// Stores the presets that are not there yet. One whose tools this process has not is left out.
    pub(crate) async fn install_presets(&self, config: &Config) -> Result<(), Failure> {
        let spawner = self.spawner();
        for preset in template::presets_for(config.engine.default_model()) {
            if !is_missing(self, &preset.name).await? {
                continue;
            }
            let json = serde_json::to_value(&preset)
                .map_err(|error| Failure::failed(format!("the preset {} is unusable: {error}", preset.name)))?;
            match spawner.put_template(TeamId::DEFAULT, json, true).await {
                Ok(version) => tracing::debug!(template = %version.reference(), "preset installed"),
                Err(SpawnError::Invalid(faults)) => tracing::info!(preset = preset.name, %faults, "a preset is left out"),
                Err(SpawnError::Store(error)) => return Err(error.into()),
                Err(SpawnError::UnknownTemplate(what)) => return Err(Failure::failed(what)),
            }
        }
        Ok(())
    }
}

fn engine(config: &Config) -> Result<Arc<Router>, Failure> {
    Router::from_config(&config.engine).map(Arc::new).map_err(|faults| Failure::faulty("the configuration of the models", faults))
}

fn journal(store: &Arc<dyn Store>) -> Arc<GroupCommit> {
    Arc::new(GroupCommit::new(store.clone(), GroupCommitOptions::default()))
}

/// The tools. Files can be read where a folder for it is configured; an embedded fleet reads the working directory.
fn tools(config: &Config, data: Option<&Path>, store: &Arc<dyn Store>) -> Result<Arc<dyn Toolbox>, Failure> {
    let read = config.artifacts_read.clone().or_else(|| data.map(|_| PathBuf::from(".")));
    let write = config.artifacts_write.clone().or_else(|| Some(data?.join("artifacts")));
    let roots = match (read, write) {
        (Some(read), Some(write)) => Some(ArtifactRoots { read, write }),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            return Err(Failure::usage("set both of MUSTER_ARTIFACTS_READ and MUSTER_ARTIFACTS_WRITE, or neither"));
        }
    };
    if let Some(roots) = roots.as_ref().filter(|roots| !roots.read.is_dir()) {
        return Err(Failure::usage(format!("artifacts_read is {}, and that is no folder", roots.read.display())));
    }
    let kv = store.clone();
    Ok(Arc::new(Registry::builtin(roots, kv)))
}

async fn connect_queue(url: &Address, prefix: &str, stop: &CancellationToken) -> Result<Option<RedisQueue>, Failure> {
    let queue = RedisQueue::connect(url.expose(), prefix)
        .map_err(|error| Failure::usage(format!("redis_url or redis_prefix is not valid: {error}")))?;
    let ask = || async { queue.depth().await.map_err(|error| wait::Pause::Again(error.to_string())) };
    Ok(wait::until_there(&format!("Redis at {url}"), stop, ask).await?.map(|_| queue.clone()))
}
