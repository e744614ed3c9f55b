//! Which providers there are: from a configuration file, and from the environment.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use muster_shared::error::{Fault, Faults};
use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::{glob::Glob, router::OFFLINE, secret::KeySource};

/// The model that `OPENAI_API_KEY` alone stands for.
pub const OPENAI_DEFAULT_MODEL: &str = "gpt-4o-mini";

/// Addresses of well-known servers, by the name of the provider.
const PRESETS: [(&str, &str); 5] = [
    ("openai", "https://api.openai.com/v1"),
    ("groq", "https://api.groq.com/openai/v1"),
    ("ollama", "http://127.0.0.1:11434/v1"),
    ("vllm", "http://127.0.0.1:8000/v1"),
    ("litellm", "http://127.0.0.1:4000/v1"),
];

/// What the engine can reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// Providers beside `offline`, which is always there.
    pub providers: Vec<ProviderConfig>,
    /// The YAML file of `offline/script`; a built-in script without one.
    pub script: Option<PathBuf>,
    /// The model for whoever names none; `offline/extract` unless said otherwise.
    pub default_model: Option<String>,
}

/// One provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    /// The prefix of its models: lower-case letters, digits, `-` and `_`.
    pub name: String,
    /// What it speaks.
    #[serde(default)]
    pub kind: ProviderKind,
    /// Up to and without `/chat/completions`. Known by name for openai, groq, ollama, vllm and litellm.
    #[serde(default)]
    pub base_url: Option<String>,
    /// `env:NAME` or `file:/path`; none for servers that want no key.
    #[serde(default)]
    pub api_key: Option<KeySource>,
    /// The models that it serves.
    #[serde(default)]
    pub models: Models,
    /// A call is given up after this time, or after that of the request if it is shorter.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// How it is told to answer in JSON.
    #[serde(default)]
    pub structured: Structured,
}

/// What a provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// OpenAI's chat completions, as many servers speak them.
    #[default]
    Openai,
}

/// How a provider is told to answer in JSON. The system prompt names the schema in any case, and the answer
/// is validated in any case; a server that refuses one way (status 400) is configured to use the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Structured {
    /// `response_format: json_schema`; `json_object` where there is no schema.
    #[default]
    JsonSchema,
    /// `response_format: json_object`, and only when no tools are offered.
    JsonObject,
    /// Nothing but the system prompt.
    Prompt,
}

/// The models of a provider: `"*"`, or a list of names in which `*` stands for any characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Models {
    /// One name or pattern.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Default for Models {
    fn default() -> Self {
        Self::One("*".to_owned())
    }
}

impl Models {
    /// The names and patterns.
    pub fn patterns(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    pub(crate) fn globs(&self) -> Vec<Glob> {
        self.patterns().iter().map(|pattern| Glob::new(pattern)).collect()
    }
}

impl EngineConfig {
    /// What the environment says; `None` when it says nothing.
    ///
    /// - `MUSTER_MODEL` with `MUSTER_MODEL_URL`: a provider `env`, its key in `MUSTER_MODEL_KEY` if it wants one;
    ///   its model is the default.
    /// - `OPENAI_API_KEY`: the provider `openai`. The default model is `MUSTER_MODEL`, else `openai/gpt-4o-mini`.
    pub fn from_env() -> Result<Option<Self>, Faults> {
        Self::from_environment(&|name| std::env::var(name).ok())
    }

    /// [`EngineConfig::from_env`], with another environment. Empty variables count as absent.
    pub fn from_environment(environment: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, Faults> {
        let get = |name: &str| environment(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let (model, url, openai) = (get("MUSTER_MODEL"), get("MUSTER_MODEL_URL"), get("OPENAI_API_KEY").is_some());
        let mut config = Self::default();
        if openai {
            let mut provider = ProviderConfig::named("openai");
            provider.api_key = Some(KeySource::Env("OPENAI_API_KEY".to_owned()));
            config.providers.push(provider);
            config.default_model = Some(format!("openai/{OPENAI_DEFAULT_MODEL}"));
        }
        match (model, url) {
            (Some(model), Some(url)) => {
                let mut provider = ProviderConfig::named("env");
                provider.base_url = Some(url);
                provider.api_key = get("MUSTER_MODEL_KEY").map(|_| KeySource::Env("MUSTER_MODEL_KEY".to_owned()));
                config.providers.push(provider);
                config.default_model = Some(format!("env/{model}"));
            }
            (Some(model), None) if model.contains('/') => config.default_model = Some(model),
            (Some(model), None) if openai => config.default_model = Some(format!("openai/{model}")),
            (Some(_), None) => {
                let detail =
                    "MUSTER_MODEL names a model without a provider: write provider/model, or set MUSTER_MODEL_URL or OPENAI_API_KEY too";
                return Err(Faults(vec![Fault::new("/default_model", detail)]));
            }
            (None, Some(_)) => {
                return Err(Faults(vec![Fault::new(
                    "/default_model",
                    "MUSTER_MODEL_URL is set, but MUSTER_MODEL does not say which model",
                )]));
            }
            (None, None) => {}
        }
        Ok((config != Self::default()).then_some(config))
    }

    /// This configuration, completed by `other`: its providers of other names, its script and default model
    /// where this has none.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        let names: BTreeSet<String> = self.providers.iter().map(|provider| provider.name.clone()).collect();
        self.providers.extend(other.providers.into_iter().filter(|provider| !names.contains(&provider.name)));
        self.script = self.script.or(other.script);
        self.default_model = self.default_model.or(other.default_model);
        self
    }

    /// The model for whoever names none.
    pub fn default_model(&self) -> &str {
        self.default_model.as_deref().unwrap_or(crate::router::OFFLINE_EXTRACT)
    }
}

impl ProviderConfig {
    /// An OpenAI-compatible provider that serves every model and wants no key.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: ProviderKind::Openai,
            base_url: None,
            api_key: None,
            models: Models::default(),
            timeout_ms: None,
            structured: Structured::default(),
        }
    }

