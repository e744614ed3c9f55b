//! What a template may say, as data: its fields, their shapes and their bounds. The parser walks JSON along these
//! tables, the validator takes its bounds from here, and a test compares both with the exported JSON Schema.

/// Whole numbers from `min` to `max`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) min: u64,
    pub(super) max: u64,
}

/// Numbers from `min` to `max`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) min: f64,
    pub(super) max: f64,
}

/// The form that a value must have.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    Text,
    Texts,
    Flag,
    Whole(Bounds),
    /// A whole number or `null`, which means absent.
    WholeOrNull(Bounds),
    Number,
    /// A number or `null`, which means absent.
    NumberOrNull,
    Choice(&'static [&'static str]),
    Object(&'static [Field]),
    /// The output specification: its members depend on its format.
    Output,
}

/// One field of an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) required: bool,
}

const KB: usize = 1024;
const YEAR_MS: u64 = 365 * 24 * 3_600_000;

pub(super) const MAX_STEPS: Bounds = Bounds { min: 1, max: 20 };
pub(super) const MAX_OUTPUT_TOKENS: Bounds = Bounds { min: 1, max: 128_000 };
pub(super) const TRIGGER_TOKENS: Bounds = Bounds { min: 1, max: 10_000_000 };
pub(super) const MAX_INSTANCES: Bounds = Bounds { min: 1, max: 1_000_000 };
pub(super) const MAX_DEPTH: Bounds = Bounds { min: 0, max: 16 };
pub(super) const MAX_PARALLEL: Bounds = Bounds { min: 1, max: 100_000 };
pub(super) const MAX_TOOL_CALLS: Bounds = Bounds { min: 0, max: 1_000 };
// Far beyond any use, and exact as a JSON number, a double and a database integer.
pub(super) const MAX_TOKENS: Bounds = Bounds { min: 1, max: 1_000_000_000_000 };
/// One call.
pub(super) const CALL_MS: Bounds = Bounds { min: 1, max: 3_600_000 };
/// A wait, or a whole life.
pub(super) const LIFE_MS: Bounds = Bounds { min: 1, max: YEAR_MS };
pub(super) const MAX_RETRIES: Bounds = Bounds { min: 0, max: 3 };
pub(super) const DELAY_MS: Bounds = Bounds { min: 0, max: 3_600_000 };
pub(super) const OBSERVED_LATENCY_MS: Bounds = Bounds { min: 0, max: YEAR_MS };
pub(super) const TEMPERATURE: Span = Span { min: 0.0, max: 2.0 };
pub(super) const COMPRESSION_RATIO: Span = Span { min: 0.0, max: 1.0 };
pub(super) const COST_PER_1K_TOKENS: Span = Span { min: 0.0, max: 1_000_000.0 };

/// Bytes of `system_prompt` and of `objective`.
pub(super) const MAX_PROMPT_BYTES: usize = 64 * KB;
/// Bytes of `description`.
pub(super) const MAX_DESCRIPTION_BYTES: usize = 4 * KB;
/// Bytes of an output schema.
pub(super) const MAX_SCHEMA_BYTES: usize = 64 * KB;
/// Levels of an output schema.
pub(super) const MAX_SCHEMA_DEPTH: usize = 64;
/// Entries of a list.
pub(super) const MAX_ENTRIES: usize = 100;
/// Characters of an entry.
pub(super) const MAX_ENTRY_CHARS: usize = 200;

/// The output formats.
pub(super) const FORMATS: &[&str] = &["text", "markdown", "json"];

const fn optional(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: false }
}

const fn required(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: true }
}

