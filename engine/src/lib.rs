//! The shared inference engine of Muster: one [`Router`] before all providers.
//!
//! | model | provider |
//! |---|---|
//! | `offline/extract` | [`extract::Extract`]: deterministic, no key, no network |
//! | `offline/script` | [`script::ScriptEngine`]: answers by a YAML file, for tests and benchmarks |
//! | `NAME/model` | [`openai::OpenAi`]: any server that speaks OpenAI's chat completions |
//!
//! The engine owns no state that outlives a call. It never retries (a retry is a step that the core decides
//! on and journals), never logs prompts, answers or keys, and never follows a redirect.

pub mod config;
mod errors;
pub mod extract;
mod glob;
pub mod openai;
mod router;
pub mod script;
pub mod secret;
pub mod telemetry;
mod tokens;

pub use config::{EngineConfig, Models, ProviderConfig, ProviderKind, Structured};
pub use router::{OFFLINE_EXTRACT, Router, RouterBuilder};
pub use secret::{KeySource, Secret};

#[cfg(test)]
pub(crate) mod testing;
