//! The subset relation between policies and templates (I12), written without a look at the compiler, so that one can
//! convict the other.

use super::Policy;
use crate::template::{Limits, ModelParams, RetryPolicy, Template};

impl Policy {
    /// Whether this policy permits nothing that `template` does not: what can be narrowed is at most the template's, all
    /// the rest is equal.
    pub fn is_within(&self, template: &Template) -> bool {
        // Taken apart without `..`, so that a new field of either has to be decided about here.
        let Self {
            template: origin,
            template_hash: _,
            objective,
            system_prompt,
            models,
            model_params,
            tools,
            mode,
            max_steps,
            context,
            summarization,
            output,
            limits,
            retry,
            tool_failure,
            child_templates,
        } = self;
        let is_same = origin.name == template.name
            && *objective == template.objective
            && *system_prompt == template.system_prompt
            && *mode == template.mode
            && *context == template.context
            && *summarization == template.summarization
            && *output == template.output
            && *tool_failure == template.tool_failure;
        is_same
            && !models.is_empty()
            && is_part(models, &template.models)
            && is_strictly_sorted(tools)
            && is_part(tools, &template.tools)
            && is_strictly_sorted(child_templates)
            && is_part(child_templates, &template.child_templates)
            && (1..=template.max_steps()).contains(max_steps)
            && params_within(model_params, &template.model_params)
            && limits_within(limits, &template.limits)
            && retry_within(retry, &template.retry)
    }
}

fn is_part(part: &[String], whole: &[String]) -> bool {
    part.iter().all(|entry| whole.contains(entry))
}

/// The gate searches by halves: an unsorted list could let it miss an entry, a repeated one is noise.
fn is_strictly_sorted(list: &[String]) -> bool {
    list.windows(2).all(|pair| pair[0] < pair[1])
}

fn params_within(ours: &ModelParams, theirs: &ModelParams) -> bool {
    let ModelParams { temperature, max_output_tokens } = ours;
    let is_cooler = match (temperature, theirs.temperature) {
        (None, None) => true,
        (Some(ours), Some(theirs)) => *ours >= 0.0 && *ours <= theirs,
        // Without a number the provider's own holds, and nobody knows whether it is more or less.
        (Some(_), None) | (None, Some(_)) => false,
    };
    is_cooler && *max_output_tokens >= 1 && *max_output_tokens <= theirs.max_output_tokens
}

fn limits_within(ours: &Limits, theirs: &Limits) -> bool {
    let Limits {
        max_instances,
        max_depth,
        max_parallel,
        max_tool_calls,
        max_tokens,
        thinking_ms,
        executing_ms,
        blocked_ms,
        agent_timeout_ms,
    } = ours;
    *max_instances <= theirs.max_instances
        && *max_depth <= theirs.max_depth
        && *max_parallel <= theirs.max_parallel
        && *max_tool_calls <= theirs.max_tool_calls
        && *max_tokens <= theirs.max_tokens
        && *thinking_ms <= theirs.thinking_ms
        && *executing_ms <= theirs.executing_ms
        && *blocked_ms <= theirs.blocked_ms
        && *agent_timeout_ms <= theirs.agent_timeout_ms
}

fn retry_within(ours: &RetryPolicy, theirs: &RetryPolicy) -> bool {
    let RetryPolicy { max_retries, initial_delay_ms, max_delay_ms } = ours;
    *max_retries <= theirs.max_retries && *initial_delay_ms == theirs.initial_delay_ms && *max_delay_ms == theirs.max_delay_ms
}