/// The fields of [`super::Template`].
pub(super) const TEMPLATE: &[Field] = &[
    required("name", Shape::Text),
    optional("description", Shape::Text),
    optional("objective", Shape::Text),
    optional("system_prompt", Shape::Text),
    required("models", Shape::Texts),
    optional("model_params", Shape::Object(MODEL_PARAMS)),
    optional("tools", Shape::Texts),
    // The first stands in for a faulty value: it permits any number of steps.
    optional("mode", Shape::Choice(&["multi_step", "single", "planner"])),
    optional("max_steps", Shape::WholeOrNull(MAX_STEPS)),
    optional("planning", Shape::Object(PLANNING)),
    optional("context", Shape::Choice(&["auto", "aggressive_summarization", "lossless"])),
    optional("summarization", Shape::Object(SUMMARIZATION)),
    optional("output", Shape::Output),
    optional("guardrails", Shape::Object(GUARDRAILS)),
    optional("limits", Shape::Object(LIMITS)),
    optional("retry", Shape::Object(RETRY)),
    optional("tool_failure", Shape::Choice(&["open", "closed"])),
    optional("child_templates", Shape::Texts),
    optional("mcp_servers", Shape::Texts),
    optional("collections", Shape::Texts),
    optional("capabilities", Shape::Texts),
    optional("cost_per_1k_tokens", Shape::NumberOrNull),
    optional("observed_latency_ms", Shape::WholeOrNull(OBSERVED_LATENCY_MS)),
];

const MODEL_PARAMS: &[Field] =
    &[optional("temperature", Shape::NumberOrNull), optional("max_output_tokens", Shape::Whole(MAX_OUTPUT_TOKENS))];

const PLANNING: &[Field] = &[optional("allow_replan", Shape::Flag)];

const SUMMARIZATION: &[Field] = &[
    optional("strategy", Shape::Choice(&["none", "hierarchical", "lossless"])),
    optional("trigger_tokens", Shape::Whole(TRIGGER_TOKENS)),
    optional("compression_ratio", Shape::Number),
    optional("preserve_entities", Shape::Flag),
];

const GUARDRAILS: &[Field] = &[optional("blocked_topics", Shape::Texts), optional("output_constraints", Shape::Texts)];

const LIMITS: &[Field] = &[
    optional("max_instances", Shape::Whole(MAX_INSTANCES)),
    optional("max_depth", Shape::Whole(MAX_DEPTH)),
    optional("max_parallel", Shape::Whole(MAX_PARALLEL)),
    optional("max_tool_calls", Shape::Whole(MAX_TOOL_CALLS)),
    optional("max_tokens", Shape::Whole(MAX_TOKENS)),
    optional("thinking_ms", Shape::Whole(CALL_MS)),
    optional("executing_ms", Shape::Whole(CALL_MS)),
    optional("blocked_ms", Shape::Whole(LIFE_MS)),
    optional("agent_timeout_ms", Shape::Whole(LIFE_MS)),
];

const RETRY: &[Field] = &[
    optional("max_retries", Shape::Whole(MAX_RETRIES)),
    optional("initial_delay_ms", Shape::Whole(DELAY_MS)),
    optional("max_delay_ms", Shape::Whole(DELAY_MS)),
];

/// Other spellings of fields at the top, with the pointer of what they mean.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("template_id", "/name"),
    ("prompt", "/system_prompt"),
    ("allowed_models", "/models"),
    ("model", "/models"),
    ("allowed_tools", "/tools"),
    ("execution_mode", "/mode"),
    ("context_policy", "/context"),
    ("output_format", "/output"),
    ("output_schema", "/output/schema"),
    ("temperature", "/model_params/temperature"),
    ("max_output_tokens", "/model_params/max_output_tokens"),
    ("max_tokens", "/model_params/max_output_tokens"),
];

impl Bounds {
    pub(super) const fn contains(self, number: u64) -> bool {
        self.min <= number && number <= self.max
    }

    pub(super) fn refusal(self, given: impl std::fmt::Display) -> String {
        format!("must be a whole number from {} to {}; it is {given}", self.min, self.max)
    }
}

impl Span {
    pub(super) fn contains(self, number: f64) -> bool {
        (self.min..=self.max).contains(&number)
    }

    pub(super) fn refusal(self, given: f64) -> String {
        format!("must be a number from {} to {}; it is {given}", self.min, self.max)
    }
}
