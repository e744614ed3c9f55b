//! The bounds of a template (REQUIREMENTS A3), on the typed struct: also what was not read from JSON passes here.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    Limits, Mode, Template,
    fields::{self, Bounds, MAX_ENTRIES, MAX_ENTRY_CHARS, Span},
    output_schema,
    text::{listed, member, nearest, quoted},
};
use crate::{
    catalog::{NameOrId, TemplateSelector},
    engine::OutputSpec,
    error::{Fault, Faults},
    ids::TemplateId,
};

/// Strings with a NUL that are reported one by one.
const MAX_NULS: usize = 20;

impl Template {
    /// Every bound that a template must keep. [`Template::parse`] has called it.
    pub fn validate(&self) -> Result<(), Faults> {
        let mut check = Check { faults: Vec::new() };
        self.check_texts(&mut check);
        self.check_lists(&mut check);
        self.check_numbers(&mut check);
        self.check_limits(&mut check);
        self.check_mode(&mut check);
        self.check_unsupported(&mut check);
        if let OutputSpec::Json { schema: Some(schema) } = &self.output {
            check.faults.extend(output_schema::check(schema, "/output/schema"));
        }
        self.check_nuls(&mut check);
        check.faults.sort();
        check.faults.dedup();
        Faults::check(check.faults)
    }

    /// Whether its models and tools exist here: `knows_model` and `models_hint` come from the engine, `tools` are the
    /// names in the registry.
    pub fn validate_known(
        &self,
        knows_model: &dyn Fn(&str) -> bool,
        tools: &BTreeSet<String>,
        models_hint: &[String],
    ) -> Result<(), Faults> {
        let unknown = |field: &str, index: usize, name: &str, known: &mut dyn Iterator<Item = &str>| {
            let known: Vec<&str> = known.collect();
            let near = nearest(name, known.iter().copied()).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            let kind = field.trim_end_matches('s');
            Fault::new(format!("/{field}/{index}"), format!("unknown {kind} {}{near}; known: {}", quoted(name), listed(known)))
        };
        let models = self.models.iter().enumerate().filter(|(_, model)| !knows_model(model));
        let models = models.map(|(index, model)| unknown("models", index, model, &mut models_hint.iter().map(String::as_str)));
        let missing = self.tools.iter().enumerate().filter(|(_, tool)| !tools.contains(*tool));
        let missing = missing.map(|(index, tool)| unknown("tools", index, tool, &mut tools.iter().map(String::as_str)));
        Faults::check(models.chain(missing).collect())
    }

    fn check_texts(&self, check: &mut Check) {
        if !is_name(&self.name) {
            check.fault(
                "/name",
                format!(
                    "must be 1 to 64 lower-case letters, digits, `-` or `_`, the first a letter or digit; it is {}",
                    quoted(&self.name)
                ),
            );
        } else if self.name.starts_with(TemplateId::PREFIX) {
            check.fault("/name", format!("must not begin with `{}`: that is how ids of templates begin", TemplateId::PREFIX));
        }
        check.bytes("/description", &self.description, fields::MAX_DESCRIPTION_BYTES);
        check.bytes("/objective", &self.objective, fields::MAX_PROMPT_BYTES);
        check.bytes("/system_prompt", &self.system_prompt, fields::MAX_PROMPT_BYTES);
    }

    fn check_lists(&self, check: &mut Check) {
        if self.models.is_empty() {
            check.fault("/models", "must name at least one model".to_owned());
        }
        for (at, list) in [("/models", &self.models), ("/tools", &self.tools), ("/child_templates", &self.child_templates)] {
            check.entries(at, list);
            check.no_duplicates(at, list);
        }
        for (at, list) in [
            ("/mcp_servers", &self.mcp_servers),
            ("/collections", &self.collections),
            ("/capabilities", &self.capabilities),
            ("/guardrails/blocked_topics", &self.guardrails.blocked_topics),
            ("/guardrails/output_constraints", &self.guardrails.output_constraints),
        ] {
            check.entries(at, list);
        }
        for (index, child) in self.child_templates.iter().enumerate().take(MAX_ENTRIES) {
            let is_selector = child.parse::<TemplateSelector>().is_ok_and(|selector| match selector.which {
                NameOrId::Name(name) => is_name(&name),
                NameOrId::Id(_) => true,
            });
            if !is_selector {
                check.fault(
                    &format!("/child_templates/{index}"),
                    format!("must name a template as `name`, `name@version` or `tpl_…`; it is {}", quoted(child)),
                );
            }
        }
    }

    fn check_numbers(&self, check: &mut Check) {
        if let Some(max_steps) = self.max_steps {
            check.whole("/max_steps", max_steps.into(), fields::MAX_STEPS);
        }
        if let Some(temperature) = self.model_params.temperature {
            check.number("/model_params/temperature", temperature, fields::TEMPERATURE);
        }
        check.whole("/model_params/max_output_tokens", self.model_params.max_output_tokens.into(), fields::MAX_OUTPUT_TOKENS);
        check.whole("/summarization/trigger_tokens", self.summarization.trigger_tokens.into(), fields::TRIGGER_TOKENS);
        check.number("/summarization/compression_ratio", self.summarization.compression_ratio, fields::COMPRESSION_RATIO);
        check.whole("/retry/max_retries", self.retry.max_retries.into(), fields::MAX_RETRIES);
        check.whole("/retry/initial_delay_ms", self.retry.initial_delay_ms, fields::DELAY_MS);
        check.whole("/retry/max_delay_ms", self.retry.max_delay_ms, fields::DELAY_MS);
        if self.retry.max_delay_ms < self.retry.initial_delay_ms {
            check.fault("/retry/max_delay_ms", format!("must be at least initial_delay_ms, which is {}", self.retry.initial_delay_ms));
        }
        if let Some(cost) = self.cost_per_1k_tokens {
            check.number("/cost_per_1k_tokens", cost, fields::COST_PER_1K_TOKENS);
        }
        if let Some(latency_ms) = self.observed_latency_ms {
            check.whole("/observed_latency_ms", latency_ms, fields::OBSERVED_LATENCY_MS);
        }
    }

