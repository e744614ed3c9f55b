//! Overrides only narrow (I12): for any template and any overrides.

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{LimitOverrides, Overrides, Policy, compile};
use crate::{
    catalog::TemplateVersion,
    hash::Hash32,
    ids::TemplateId,
    template::{Template, presets, tests::arbitrary},
    time::Timestamp,
};

fn version(spec: Template) -> TemplateVersion {
    let hash = spec.hash();
    TemplateVersion { id: TemplateId(uuid::Uuid::from_u128(7)), version: 3, spec, hash, active: true, created_at: Timestamp::default() }
}

fn texts(items: &[&str]) -> Vec<String> {
    items.iter().map(|&item| item.to_owned()).collect()
}

/// A template with room below every value.
fn roomy() -> Template {
    let mut template = presets().remove(1);
    template.name = "researcher".to_owned();
    template.models = texts(&["m1", "m2", "m3"]);
    template.model_params.temperature = Some(1.0);
    template.child_templates = texts(&["b", "a"]);
    template
}

fn limits(limits: LimitOverrides) -> Overrides {
    Overrides { limits: Some(limits), ..Overrides::default() }
}

/// One override at a time that lies above the template's value, with its field.
fn widenings(t: &Template) -> Vec<(&'static str, Overrides)> {
    let none = Overrides::default;
    let no_limits = LimitOverrides::default;
    let l = &t.limits;
    vec![
        ("models/0", Overrides { models: Some(texts(&["other"])), ..none() }),
        ("tools/0", Overrides { tools: Some(texts(&["other"])), ..none() }),
        ("child_templates/0", Overrides { child_templates: Some(texts(&["other"])), ..none() }),
        ("max_steps", Overrides { max_steps: Some(t.max_steps() + 1), ..none() }),
        ("temperature", Overrides { temperature: Some(t.model_params.temperature.map_or(0.0, |own| own + 0.001)), ..none() }),
        ("max_output_tokens", Overrides { max_output_tokens: Some(t.model_params.max_output_tokens + 1), ..none() }),
        ("max_retries", Overrides { max_retries: Some(t.retry.max_retries + 1), ..none() }),
        ("limits/max_instances", limits(LimitOverrides { max_instances: Some(l.max_instances + 1), ..no_limits() })),
        ("limits/max_depth", limits(LimitOverrides { max_depth: Some(l.max_depth + 1), ..no_limits() })),
        ("limits/max_parallel", limits(LimitOverrides { max_parallel: Some(l.max_parallel + 1), ..no_limits() })),
        ("limits/max_tool_calls", limits(LimitOverrides { max_tool_calls: Some(l.max_tool_calls + 1), ..no_limits() })),
        ("limits/max_tokens", limits(LimitOverrides { max_tokens: Some(l.max_tokens + 1), ..no_limits() })),
        ("limits/thinking_ms", limits(LimitOverrides { thinking_ms: Some(l.thinking_ms + 1), ..no_limits() })),
        ("limits/executing_ms", limits(LimitOverrides { executing_ms: Some(l.executing_ms + 1), ..no_limits() })),
        ("limits/blocked_ms", limits(LimitOverrides { blocked_ms: Some(l.blocked_ms + 1), ..no_limits() })),
        ("limits/agent_timeout_ms", limits(LimitOverrides { agent_timeout_ms: Some(l.agent_timeout_ms + 1), ..no_limits() })),
    ]
}

fn names() -> impl Strategy<Value = Option<Vec<String>>> {
    option::weighted(0.3, vec(select(&arbitrary::NAMES[..]).prop_map(str::to_owned), 0..4))
}

