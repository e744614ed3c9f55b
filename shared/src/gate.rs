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
    tool::{Toolbox, ToolSpec},
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
    pub fn permit(&self, policy: &Arc<Policy>, policy_hash: Hash32, call: &ToolCall, lease: Lease, made: u32, seq: i64) -> Result<Permit, AgentError> {
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
