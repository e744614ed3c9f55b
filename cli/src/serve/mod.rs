//! The servers: `dev`, `api`, `worker`, `migrate`. Here the implementations meet the traits.

pub(crate) mod backbone;
pub(crate) mod signals;
pub(crate) mod wait;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use metrics_exporter_prometheus::PrometheusHandle;
use muster_api::{ApiLimits, ApiState, HealthState, MetricsRender};
use muster_control::{Control, ControlSettings};
use muster_shared::{
    gate::Gate,
    ids::{Incarnation, TeamId},
    store::StoreError,
    time::{SystemClock, SystemRandom},
};
use muster_worker::{Drained, Parts, Worker, WorkerSettings};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, DEFAULT_LISTEN},
    embed::{Embedded, Work},
    failure::Failure,
    output,
    telemetry::{self, Telemetry},
};

use backbone::Backbone;

/// The data directory of `muster dev`.
pub(crate) const DEV_DATA: &str = ".muster";

/// What every command of this process shares.
pub(crate) struct Context {
    /// The settings.
    pub(crate) config: Config,
    /// Renders the metrics.
    pub(crate) render: MetricsRender,
    /// The metrics themselves.
    pub(crate) metrics: PrometheusHandle,
}

impl Context {
    /// Keeps the metrics small until `stop`.
    pub(crate) fn keep_metrics_small(&self, stop: &CancellationToken) {
        // Detached: it ends with `stop`, and loses nothing when it ends earlier.
        drop(tokio::spawn(Telemetry::upkeep(self.metrics.clone(), stop.clone())));
    }
}

/// `muster dev`: the whole fleet in this process, until a signal.
pub(crate) async fn dev(context: &Context) -> Result<(), Failure> {
    let stop = signals::watch();
    let data = context.config.data.clone().unwrap_or_else(|| PathBuf::from(DEV_DATA));
    let listen = context.config.listen.as_deref().unwrap_or(DEFAULT_LISTEN);
    let fleet = Embedded::start(context, &data, listen, Work::Done).await?;
    let url = fleet.url();
    output::say(format!("listening on {url}"));
    let flags = if url == crate::config::DEFAULT_URL { String::new() } else { format!(" --url {url}") };
    output::say(format!(
        "\nThe data is in {}. Try, in another terminal:\n  {muster} agent list{flags}\n  {muster} run examples/summarize.yaml{flags}\n  \
         curl -s {url}/v1/openapi.json\nCtrl-C drains and stops; pressed twice it stops at once.",
        data.display(),
        muster = crate::program::name(),
    ));
    stop.cancelled().await;
    fleet.stop().await;
    Ok(())
}

/// `muster api`: the HTTP API beside Postgres and Redis, until a signal.
pub(crate) async fn api(context: &Context) -> Result<(), Failure> {
    let stop = signals::watch();
    // The port is taken first, so that a wrong one is said before anything is waited for.
    let (listener, address) = listen(context.config.listen.as_deref().unwrap_or(DEFAULT_LISTEN)).await?;
    let Some(backbone) = Backbone::fleet(&context.config, &stop).await? else { return Ok(()) };
    backbone.install_presets(&context.config).await?;
    context.keep_metrics_small(&stop);
    let control = tokio::spawn(control(&backbone, &context.config).run(stop.clone()));
    output::say(format!("listening on http://{address}"));
    let served = muster_api::serve(listener, api_state(&backbone, context), stop.clone()).await;
    stop.cancel();
    joined(control.await, "housekeeping");
    served.map_err(|error| Failure::failed(format!("the API stopped: {error}")))
}