    /// Where it is, as configured or by its name; without a slash at the end.
    pub(crate) fn address(&self) -> Result<Url, String> {
        let preset = || PRESETS.iter().find(|(name, _)| *name == self.name).map(|(_, url)| (*url).to_owned());
        let Some(text) = self.base_url.clone().or_else(preset) else {
            let known: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
            return Err(format!("`{}` needs a base_url; without one only {} are known", self.name, known.join(", ")));
        };
        // The text itself is not repeated in errors: it may hold credentials.
        let url = Url::parse(text.trim().trim_end_matches('/')).map_err(|error| format!("not a URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err("an address of a server begins with http:// or https://".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("credentials do not belong into a URL: use api_key".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("a base_url has no query and no fragment".to_owned());
        }
        Ok(url)
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout_ms.map(Duration::from_millis)
    }
}

/// What is wrong with the configuration itself, before anything is opened or looked up.
pub(crate) fn faults(config: &EngineConfig) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut seen = BTreeSet::from([OFFLINE]);
    for (index, provider) in config.providers.iter().enumerate() {
        let mut fault = |field: &str, detail: String| faults.push(Fault::new(format!("/providers/{index}/{field}"), detail));
        let name = provider.name.as_str();
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(good) {
            fault("name", "a name has 1 to 64 lower-case letters, digits, `-` and `_`".to_owned());
        } else if !seen.insert(name) {
            fault("name", format!("the name `{name}` is taken"));
        }
        if let Err(why) = provider.address() {
            fault("base_url", why);
        }
        if provider.models.patterns().iter().any(|pattern| pattern.trim().is_empty()) || provider.models.patterns().is_empty() {
            fault("models", "name the models, or write \"*\"".to_owned());
        }
        if provider.timeout_ms == Some(0) {
            fault("timeout_ms", "a call needs more than no time".to_owned());
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<Option<EngineConfig>, Faults> {
        EngineConfig::from_environment(&|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_environment_names_providers_and_the_default_model() {
        assert_eq!(from(&[]), Ok(None));
        assert_eq!(from(&[("OPENAI_API_KEY", "")]), Ok(None));
        let default = |variables: &[(&str, &str)]| {
            let config = from(variables).expect("valid").expect("something");
            assert!(faults(&config).is_empty());
            (config.default_model().to_owned(), config.providers.iter().map(|provider| provider.name.clone()).collect::<Vec<_>>())
        };
        let url = ("MUSTER_MODEL_URL", "http://localhost:1/v1/");
        assert_eq!(default(&[("OPENAI_API_KEY", "k")]), ("openai/gpt-4o-mini".to_owned(), vec!["openai".to_owned()]));
        assert_eq!(default(&[("OPENAI_API_KEY", "k"), ("MUSTER_MODEL", "gpt-x")]).0, "openai/gpt-x");
        assert_eq!(default(&[("MUSTER_MODEL", "llama"), url]), ("env/llama".to_owned(), vec!["env".to_owned()]));
        assert_eq!(default(&[("MUSTER_MODEL", "a/b"), url, ("OPENAI_API_KEY", "k")]).0, "env/a/b");
        assert_eq!(default(&[("MUSTER_MODEL", "offline/script")]).0, "offline/script");
        for wrong in [vec![("MUSTER_MODEL", "llama")], vec![url]] {
            assert!(from(&wrong).unwrap_err().to_string().contains("MUSTER_MODEL"));
        }
    }

    #[test]
    fn a_key_of_the_environment_is_only_named() {
        let config = from(&[("MUSTER_MODEL", "m"), ("MUSTER_MODEL_URL", "http://h/v1"), ("MUSTER_MODEL_KEY", "sk-secret")]);
        let text = serde_json::to_string(&config.expect("valid").expect("something")).expect("JSON");
        assert!(text.contains("env:MUSTER_MODEL_KEY") && !text.contains("sk-secret"), "{text}");
    }

    #[test]
    fn the_first_of_two_configurations_wins() {
        let mut file = EngineConfig { default_model: Some("openai/a".to_owned()), ..EngineConfig::default() };
        file.providers.push(ProviderConfig { timeout_ms: Some(5), ..ProviderConfig::named("openai") });
        let environment = from(&[("OPENAI_API_KEY", "k"), ("MUSTER_MODEL", "m"), ("MUSTER_MODEL_URL", "http://h/v1")]).unwrap().unwrap();
        let both = file.or(environment);
        assert_eq!(both.default_model(), "openai/a");
        assert_eq!(
            both.providers.iter().map(|provider| (provider.name.as_str(), provider.timeout_ms)).collect::<Vec<_>>(),
            [("openai", Some(5)), ("env", None)]
        );
    }
}
