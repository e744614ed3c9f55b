//! What an instance needs beside its row and log: its policy made ready, its contexts, a reducer's inputs.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use lru::LruCache;
use muster_shared::{
    agent::{Briefing, OutputForm},
    engine::{Input, ToolOffer},
    error::{AgentError, ErrorClass},
    gate::Gate,
    hash::Hash32,
    policy::Policy,
    store::{Claimed, Reads, StoreError},
};
use serde_json::Value;

/// Policies kept ready. A run has one or two.
const POLICIES: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// Contexts kept. They are shared by all instances of a run.
const CONTEXTS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// A policy made ready for use, once per content.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The policy.
    pub(crate) policy: Arc<Policy>,
    /// Its hash.
    pub(crate) hash: Hash32,
    /// The form of its answers.
    pub(crate) form: OutputForm,
    /// Its tools as models see them.
    pub(crate) offers: Vec<ToolOffer>,
}

/// Why an instance cannot be driven.
#[derive(Debug)]
pub(crate) enum BriefingError {
    /// The store is away: another time.
    Later(StoreError),
    /// It never can: fail it.
    Never(AgentError),
}

impl From<StoreError> for BriefingError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::Later(error),
            StoreError::NotFound(_)
            | StoreError::Conflict(_)
            | StoreError::KeyReused(_)
            | StoreError::Refused(_)
            | StoreError::Schema(_)
            | StoreError::Corrupt(_) => Self::Never(AgentError::new(ErrorClass::Internal, "unreadable", error.to_string())),
        }
    }
}

/// Reads content by hash, and keeps what is read often.
pub(crate) struct Library {
    gate: Gate,
    policies: Mutex<LruCache<Hash32, Arc<Prepared>>>,
    contexts: Mutex<LruCache<Hash32, Arc<Value>>>,
}

impl Library {
    pub(crate) fn new(gate: Gate) -> Self {
        Self { gate, policies: Mutex::new(LruCache::new(POLICIES)), contexts: Mutex::new(LruCache::new(CONTEXTS)) }
    }

    /// The policy of an instance.
    pub(crate) async fn policy(&self, store: &(impl Reads + ?Sized), hash: Hash32) -> Result<Arc<Prepared>, BriefingError> {
        if let Some(prepared) = self.policies.lock().unwrap_or_else(PoisonError::into_inner).get(&hash) {
            return Ok(prepared.clone());
        }
        let bytes = blob(store, hash).await?;
        let policy: Policy = serde_json::from_slice(&bytes).map_err(|error| unreadable("policy", hash, &error))?;
        let form = OutputForm::new(&policy.output).map_err(BriefingError::Never)?;
        let specs = self.gate.toolbox().specs();
        let offers = policy
            .tools
            .iter()
            .filter_map(|name| specs.get(name))
            .map(|spec| ToolOffer {
                name: spec.name.clone(),
                description: spec.description.clone(),
                input_schema: spec.input_schema.clone(),
            })
            .collect();
        let prepared = Arc::new(Prepared { policy: Arc::new(policy), hash, form, offers });
        self.policies.lock().unwrap_or_else(PoisonError::into_inner).put(hash, prepared.clone());
        Ok(prepared)
    }

    /// The immutable beginning of an instance's conversation.
    pub(crate) async fn briefing(&self, store: &(impl Reads + ?Sized), claimed: &Claimed) -> Result<Briefing, BriefingError> {
        Ok(Briefing {
            task: claimed.task.clone(),
            role: claimed.role.clone(),
            shared_context: self.context(store, claimed.group.context).await?,
            context: self.context(store, claimed.context).await?,
            inputs: if claimed.place.level == 0 { None } else { Some(inputs(store, claimed).await?) },
        })
    }

    async fn context(&self, store: &(impl Reads + ?Sized), hash: Option<Hash32>) -> Result<Option<Arc<Value>>, BriefingError> {
        let Some(hash) = hash else { return Ok(None) };
        if let Some(value) = self.contexts.lock().unwrap_or_else(PoisonError::into_inner).get(&hash) {
            return Ok(Some(value.clone()));
        }
        let bytes = blob(store, hash).await?;
        let value: Arc<Value> =
            serde_json::from_slice::<Value>(&bytes).map(Arc::new).map_err(|error| unreadable("context", hash, &error))?;
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner).put(hash, value.clone());
        Ok(Some(value))
    }
}

/// The outputs that a reducer folds, in the order of its children. Those that failed are left out.
async fn inputs(store: &(impl Reads + ?Sized), claimed: &Claimed) -> Result<Vec<Input>, BriefingError> {
    let places = claimed.group.tree.inputs(claimed.place);
    let mut outputs = store.outputs(claimed.lease.run, claimed.group.id, &places).await?;
    outputs.sort_by_key(|output| places.iter().position(|place| *place == output.place));
    outputs
        .into_iter()
        .map(|output| {
            let value = serde_json::from_str(&output.output).map_err(|error| {
                BriefingError::Never(AgentError::new(ErrorClass::Internal, "unreadable", format!("output of {}: {error}", output.instance)))
            })?;
            let name = if output.name.is_empty() { unnamed(output.place) } else { output.name };
            Ok(Input { from: output.instance, name, output: value })
        })
        .collect()
}

/// A name for what has none. It must not contain ids: the same run again gives the same answer.
fn unnamed(place: muster_shared::reduce::Place) -> String {
    if place.level == 0 { format!("task {}", place.index + 1) } else { format!("part {}.{}", place.level, place.index + 1) }
}

async fn blob(store: &(impl Reads + ?Sized), hash: Hash32) -> Result<Vec<u8>, BriefingError> {
    let mut found = store.blobs(&[hash]).await?;
    found
        .remove(&hash)
        .ok_or_else(|| BriefingError::Never(AgentError::new(ErrorClass::Internal, "unreadable", format!("there is no content {hash}"))))
}

fn unreadable(what: &str, hash: Hash32, error: &serde_json::Error) -> BriefingError {
    BriefingError::Never(AgentError::new(ErrorClass::Internal, "unreadable", format!("{what} {hash}: {error}")))
}
