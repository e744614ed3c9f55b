//! Templates and documents at random, for property tests here and of policies.

use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{select, subsequence},
};
use serde_json::{Value, json};

use crate::{
    engine::OutputSpec,
    template::{
        ContextPolicy, Limits, Mode, ModelParams, RetryPolicy, Summarization, SummaryStrategy, Template, ToolFailure,
        fields::{ALIASES, TEMPLATE},
        presets,
    },
};

/// The models, tools and children that random templates choose from.
pub(crate) const NAMES: [&str; 6] = ["offline/extract", "calculator", "artifact_read", "kv_get", "zeta", "alpha@2"];

fn some_of(names: &'static [&'static str], least: usize) -> impl Strategy<Value = Vec<String>> {
    subsequence(names, least..=names.len()).prop_shuffle().prop_map(|names| names.into_iter().map(str::to_owned).collect())
}

fn limits() -> impl Strategy<Value = Limits> {
    let counts = (1..=1_000_000_u32, 0..=16_u32, 1..=100_000_u32, 0..=1_000_u32, 1..=1_000_000_000_000_u64);
    let times = (1..=3_600_000_u64, 1..=3_600_000_u64, 1..=31_536_000_000_u64, 1..=31_536_000_000_u64);
    (counts, times).prop_map(|(counts, times)| Limits {
        max_instances: counts.0,
        max_depth: counts.1,
        max_parallel: counts.2,
        max_tool_calls: counts.3,
        max_tokens: counts.4,
        thinking_ms: times.0,
        executing_ms: times.1,
        blocked_ms: times.2,
        agent_timeout_ms: times.3,
    })
}

fn output() -> impl Strategy<Value = OutputSpec> {
    prop_oneof![
        Just(OutputSpec::Text),
        Just(OutputSpec::Markdown),
        Just(OutputSpec::Json { schema: None }),
        (0.0..=1.0_f64).prop_map(|least| OutputSpec::Json { schema: Some(json!({"type": "number", "minimum": least, "$comment": "z"})) }),
    ]
}

fn mode_and_steps() -> impl Strategy<Value = (Mode, Option<u32>)> {
    prop_oneof![
        option::of(Just(1_u32)).prop_map(|steps| (Mode::Single, steps)),
        option::of(1..=20_u32).prop_map(|steps| (Mode::MultiStep, steps)),
    ]
}

fn summarization() -> impl Strategy<Value = Summarization> {
    let strategy = select(vec![SummaryStrategy::None, SummaryStrategy::Hierarchical, SummaryStrategy::Lossless]);
    (strategy, 1..=10_000_000_u32, 0.0..=1.0_f64, any::<bool>()).prop_map(
        |(strategy, trigger_tokens, compression_ratio, preserve_entities)| Summarization {
            strategy,
            trigger_tokens,
            compression_ratio,
            preserve_entities,
        },
    )
}

/// Any valid template.
pub(crate) fn template() -> impl Strategy<Value = Template> {
    let texts = ("[a-z0-9][a-z0-9_-]{0,20}", "[^\0]{0,20}", "[^\0]{0,20}", "[^\0]{0,20}");
    let lists = (some_of(&NAMES, 1), some_of(&NAMES, 0), some_of(&NAMES[1..], 0));
    let params = (option::of(0.0..=2.0_f64), 1..=128_000_u32)
        .prop_map(|(temperature, max_output_tokens)| ModelParams { temperature, max_output_tokens });
    let retry = (0..=3_u32, 0..=1_000_u64, 1_000..=3_600_000_u64).prop_map(|(max_retries, initial_delay_ms, max_delay_ms)| RetryPolicy {
        max_retries,
        initial_delay_ms,
        max_delay_ms,
    });
    let choices = (
        mode_and_steps(),
        select(vec![ContextPolicy::Auto, ContextPolicy::AggressiveSummarization, ContextPolicy::Lossless]),
        select(vec![ToolFailure::Open, ToolFailure::Closed]),
    );
    let observed = (option::of(0.0..=1_000_000.0_f64), option::of(0..=31_536_000_000_u64));
    (texts, lists, params, retry, choices, limits(), output(), summarization(), observed).prop_map(
        |(texts, lists, model_params, retry, choices, limits, output, summarization, observed)| Template {
            // Names that look like ids are refused; none of these does.
            name: texts.0.replace("tpl_", "tpl-"),
            description: texts.1,
            objective: texts.2,
            system_prompt: texts.3,
            models: lists.0,
            model_params,
            tools: lists.1,
            mode: choices.0.0,
            max_steps: choices.0.1,
            context: choices.1,
            summarization,
            output,
            limits,
            retry,
            tool_failure: choices.2,
            child_templates: lists.2,
            cost_per_1k_tokens: observed.0,
            observed_latency_ms: observed.1,
            ..presets().remove(0)
        },
    )
}

/// Any JSON; its keys are often those of templates, so that the parser is entered deeply.
pub(crate) fn json() -> impl Strategy<Value = Value> {
    let mut names: Vec<String> = TEMPLATE.iter().map(|field| field.name.to_owned()).collect();
    names.extend(ALIASES.iter().map(|(alias, _)| (*alias).to_owned()));
    let inner = ["format", "schema", "strategy", "max_depth", "max_retries", "$ref", "type", "pattern", "items"];
    names.extend(inner.map(str::to_owned));
    let words = vec!["json", "text", "aggressive", "multi-step", "planner", "offline/extract", "a", "#/x", "https://example.com/x", "("];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0..=30_u32).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        select(words).prop_map(Value::from),
    ];
    let key = prop_oneof![4 => select(names), 1 => any::<String>()];
    leaf.prop_recursive(5, 60, 12, move |inner| {
        prop_oneof![
            1 => vec(inner.clone(), 0..5).prop_map(Value::from),
            3 => vec((key.clone(), inner), 0..12).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}