/// Any overrides: below, at and above the values of templates.
fn overrides() -> impl Strategy<Value = Overrides> {
    let small = || option::weighted(0.3, prop_oneof![0..=20_u32, any::<u32>()]);
    let large = || option::weighted(0.3, prop_oneof![0..=3_600_000_u64, any::<u64>()]);
    let limits = (small(), small(), small(), small(), large(), large(), large(), large(), large()).prop_map(|l| LimitOverrides {
        max_instances: l.0,
        max_depth: l.1,
        max_parallel: l.2,
        max_tool_calls: l.3,
        max_tokens: l.4,
        thinking_ms: l.5,
        executing_ms: l.6,
        blocked_ms: l.7,
        agent_timeout_ms: l.8,
    });
    let temperature = option::weighted(0.3, prop_oneof![0.0..=2.0_f64, any::<f64>()]);
    (names(), names(), names(), small(), temperature, small(), small(), option::weighted(0.3, limits)).prop_map(|o| Overrides {
        models: o.0,
        tools: o.1,
        child_templates: o.2,
        max_steps: o.3,
        temperature: o.4,
        max_output_tokens: o.5,
        max_retries: o.6,
        limits: o.7,
    })
}

/// Overrides that narrow `t`: each number scaled by `share`, each list cut to about that share.
fn narrowings(t: &Template, share: f64) -> Overrides {
    let scaled = |value: u64, least: u64| ((value as f64 * share) as u64).clamp(least, value);
    let small = |value: u32, least: u64| u32::try_from(scaled(value.into(), least)).ok();
    let cut = |list: &[String], least: u64| {
        let kept = usize::try_from(scaled(list.len() as u64, least.min(list.len() as u64))).unwrap_or(0);
        list.iter().rev().take(kept).cloned().collect::<Vec<_>>()
    };
    let l = &t.limits;
    Overrides {
        models: Some(cut(&t.models, 1)),
        tools: Some(cut(&t.tools, 0)),
        child_templates: Some(cut(&t.child_templates, 0)),
        max_steps: small(t.max_steps(), 1),
        temperature: t.model_params.temperature.map(|own| own * share),
        max_output_tokens: small(t.model_params.max_output_tokens, 1),
        max_retries: small(t.retry.max_retries, 0),
        limits: Some(LimitOverrides {
            max_instances: small(l.max_instances, 1),
            max_depth: small(l.max_depth, 0),
            max_parallel: small(l.max_parallel, 1),
            max_tool_calls: small(l.max_tool_calls, 0),
            max_tokens: Some(scaled(l.max_tokens, 1)),
            thinking_ms: Some(scaled(l.thinking_ms, 1)),
            executing_ms: Some(scaled(l.executing_ms, 1)),
            blocked_ms: Some(scaled(l.blocked_ms, 1)),
            agent_timeout_ms: Some(scaled(l.agent_timeout_ms, 1)),
        }),
    }
}

proptest! {
    #[test]
    fn whatever_the_overrides_the_policy_is_within_its_template_or_refused(template in arbitrary::template(), overrides in overrides()) {
        match compile(&version(template.clone()), &overrides) {
            Ok(policy) => prop_assert!(policy.is_within(&template), "{:?}", policy),
            Err(faults) => {
                prop_assert!(!faults.0.is_empty());
                prop_assert!(faults.0.iter().all(|fault| fault.pointer.starts_with("/overrides/")), "{}", faults);
            }
        }
    }

    #[test]
    fn every_widening_override_is_a_fault_at_its_place(template in arbitrary::template()) {
        for (field, widening) in widenings(&template) {
            let faults = compile(&version(template.clone()), &widening);
            prop_assert!(faults.is_err(), "{} passed", field);
            let faults = faults.expect_err("it was just seen to be one").0;
            prop_assert_eq!(faults.len(), 1);
            prop_assert_eq!(&faults[0].pointer, &format!("/overrides/{field}"));
            prop_assert!(faults[0].detail.contains(&format!("{}@3", template.name)), "{}", faults[0].detail);
        }
    }

    #[test]
    fn narrowing_overrides_are_accepted_and_taken(template in arbitrary::template(), share in 0.0..=1.0_f64) {
        let overrides = narrowings(&template, share);
        let policy = compile(&version(template.clone()), &overrides);
        prop_assert!(policy.is_ok(), "{:?}", policy);
        let policy = policy.expect("it was just seen to be");
        prop_assert!(policy.is_within(&template));
        prop_assert_eq!(Some(&policy.models), overrides.models.as_ref());
        prop_assert_eq!(Some(policy.max_steps), overrides.max_steps);
        prop_assert_eq!(policy.model_params.temperature, overrides.temperature);
        prop_assert_eq!(Some(policy.retry.max_retries), overrides.max_retries);
        prop_assert_eq!(Some(policy.limits.agent_timeout_ms), overrides.limits.and_then(|limits| limits.agent_timeout_ms));
    }

    #[test]
    fn the_stored_form_reads_back_with_the_same_hash(template in arbitrary::template()) {
        let policy = compile(&version(template), &Overrides::default()).expect("no overrides, no faults");
        let read: Policy = serde_json::from_str(&policy.canonical_json()).expect("it is JSON");
        prop_assert_eq!(read.hash(), policy.hash());
        prop_assert_eq!(read, policy);
    }
}

