//! A gate before a registry, and a policy that allows what a test names.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use muster_shared::{
    engine::{OutputSpec, ToolCall},
    gate::Gate,
    hash::Hash32,
    ids::{Incarnation, InstanceId, RunId, TemplateId},
    policy::{Policy, TemplateRef},
    store::{Lease, StoreError},
    template::{ContextPolicy, Limits, Mode, ModelParams, RetryPolicy, Summarization, ToolFailure},
    tool::{KeyValue, ToolError, Toolbox as _},
};
use muster_tools::{ArtifactRoots, Registry};
use serde_json::Value;
use tokio::sync::Mutex;
use uuid::Uuid;

/// A policy that allows every tool of the registry.
pub(crate) fn policy(registry: &Registry) -> Arc<Policy> {
    Arc::new(Policy {
        template: TemplateRef { id: TemplateId(Uuid::from_u128(1)), name: "tester".to_owned(), version: 1 },
        template_hash: Hash32::ZERO,
        objective: String::new(),
        system_prompt: String::new(),
        models: vec!["offline/script".to_owned()],
        model_params: ModelParams::default(),
        tools: registry.specs().keys().cloned().collect(),
        mode: Mode::MultiStep,
        max_steps: 10,
        context: ContextPolicy::default(),
        summarization: Summarization::default(),
        output: OutputSpec::Text,
        limits: Limits::default(),
        retry: RetryPolicy::default(),
        tool_failure: ToolFailure::default(),
        child_templates: Vec::new(),
    })
}

pub(crate) fn lease(run: u128, instance: u128) -> Lease {
    Lease {
        run: RunId(Uuid::from_u128(run)),
        instance: InstanceId(Uuid::from_u128(instance)),
        epoch: 1,
        worker: Incarnation(Uuid::from_u128(9)),
    }
}

/// Tools behind their gate.
pub(crate) struct Fixture {
    gate: Gate,
    policy: Arc<Policy>,
}

impl Fixture {
    pub(crate) fn new(registry: Registry) -> Self {
        let policy = policy(&registry);
        Self { gate: Gate::new(Arc::new(registry)), policy }
    }

    pub(crate) fn builtin(roots: Option<ArtifactRoots>) -> Self {
        Self::new(Registry::builtin(roots, Arc::new(Memory::default())))
    }

    /// Asks the gate, then calls the tool, as a worker does.
    pub(crate) async fn call(&self, lease: Lease, tool: &str, arguments: Value) -> Result<Value, ToolError> {
        let call = ToolCall { id: "call-1".to_owned(), name: tool.to_owned(), arguments };
        let permit =
            self.gate.permit(&self.policy, self.policy.hash(), &call, lease, 0, 1).expect("the policy allows every registered tool");
        self.gate.toolbox().execute(permit).await
    }

    /// The code of the error that the call must end with.
    pub(crate) async fn code(&self, tool: &str, arguments: Value) -> String {
        let shown = arguments.to_string();
        match self.call(lease(1, 1), tool, arguments).await {
            Err(failure) => failure.error.code,
            Ok(value) => panic!("{tool} {shown} answered {value}"),
        }
    }
}

/// The contract of [`KeyValue`] in memory. The real ones are behind the store, and their tests are there.
#[derive(Default)]
pub(crate) struct Memory(Mutex<BTreeMap<(InstanceId, String), Value>>);

#[async_trait]
impl KeyValue for Memory {
    async fn kv_get(&self, instance: InstanceId, key: &str) -> Result<Option<Value>, StoreError> {
        if key == "unreachable" {
            return Err(StoreError::Unavailable("password=hunter2 host=db".to_owned()));
        }
        Ok(self.0.lock().await.get(&(instance, key.to_owned())).cloned())
    }

    async fn kv_put(&self, instance: InstanceId, key: &str, value: &Value) -> Result<(), StoreError> {
        self.0.lock().await.insert((instance, key.to_owned()), value.clone());
        Ok(())
    }

    async fn kv_keys(&self, instance: InstanceId) -> Result<Vec<String>, StoreError> {
        Ok(self.0.lock().await.keys().filter(|(owner, _)| *owner == instance).map(|(_, key)| key.clone()).collect())
    }
}
