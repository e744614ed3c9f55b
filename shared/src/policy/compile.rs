//! Template version + overrides -> policy. Overrides only narrow; each one that would widen is a fault that names the
//! template's value and its owner.

use std::{collections::BTreeSet, fmt::Display};

use super::{LimitOverrides, Overrides, Policy, TemplateRef};
use crate::{
    catalog::TemplateVersion,
    error::{Fault, Faults},
    template::{
        Limits, ModelParams, RetryPolicy,
        text::{listed, quoted},
    },
};

/// Faulty entries of one list that are reported one by one.
const MAX_SHOWN: usize = 20;

/// Compiles a policy; every override that would widen is a fault.
pub fn compile(version: &TemplateVersion, overrides: &Overrides) -> Result<Policy, Faults> {
    // Taken apart, so that a new override does not compile until it is compiled here.
    let Overrides { models, tools, child_templates, max_steps, temperature, max_output_tokens, max_retries, limits } = overrides;
    let spec = &version.spec;
    let mut narrowing = Narrowing { owner: version.reference(), faults: Vec::new() };
    let policy = Policy {
        template: version.reference(),
        template_hash: version.hash,
        objective: spec.objective.clone(),
        system_prompt: spec.system_prompt.clone(),
        models: narrowing.models(models.as_deref(), &spec.models),
        model_params: ModelParams {
            temperature: narrowing.temperature(*temperature, spec.model_params.temperature),
            max_output_tokens: narrowing.at_most("max_output_tokens", *max_output_tokens, 1, spec.model_params.max_output_tokens),
        },
        tools: narrowing.part_of("tools", tools.as_deref(), &spec.tools),
        mode: spec.mode,
        max_steps: narrowing.at_most("max_steps", *max_steps, 1, spec.max_steps()),
        context: spec.context,
        summarization: spec.summarization.clone(),
        output: spec.output.clone(),
        limits: narrowing.limits(limits.as_ref(), &spec.limits),
        retry: RetryPolicy { max_retries: narrowing.at_most("max_retries", *max_retries, 0, spec.retry.max_retries), ..spec.retry.clone() },
        tool_failure: spec.tool_failure,
        child_templates: narrowing.part_of("child_templates", child_templates.as_deref(), &spec.child_templates),
    };
    narrowing.faults.sort();
    Faults::check(narrowing.faults).map(|()| policy)
}

/// One compilation.
struct Narrowing {
    owner: TemplateRef,
    faults: Vec<Fault>,
}

impl Narrowing {
    fn fault(&mut self, field: &str, detail: String) {
        self.faults.push(Fault::new(format!("/overrides/{field}"), detail));
    }

    /// The override, if it lies between `least` and the template's value; else the template's value.
    fn at_most<T: Copy + PartialOrd + Display>(&mut self, field: &str, given: Option<T>, least: T, template: T) -> T {
        let Some(given) = given else { return template };
        if given > template {
            self.fault(field, format!("is {given}, but {} allows at most {template}; overrides only narrow", self.owner));
        } else if given < least {
            self.fault(field, format!("is {given}, but must be at least {least} (and at most {template}, the value of {})", self.owner));
        } else {
            return given;
        }
        template
    }

    fn temperature(&mut self, given: Option<f64>, template: Option<f64>) -> Option<f64> {
        match (given, template) {
            (None, template) => template,
            // Whatever the provider's own is, a number could be above it.
            (Some(given), None) => {
                self.fault(
                    "temperature",
                    format!(
                        "is {given}, but {} leaves the temperature to the provider: only a template's own value can be lowered",
                        self.owner
                    ),
                );
                None
            }
            (Some(given), Some(template)) if given.is_nan() => {
                self.fault("temperature", "is not a number".to_owned());
                Some(template)
            }
            // `+ 0.0` turns a negative zero into zero: one policy, one hash.
            (Some(given), Some(template)) => Some(self.at_most("temperature", Some(given), 0.0, template) + 0.0),
        }
    }

    /// The model chain: the override's order counts, because it is the order of fallback.
    fn models(&mut self, given: Option<&[String]>, template: &[String]) -> Vec<String> {
        if template.is_empty() {
            self.faults.push(Fault::new("/models", format!("{} names no model", self.owner)));
        }
        let Some(given) = given else { return template.to_vec() };
        if given.is_empty() {
            self.fault(
                "models",
                format!("must name at least one model of {}: {}", self.owner, listed(template.iter().map(String::as_str))),
            );
        }
        self.no_widening("models", given, template);
        let mut seen = BTreeSet::new();
        let twice: Vec<usize> = (0..given.len()).filter(|&index| !seen.insert(&given[index])).take(MAX_SHOWN).collect();
        for index in twice {
            self.fault(&format!("models/{index}"), format!("{} is named twice", quoted(&given[index])));
        }
        given.to_vec()
    }

    /// A set: sorted, each entry once.
    fn part_of(&mut self, field: &str, given: Option<&[String]>, template: &[String]) -> Vec<String> {
        if let Some(given) = given {
            self.no_widening(field, given, template);
        }
        given.unwrap_or(template).iter().collect::<BTreeSet<_>>().into_iter().cloned().collect()
    }

    fn no_widening(&mut self, field: &str, given: &[String], template: &[String]) {
        for (index, entry) in given.iter().enumerate().filter(|(_, entry)| !template.contains(entry)).take(MAX_SHOWN) {
            let allowed = listed(template.iter().map(String::as_str));
            let detail = format!("{} is not among the {field} of {}: {allowed}; overrides only narrow", quoted(entry), self.owner);
            self.fault(&format!("{field}/{index}"), detail);
        }
    }

    fn limits(&mut self, given: Option<&LimitOverrides>, template: &Limits) -> Limits {
        let Some(given) = given else { return template.clone() };
        let LimitOverrides {
            max_instances,
            max_depth,
            max_parallel,
            max_tool_calls,
            max_tokens,
            thinking_ms,
            executing_ms,
            blocked_ms,
            agent_timeout_ms,
        } = *given;
        Limits {
            max_instances: self.at_most("limits/max_instances", max_instances, 1, template.max_instances),
            max_depth: self.at_most("limits/max_depth", max_depth, 0, template.max_depth),
            max_parallel: self.at_most("limits/max_parallel", max_parallel, 1, template.max_parallel),
            max_tool_calls: self.at_most("limits/max_tool_calls", max_tool_calls, 0, template.max_tool_calls),
            max_tokens: self.at_most("limits/max_tokens", max_tokens, 1, template.max_tokens),
            thinking_ms: self.at_most("limits/thinking_ms", thinking_ms, 1, template.thinking_ms),
            executing_ms: self.at_most("limits/executing_ms", executing_ms, 1, template.executing_ms),
            blocked_ms: self.at_most("limits/blocked_ms", blocked_ms, 1, template.blocked_ms),
            agent_timeout_ms: self.at_most("limits/agent_timeout_ms", agent_timeout_ms, 1, template.agent_timeout_ms),
        }
    }
}