#[test]
fn a_fault_names_the_value_of_the_template_and_its_owner() {
    let overrides = Overrides {
        models: Some(texts(&["m2", "gpt", "m2"])),
        max_steps: Some(21),
        max_output_tokens: Some(0),
        temperature: Some(f64::NAN),
        limits: Some(LimitOverrides { max_parallel: Some(0), ..LimitOverrides::default() }),
        ..Overrides::default()
    };
    let faults = compile(&version(roomy()), &overrides).expect_err("all of them are faulty").0;
    let shown: Vec<String> = faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.detail)).collect();
    assert_eq!(
        shown,
        [
            "/overrides/limits/max_parallel: is 0, but must be at least 1 (and at most 10000, the value of researcher@3)",
            "/overrides/max_output_tokens: is 0, but must be at least 1 (and at most 2048, the value of researcher@3)",
            "/overrides/max_steps: is 21, but researcher@3 allows at most 20; overrides only narrow",
            "/overrides/models/1: `gpt` is not among the models of researcher@3: `m1`, `m2`, `m3`; overrides only narrow",
            "/overrides/models/2: `m2` is named twice",
            "/overrides/temperature: is not a number",
        ]
    );
    let empty = Overrides { models: Some(vec![]), ..Overrides::default() };
    assert_eq!(compile(&version(roomy()), &empty).expect_err("no model is left").0[0].pointer, "/overrides/models");
}

#[test]
fn models_keep_the_order_of_the_override_and_sets_are_sorted() {
    let overrides =
        Overrides { models: Some(texts(&["m3", "m1"])), tools: Some(texts(&["kv_put", "calculator", "kv_put"])), ..Overrides::default() };
    let policy = compile(&version(roomy()), &overrides).expect("it narrows");
    assert_eq!(policy.models, ["m3", "m1"]);
    assert_eq!(policy.tools, ["calculator", "kv_put"]);
    assert_eq!(policy.child_templates, ["a", "b"]);
    assert_eq!(policy.template.to_string(), "researcher@3");
}