/// `muster worker`: works beside Postgres and Redis until a signal, then drains.
pub(crate) async fn worker(context: &Context) -> Result<(), Failure> {
    let stop = signals::watch();
    let listener = match context.config.listen.as_deref() {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let Some(backbone) = Backbone::fleet(&context.config, &stop).await? else { return Ok(()) };
    context.keep_metrics_small(&stop);
    let control = tokio::spawn(control(&backbone, &context.config).run(stop.clone()));
    let health = listener.map(|(listener, address)| {
        output::say(format!("listening on http://{address}"));
        let router = muster_api::health_router(HealthState { store: backbone.store.clone(), metrics: context.render.clone() });
        // It ends when the drain begins: a worker that drains is not ready.
        tokio::spawn(muster_api::serve_router(listener, router, ApiLimits::default().shutdown_grace, stop.clone()))
    });
    let drained = run_worker(&backbone, &context.config, stop.clone()).await;
    stop.cancel();
    joined(control.await, "housekeeping");
    if let Some(health) = health {
        joined(health.await, "health and metrics");
    }
    backbone.journal.close().await;
    say_drained(drained);
    Ok(())
}

/// `muster migrate`: waits for the database, then brings its schema up to date.
pub(crate) async fn migrate(context: &Context) -> Result<(), Failure> {
    let stop = signals::watch();
    let url = context.config.database_url.as_ref().ok_or_else(backbone::no_database)?;
    let migrate = || async { muster_store::migrate(url.expose()).await.map_err(wait::store) };
    if wait::until_there(&format!("the database at {url}"), &stop, migrate).await?.is_some() {
        output::say(format!("the database at {url} has the schema of muster {}", env!("CARGO_PKG_VERSION")));
    }
    Ok(())
}

/// Takes a port.
pub(crate) async fn listen(address: &str) -> Result<(TcpListener, SocketAddr), Failure> {
    let taken = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, address))
    };
    taken.await.map_err(|error| Failure::usage(format!("cannot listen on {address}: {error}; --listen 127.0.0.1:0 takes any free port")))
}

/// The housekeeping of this process.
pub(crate) fn control(backbone: &Backbone, config: &Config) -> Control {
    let holder = Incarnation::new(&SystemClock, &SystemRandom);
    let settings = ControlSettings { lease_ttl: config.lease_ttl, ..ControlSettings::default() };
    Control::new(backbone.store.clone(), backbone.queue.clone(), holder, settings)
}

/// What the API is made of.
pub(crate) fn api_state(backbone: &Backbone, context: &Context) -> ApiState {
    ApiState {
        store: backbone.store.clone(),
        spawner: backbone.spawner(),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        metrics: context.render.clone(),
        trace_context: telemetry::trace_context,
        set_parent: telemetry::set_parent,
        limits: ApiLimits::default(),
    }
}

/// Works until `stop`, then drains.
pub(crate) async fn run_worker(backbone: &Backbone, config: &Config, stop: CancellationToken) -> Drained {
    let parts = Parts {
        store: backbone.store.clone(),
        journal: backbone.journal.clone(),
        queue: backbone.queue.clone(),
        engine: backbone.engine.clone(),
        gate: Gate::new(backbone.tools.clone()),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        set_parent: telemetry::set_parent,
    };
    let settings = WorkerSettings {
        name: worker_name(),
        concurrency: config.concurrency,
        lease_ttl: config.lease_ttl,
        heartbeat: config.heartbeat,
        grace: config.grace,
    };
    Worker::new(parts, settings).run(backbone.intake.clone(), stop).await
}

/// For people: host and process.
fn worker_name() -> String {
    let host = std::env::var("HOSTNAME").or_else(|_| std::fs::read_to_string("/proc/sys/kernel/hostname")).ok();
    format!("{}/{}", host.as_deref().map_or("localhost", str::trim), std::process::id())
}

/// What a drain left behind, if it left anything.
pub(crate) fn say_drained(drained: Drained) {
    if drained.abandoned > 0 {
        let abandoned = drained.abandoned;
        tracing::warn!(abandoned, "the grace period ended with calls in progress: they are made again elsewhere");
    }
}

/// A task that panicked was a fault in Muster: said, and the rest still ends in order.
pub(crate) fn joined<T>(outcome: Result<T, tokio::task::JoinError>, what: &str) {
    if let Err(error) = outcome {
        tracing::error!(%error, "{what} failed");
    }
}

/// Presets that are not there yet are stored; what an operator has made of them stays.
pub(crate) async fn is_missing(backbone: &Backbone, name: &str) -> Result<bool, Failure> {
    let selector = name.parse().map_err(Failure::usage)?;
    match backbone.store.template(TeamId::DEFAULT, &selector).await {
        Ok(_) => Ok(false),
        Err(StoreError::NotFound(_)) => Ok(true),
        Err(other) => Err(other.into()),
    }
}

/// Makes a data directory that only this user can read.
pub(crate) fn make_private(folder: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| Failure::file(folder, error))
}
