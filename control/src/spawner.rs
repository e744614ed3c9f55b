//! Admission: from a request to a committed run, and its first dispatch.

use std::{collections::BTreeSet, sync::Arc};

use muster_shared::{
    catalog::{TemplateSelector, TemplateVersion},
    engine::Engine,
    error::{Fault, Faults},
    hash::Hash32,
    ids::{InstanceId, RunId, TeamId, TemplateId},
    policy::{Overrides, Policy, compile},
    queue::ReadyQueue,
    spawn::{self, Admission},
    store::{Cascade, Spawned, Store, StoreError},
    template::Template,
    time::{Clock, Random},
    tool::Toolbox,
    wire::{RunResult, SpawnRequest},
};
use serde_json::Value;

/// Instances that a cancellation ends before it answers; the control loop does the rest.
const CASCADE_AT_ONCE: i64 = 1000;

/// Why a request was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The request is wrong: every fault, by JSON pointer.
    #[error("{0}")]
    Invalid(Faults),
    /// No such template or version.
    #[error("{0}")]
    UnknownTemplate(String),
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What comes with a request beside its body.
#[derive(Debug, Clone, Default)]
pub struct SpawnMeta {
    /// Caller's key and the hash of the request.
    pub idempotency: Option<(String, Hash32)>,
    /// Trace context of the request.
    pub traceparent: Option<String>,
}

/// Admits templates, runs and cancellations. Cheap to clone.
#[derive(Clone)]
pub struct Spawner {
    store: Arc<dyn Store>,
    queue: Arc<dyn ReadyQueue>,
    engine: Arc<dyn Engine>,
    tools: Arc<dyn Toolbox>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl Spawner {
    /// A spawner over these parts.
    pub fn new(
        store: Arc<dyn Store>,
        queue: Arc<dyn ReadyQueue>,
        engine: Arc<dyn Engine>,
        tools: Arc<dyn Toolbox>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self { store, queue, engine, tools, clock, random }
    }

    /// Checks and stores a template version; the same content again stores nothing.
    pub async fn put_template(&self, team: TeamId, json: Value, activate: bool) -> Result<TemplateVersion, SpawnError> {
        let template = Template::parse(&json).map_err(SpawnError::Invalid)?;
        let tools: BTreeSet<String> = self.tools.specs().keys().cloned().collect();
        template.validate_known(&|model| self.engine.knows(model), &tools, &self.engine.models()).map_err(SpawnError::Invalid)?;
        let id = TemplateId::new(&*self.clock, &*self.random);
        Ok(self.store.put_template(team, id, &template, activate).await?)
    }

    /// Admits a request: compiles the policies, plans the rows, commits them, and makes them known. The answer
    /// comes after the commit: an acknowledged spawn is never lost (I1).
    pub async fn spawn(
        &self,
        team: TeamId,
        selector: &TemplateSelector,
        request: SpawnRequest,
        meta: SpawnMeta,
    ) -> Result<Spawned, SpawnError> {
        let policy = self.policy(team, selector, request.overrides.as_ref().unwrap_or(&Overrides::default())).await?;
        let reducer = match &request.reduce {
            None => None,
            Some(reduce) => Some(self.reducer(team, &reduce.agent).await?),
        };
        let admission =
            Admission { team, policy: &policy, reducer: reducer.as_ref(), idempotency: meta.idempotency, traceparent: meta.traceparent };
        let batch = spawn::plan(&request, admission, &*self.clock, &*self.random).map_err(SpawnError::Invalid)?;
        let spawned = self.store.spawn(batch).await?;
        self.make_known(&spawned).await;
        Ok(spawned)
    }

    /// Cancels a run: the flag is durable when this returns; what nobody holds has ended, or soon will.
    pub async fn cancel_run(&self, run: RunId, why: &str) -> Result<(), StoreError> {
        self.store.cancel_run(run, why).await?;
        if let Err(error) = self.store.cascade(CASCADE_AT_ONCE).await {
            // It is cancelled all the same: the control loop does the rest.
            tracing::warn!(%run, %error, "cancelled, but nothing of it could be ended yet");
        }
        Ok(())
    }

    /// Cancels one instance.
    pub async fn cancel_instance(&self, instance: InstanceId, why: &str) -> Result<Cascade, StoreError> {
        self.store.cancel_instance(instance, why).await
    }

    /// The answer of a run with its provenance, or `None` while it runs.
    pub async fn result(&self, team: TeamId, run: RunId) -> Result<Option<RunResult>, StoreError> {
        crate::result::result(&*self.store, team, run).await
    }

    async fn policy(&self, team: TeamId, selector: &TemplateSelector, overrides: &Overrides) -> Result<Policy, SpawnError> {
        let version = match self.store.template(team, selector).await {
            Ok(version) => version,
            Err(StoreError::NotFound(what)) => return Err(SpawnError::UnknownTemplate(format!("there is no {what}"))),
            Err(other) => return Err(other.into()),
        };
        compile(&version, overrides).map_err(SpawnError::Invalid)
    }

    async fn reducer(&self, team: TeamId, agent: &str) -> Result<Policy, SpawnError> {
        let at = "/reduce/agent";
        let selector = agent.parse().map_err(|why| SpawnError::Invalid(Faults(vec![Fault::new(at, why)])))?;
        match self.policy(team, &selector, &Overrides::default()).await {
            Err(SpawnError::UnknownTemplate(what)) => Err(SpawnError::Invalid(Faults(vec![Fault::new(at, what)]))),
            other => other,
        }
    }

    /// The queue is a hint: when it cannot be reached, the dispatcher finds the rows all the same.
    async fn make_known(&self, spawned: &Spawned) {
        let told = if spawned.ready.is_empty() { self.queue.nudge().await } else { self.queue.push(&spawned.ready).await };
        if let Err(error) = told {
            tracing::warn!(run = %spawned.run, %error, "spawned, but the ready list was not told; the dispatcher will find it");
        }
    }
}