    fn check_limits(&self, check: &mut Check) {
        // Taken apart, so that a new limit does not compile until it is checked.
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
        } = self.limits;
        for (at, value, bounds) in [
            ("/limits/max_instances", max_instances.into(), fields::MAX_INSTANCES),
            ("/limits/max_depth", max_depth.into(), fields::MAX_DEPTH),
            ("/limits/max_parallel", max_parallel.into(), fields::MAX_PARALLEL),
            ("/limits/max_tool_calls", max_tool_calls.into(), fields::MAX_TOOL_CALLS),
            ("/limits/max_tokens", max_tokens, fields::MAX_TOKENS),
            ("/limits/thinking_ms", thinking_ms, fields::CALL_MS),
            ("/limits/executing_ms", executing_ms, fields::CALL_MS),
            ("/limits/blocked_ms", blocked_ms, fields::LIFE_MS),
            ("/limits/agent_timeout_ms", agent_timeout_ms, fields::LIFE_MS),
        ] {
            check.whole(at, value, bounds);
        }
    }

    fn check_mode(&self, check: &mut Check) {
        match (self.mode, self.max_steps) {
            (Mode::Single, Some(steps)) if steps != 1 => check.fault(
                "/max_steps",
                format!(
                    "is {steps}, but mode `single` (the default) has exactly one step: leave max_steps out, or choose mode `multi_step`"
                ),
            ),
            (Mode::Single | Mode::MultiStep | Mode::Planner, _) => {}
        }
    }

    /// What could not be enforced yet is refused: nothing that a template says is silently ignored.
    fn check_unsupported(&self, check: &mut Check) {
        let refusals = [
            ("/mode", matches!(self.mode, Mode::Planner), "mode `planner`"),
            ("/planning/allow_replan", self.planning.allow_replan, "replanning"),
            ("/guardrails/blocked_topics", !self.guardrails.blocked_topics.is_empty(), "a guardrail"),
            ("/guardrails/output_constraints", !self.guardrails.output_constraints.is_empty(), "a guardrail"),
            ("/mcp_servers", !self.mcp_servers.is_empty(), "an MCP server"),
            ("/collections", !self.collections.is_empty(), "a knowledge collection"),
        ];
        for (at, is_used, what) in refusals {
            if is_used {
                check.fault(at, format!("{what} is not supported by this version of Muster"));
            }
        }
    }

    fn check_nuls(&self, check: &mut Check) {
        let value = serde_json::to_value(self).expect("templates hold only strings, numbers and JSON values");
        let mut found = Vec::new();
        find_nuls(&value, "", &mut found);
        check.faults.extend(found.into_iter().map(|at| Fault::new(at, "must not contain the character NUL")));
    }
}

/// Lower-case letters, digits, `-` and `_`, at most 64.
fn is_name(name: &str) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 64
        && name.as_bytes().first().is_some_and(is_plain)
        && name.bytes().all(|byte| is_plain(&byte) || byte == b'-' || byte == b'_')
}

fn find_nuls(value: &Value, at: &str, found: &mut Vec<String>) {
    if found.len() >= MAX_NULS {
        return;
    }
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) => found.extend(text.contains('\0').then(|| at.to_owned())),
        Value::Array(items) => items.iter().enumerate().for_each(|(index, item)| find_nuls(item, &format!("{at}/{index}"), found)),
        Value::Object(members) => {
            for (key, inner) in members {
                let here = member(at, key);
                found.extend(key.contains('\0').then(|| here.clone()));
                find_nuls(inner, &here, found);
            }
        }
    }
}

/// What was found so far.
struct Check {
    faults: Vec<Fault>,
}

impl Check {
    fn fault(&mut self, at: &str, detail: String) {
        self.faults.push(Fault::new(at, detail));
    }

    fn whole(&mut self, at: &str, value: u64, bounds: Bounds) {
        if !bounds.contains(value) {
            self.fault(at, bounds.refusal(value));
        }
    }

    fn number(&mut self, at: &str, value: f64, span: Span) {
        if !span.contains(value) {
            self.fault(at, span.refusal(value));
        }
    }

    fn bytes(&mut self, at: &str, text: &str, max: usize) {
        if text.len() > max {
            self.fault(at, format!("is {} bytes long; at most {max} are allowed", text.len()));
        }
    }

    fn entries(&mut self, at: &str, list: &[String]) {
        if list.len() > MAX_ENTRIES {
            self.fault(at, format!("has more than {MAX_ENTRIES} entries"));
        }
        for (index, entry) in list.iter().enumerate().take(MAX_ENTRIES) {
            if entry.trim().is_empty() {
                self.fault(&format!("{at}/{index}"), "must not be empty".to_owned());
            } else if entry.chars().nth(MAX_ENTRY_CHARS).is_some() {
                self.fault(&format!("{at}/{index}"), format!("is longer than {MAX_ENTRY_CHARS} characters"));
            }
        }
    }

    fn no_duplicates(&mut self, at: &str, list: &[String]) {
        let mut seen = BTreeSet::new();
        for (index, entry) in list.iter().enumerate().take(MAX_ENTRIES) {
            if !seen.insert(entry) {
                self.fault(&format!("{at}/{index}"), format!("{} is named twice", quoted(entry)));
            }
        }
    }
}