#[test]
fn a_policy_that_was_widened_behind_the_compilers_back_is_not_within() {
    let template = roomy();
    let policy = compile(&version(template.clone()), &Overrides::default()).expect("no overrides, no faults");
    assert!(policy.is_within(&template));
    type Tamper = fn(&mut Policy);
    let tampers: Vec<(&str, Tamper)> = vec![
        ("name", |p| p.template.name.push('x')),
        ("objective", |p| p.objective.push('x')),
        ("system_prompt", |p| p.system_prompt.push('x')),
        ("no models", |p| p.models.clear()),
        ("models", |p| p.models.push("other".to_owned())),
        ("temperature", |p| p.model_params.temperature = Some(1.5)),
        ("no temperature", |p| p.model_params.temperature = None),
        ("max_output_tokens", |p| p.model_params.max_output_tokens += 1),
        ("tools", |p| p.tools.push("zzz".to_owned())),
        ("order of tools", |p| p.tools.reverse()),
        ("mode", |p| p.mode = crate::template::Mode::Single),
        ("max_steps", |p| p.max_steps += 1),
        ("context", |p| p.context = crate::template::ContextPolicy::Lossless),
        ("summarization", |p| p.summarization.trigger_tokens += 1),
        ("output", |p| p.output = crate::engine::OutputSpec::Text),
        ("max_instances", |p| p.limits.max_instances += 1),
        ("max_depth", |p| p.limits.max_depth += 1),
        ("max_parallel", |p| p.limits.max_parallel += 1),
        ("max_tool_calls", |p| p.limits.max_tool_calls += 1),
        ("max_tokens", |p| p.limits.max_tokens += 1),
        ("thinking_ms", |p| p.limits.thinking_ms += 1),
        ("executing_ms", |p| p.limits.executing_ms += 1),
        ("blocked_ms", |p| p.limits.blocked_ms += 1),
        ("agent_timeout_ms", |p| p.limits.agent_timeout_ms += 1),
        ("max_retries", |p| p.retry.max_retries += 1),
        ("initial_delay_ms", |p| p.retry.initial_delay_ms -= 1),
        ("max_delay_ms", |p| p.retry.max_delay_ms += 1),
        ("tool_failure", |p| p.tool_failure = crate::template::ToolFailure::Closed),
        ("child_templates", |p| p.child_templates.push("zzz".to_owned())),
    ];
    for (what, tamper) in tampers {
        let mut tampered = policy.clone();
        tamper(&mut tampered);
        assert!(!tampered.is_within(&template), "{what}");
        assert_ne!(tampered.hash(), policy.hash(), "{what}");
    }
}

#[test]
fn the_fingerprint_of_a_policy_stays_what_it_was() {
    let spec = Template::parse(&serde_json::json!({
        "name": "researcher", "objective": "o", "system_prompt": "p", "models": ["m1", "m2"], "tools": ["b", "a"],
        "mode": "multi_step", "temperature": 1, "output_schema": {"type": "number", "minimum": 0.1},
    }));
    let spec = TemplateVersion { hash: Hash32::ZERO, ..version(spec.expect("it is valid")) };
    let policy = compile(&spec, &Overrides { max_steps: Some(5), ..Overrides::default() }).expect("it narrows");
    let wanted = concat!(
        r#"{"child_templates":[],"context":"auto","limits":{"agent_timeout_ms":300000,"blocked_ms":1800000,"#,
        r#""executing_ms":600000,"max_depth":4,"max_instances":100000,"max_parallel":10000,"max_tokens":1000000,"#,
        r#""max_tool_calls":20,"thinking_ms":300000},"max_steps":5,"mode":"multi_step","#,
        r#""model_params":{"max_output_tokens":1024,"temperature":1.0},"models":["m1","m2"],"objective":"o","#,
        r#""output":{"format":"json","schema":{"minimum":0.1,"type":"number"}},"#,
        r#""retry":{"initial_delay_ms":500,"max_delay_ms":30000,"max_retries":2},"#,
        r#""summarization":{"compression_ratio":0.5,"preserve_entities":false,"strategy":"none","trigger_tokens":12000},"#,
        r#""system_prompt":"p","template":{"id":"tpl_00000000000000000000000000000007","name":"researcher","version":3},"#,
        r#""template_hash":"0000000000000000000000000000000000000000000000000000000000000000","#,
        r#""tool_failure":"open","tools":["a","b"]}"#,
    );
    assert_eq!(policy.canonical_json(), wanted);
    // Stored policies are found by this hash: a change of it is a change of the stored format.
    assert_eq!(policy.hash().to_string(), "507371653e90f59cb002a762bb25ddde3d6cfa186100bcd7b13db5e363655413");
}
