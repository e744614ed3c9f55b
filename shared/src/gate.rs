//! The hard gate. Every tool call of every kind passes here, outside the model; only what passes gets a
//! [`Permit`], and only a permit reaches a tool.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    engine::ToolCall,
    error::{AgentError, ErrorClass},
    hash::Hash32,
    policy::Policy,
    store::Lease,
    tool::{ToolSpec, Toolbox},
};

/// Leave to make one tool call, under one lease. It cannot be made outside this module, copied or kept.
#[derive(Debug)]
pub struct Permit {
    spec: Arc<ToolSpec>,
    arguments: Value,
    lease: Lease,
    idempotency_key: String,
    policy: Hash32,
}

impl Permit {
    /// The permitted tool.
    pub fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    /// The permitted arguments.
    pub fn arguments(&self) -> &Value {
        &self.arguments
    }

    /// Under whose lease. The epoch travels with every effect.
    pub fn lease(&self) -> Lease {
        self.lease
    }

    /// The same for every attempt at this call.
    pub fn idempotency_key(&self) -> &str {
        &self.idempotency_key
    }

    /// The policy that permits it.
    pub fn policy(&self) -> Hash32 {
        self.policy
    }
}

/// The gate of one process: it knows which tools exist.
#[derive(Clone)]
pub struct Gate {
    toolbox: Arc<dyn Toolbox>,
}

impl Gate {
    /// A gate before these tools.
    pub fn new(toolbox: Arc<dyn Toolbox>) -> Self {
        Self { toolbox }
    }

    /// Decides about one call. The refusal is an error of class [`ErrorClass::Permission`] (never retried), or
    /// [`ErrorClass::Budget`] when the policy's number of tool calls is used up.
    ///
    /// `made` counts the tool calls that the instance has made; `seq` is the position that the result will
    /// have in the log, which makes the idempotency key.
    pub fn permit(
        &self,
        policy: &Arc<Policy>,
        policy_hash: Hash32,
        call: &ToolCall,
        lease: Lease,
        made: u32,
        seq: i64,
    ) -> Result<Permit, AgentError> {
        if policy.tools.binary_search(&call.name).is_err() {
            return Err(AgentError::new(
                ErrorClass::Permission,
                "tool_not_allowed",
                format!("the policy of {} does not allow the tool `{}`; allowed: {}", policy.template, call.name, list(&policy.tools)),
            ));
        }
        let limit = policy.limits.max_tool_calls;
        if made >= limit {
            return Err(AgentError::new(
                ErrorClass::Budget,
                "max_tool_calls",
                format!("limit max_tool_calls = {limit}, set by {}: {made} tool calls were made", policy.template),
            ));
        }
        let spec = self.toolbox.specs().get(&call.name).cloned().ok_or_else(|| {
            AgentError::new(ErrorClass::Permission, "tool_not_available", format!("this worker has no tool `{}`", call.name))
        })?;
        Ok(Permit {
            spec,
            arguments: call.arguments.clone(),
            lease,
            idempotency_key: format!("{}/{seq}", lease.instance),
            policy: policy_hash,
        })
    }

    /// The tools behind the gate.
    pub fn toolbox(&self) -> &dyn Toolbox {
        &*self.toolbox
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use async_trait::async_trait;
    use serde_json::json;

    use super::*;
    use crate::{
        catalog::TemplateVersion,
        ids::{Incarnation, InstanceId, RunId, TemplateId},
        policy::{Overrides, compile},
        template::Template,
        time::Timestamp,
        tool::{Effect, ToolError},
    };

    /// Declarations are enough here: the gate decides before anything is executed.
    struct Declared(BTreeMap<String, Arc<ToolSpec>>);

    #[async_trait]
    impl Toolbox for Declared {
        fn specs(&self) -> &BTreeMap<String, Arc<ToolSpec>> {
            &self.0
        }

        async fn execute(&self, permit: Permit) -> Result<Value, ToolError> {
            Ok(permit.arguments().clone())
        }
    }

    fn gate() -> Gate {
        let spec = |name: &str| ToolSpec {
            name: name.to_owned(),
            description: String::new(),
            input_schema: json!({}),
            output_schema: json!({}),
            timeout_ms: 1,
            effect: Effect::Pure,
        };
        Gate::new(Arc::new(Declared(["look", "burn"].into_iter().map(|name| (name.to_owned(), Arc::new(spec(name)))).collect())))
    }

    fn policy() -> Arc<Policy> {
        let json =
            json!({ "name": "t", "models": ["m"], "mode": "multi_step", "tools": ["look", "gone"], "limits": { "max_tool_calls": 2 } });
        let spec = Template::parse(&json).expect("valid");
        let (id, hash) = (TemplateId(uuid::Uuid::nil()), spec.hash());
        let version = TemplateVersion { id, version: 1, spec, hash, active: true, created_at: Timestamp::default() };
        Arc::new(compile(&version, &Overrides::default()).expect("valid"))
    }

    fn ask(tool: &str, made: u32) -> Result<Permit, AgentError> {
        let nil = uuid::Uuid::nil();
        let lease = Lease { run: RunId(nil), instance: InstanceId(nil), epoch: 3, worker: Incarnation(nil) };
        let call = ToolCall { id: "c".to_owned(), name: tool.to_owned(), arguments: json!({ "a": 1 }) };
        gate().permit(&policy(), Hash32::ZERO, &call, lease, made, 7)
    }

    #[test]
    fn an_allowed_call_gets_a_permit_that_carries_lease_and_key() {
        let permit = ask("look", 0).expect("allowed");
        assert_eq!((permit.spec().name.as_str(), permit.lease().epoch, permit.arguments()), ("look", 3, &json!({ "a": 1 })));
        assert!(permit.idempotency_key().ends_with("/7"));
    }

    #[test]
    fn what_the_policy_does_not_name_is_refused_even_when_the_tool_exists() {
        let error = ask("burn", 0).expect_err("refused");
        assert_eq!((error.class, error.code.as_str()), (ErrorClass::Permission, "tool_not_allowed"));
        assert!(error.message.contains("allowed: gone, look"), "{}", error.message);
    }

    #[test]
    fn a_tool_that_this_worker_lacks_is_refused() {
        assert_eq!(ask("gone", 0).expect_err("refused").code, "tool_not_available");
    }

    #[test]
    fn tool_calls_are_counted_against_the_policy() {
        assert!(ask("look", 1).is_ok());
        let error = ask("look", 2).expect_err("refused");
        assert_eq!((error.class, error.code.as_str()), (ErrorClass::Budget, "max_tool_calls"));
    }
}
