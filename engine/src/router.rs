//! One engine before all providers: finds the provider by the prefix of `provider/model`.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use muster_shared::{
    engine::{Engine, ModelError, ModelReply, ModelRequest},
    error::{Fault, Faults},
};
use tracing::Instrument as _;

use crate::{
    config::{self, EngineConfig},
    errors,
    extract::Extract,
    openai::OpenAi,
    script::{Script, ScriptEngine},
    telemetry,
};

/// The name of the provider that needs no key and no network.
pub(crate) const OFFLINE: &str = "offline";

/// The model that always works.
pub const OFFLINE_EXTRACT: &str = "offline/extract";

/// Dispatches calls to named providers. A provider is asked with its prefix taken off: `openai/gpt-x` reaches
/// the provider `openai` as `gpt-x`.
pub struct Router {
    providers: BTreeMap<String, Arc<dyn Engine>>,
    default_model: String,
}

/// Collects providers. Start with [`Router::builder`].
pub struct RouterBuilder {
    providers: BTreeMap<String, Arc<dyn Engine>>,
    default_model: String,
    faults: Vec<Fault>,
}

impl Router {
    /// A builder without any provider.
    pub fn builder() -> RouterBuilder {
        RouterBuilder { providers: BTreeMap::new(), default_model: OFFLINE_EXTRACT.to_owned(), faults: Vec::new() }
    }

    /// Only the offline provider, with the built-in script.
    pub fn offline() -> Self {
        let providers = BTreeMap::from([(OFFLINE.to_owned(), Arc::new(Offline::default()) as Arc<dyn Engine>)]);
        Self { providers, default_model: OFFLINE_EXTRACT.to_owned() }
    }

    /// The offline provider and what the configuration names. A key that is missing, a script that cannot be
    /// read and a default model that nobody serves are faults here, at the start, not at the first call.
    pub fn from_config(config: &EngineConfig) -> Result<Self, Faults> {
        Self::from_config_with(config, &|name| std::env::var(name).ok())
    }

    /// [`Router::from_config`], with another environment.
    pub fn from_config_with(config: &EngineConfig, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, Faults> {
        let mut faults = config::faults(config);
        let mut builder = Self::builder();
        match offline(config) {
            Ok(offline) => builder = builder.provider(OFFLINE, Arc::new(offline)),
            Err(fault) => faults.push(fault),
        }
        if faults.is_empty() {
            for (index, provider) in config.providers.iter().enumerate() {
                match OpenAi::from_config(provider, environment) {
                    Ok(made) => builder = builder.provider(&provider.name, Arc::new(made)),
                    Err((field, why)) => faults.push(Fault::new(format!("/providers/{index}/{field}"), why)),
                }
            }
        }
        Faults::check(faults)?;
        if let Some(model) = &config.default_model {
            builder = builder.default_model(model);
        }
        builder.build()
    }

    /// The model that is used where none is named: `provider/model`.
    pub fn default_model(&self) -> &str {
        &self.default_model
    }

    /// Provider, its name, and the model as the provider calls it.
    fn resolve<'a>(&'a self, model: &'a str) -> Option<(&'a str, &'a Arc<dyn Engine>, &'a str)> {
        let (name, bare) = match model.split_once('/') {
            Some(parts) => parts,
            None => (self.default_model.split_once('/')?.0, model),
        };
        let (name, provider) = self.providers.get_key_value(name)?;
        provider.knows(bare).then_some((name.as_str(), provider, bare))
    }
}

impl RouterBuilder {
    /// Adds a provider under a name of its own.
    #[must_use]
    pub fn provider(mut self, name: &str, provider: Arc<dyn Engine>) -> Self {
        if self.providers.insert(name.to_owned(), provider).is_some() {
            self.faults.push(Fault::new("/providers", format!("the provider `{name}` is there twice")));
        }
        self
    }

    /// The model for whoever names none. `offline/extract` unless said otherwise.
    #[must_use]
    pub fn default_model(mut self, model: &str) -> Self {
        model.clone_into(&mut self.default_model);
        self
    }

    /// Checks that names are unique and that somebody serves the default model.
    pub fn build(mut self) -> Result<Router, Faults> {
        let router = Router { providers: self.providers, default_model: self.default_model };
        let model = &router.default_model;
        if !model.contains('/') || !router.knows(model) {
            let detail = format!("`{model}` is served by no provider; known: {}", router.models().join(", "));
            self.faults.push(Fault::new("/default_model", detail));
        }
        Faults::check(self.faults)?;
        Ok(router)
    }
}

#[async_trait]
impl Engine for Router {
    async fn complete(&self, mut request: ModelRequest) -> Result<ModelReply, ModelError> {
        let Some((name, provider, bare)) = self.resolve(&request.model) else {
            let known = self.models().join(", ");
            return Err(errors::unknown_model(format!("no provider serves `{}`; known: {known}", request.model)));
        };
        let (name, provider, bare) = (name.to_owned(), Arc::clone(provider), bare.to_owned());
        request.model = bare;
        let span = telemetry::model_call(&name, &request);
        let outcome = provider.complete(request).instrument(span.clone()).await;
        telemetry::record(&span, &outcome);
        outcome
    }

    fn knows(&self, model: &str) -> bool {
        self.resolve(model).is_some()
    }

    fn models(&self) -> Vec<String> {
        self.providers
            .iter()
            .flat_map(|(name, provider)| provider.models().into_iter().map(move |model| format!("{name}/{model}")))
            .collect()
    }
}

/// The two offline models under one name.
#[derive(Default)]
struct Offline {
    extract: Extract,
    script: ScriptEngine,
}

const EXTRACT: &str = "extract";
const SCRIPT: &str = "script";

fn offline(config: &EngineConfig) -> Result<Offline, Fault> {
    let script = match &config.script {
        None => ScriptEngine::default(),
        Some(path) => {
            ScriptEngine::new(Script::load(path).map_err(|faults| Fault::new("/script", format!("{}: {faults}", path.display())))?)
        }
    };
    Ok(Offline { extract: Extract, script })
}

#[async_trait]
impl Engine for Offline {
    async fn complete(&self, request: ModelRequest) -> Result<ModelReply, ModelError> {
        match request.model.as_str() {
            EXTRACT => self.extract.complete(request).await,
            SCRIPT => self.script.complete(request).await,
            other => Err(errors::unknown_model(format!("the offline provider has the models `{EXTRACT}` and `{SCRIPT}`, not `{other}`"))),
        }
    }

    fn knows(&self, model: &str) -> bool {
        matches!(model, EXTRACT | SCRIPT)
    }

    fn models(&self) -> Vec<String> {
        vec![EXTRACT.to_owned(), SCRIPT.to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use muster_shared::error::{ErrorClass, Retryable};
    use serde_json::json;

    use super::*;
    use crate::testing::request;

    fn configured(config: serde_json::Value, environment: &dyn Fn(&str) -> Option<String>) -> Result<Router, Faults> {
        Router::from_config_with(&serde_json::from_value(config).expect("a configuration"), environment)
    }

    #[tokio::test]
    async fn the_offline_models_answer_with_nothing_configured() {
        let router = configured(json!({}), &|_| None).expect("offline");
        assert_eq!(router.default_model(), "offline/extract");
        assert_eq!(router.models(), ["offline/extract", "offline/script"]);
        assert!(router.knows("extract"), "a bare model belongs to the default provider");
        for model in ["offline/extract", "extract", "offline/script"] {
            let reply = router.complete(request(model, "Say that water is wet.")).await.expect("an answer");
            assert!(reply.text.contains("water is wet"), "{model}: {}", reply.text);
        }
    }

    #[tokio::test]
    async fn an_unknown_model_is_refused_and_the_known_ones_are_named() {
        let router = Router::offline();
        for model in ["offline/other", "nobody/extract", "other", ""] {
            assert!(!router.knows(model), "{model}");
            let failed = router.complete(request(model, "x")).await.expect_err("unknown");
            assert_eq!(
                (failed.error.code.as_str(), failed.error.class, failed.retry),
                ("unknown_model", ErrorClass::Validation, Retryable::Never)
            );
            assert!(failed.error.message.contains("offline/extract"), "{failed}");
        }
    }

    #[test]
    fn every_fault_of_a_configuration_is_reported() {
        let faults = configured(
            json!({
                "script": "/nowhere/script.yaml",
                "providers": [
                    { "name": "a/b", "base_url": "ftp://x" },
                    { "name": "offline", "base_url": "http://user:pass@host/v1" },
                    { "name": "mystery" },
                ],
            }),
            &|_| None,
        )
        .err()
        .expect("faults");
        let pointers: Vec<&str> = faults.0.iter().map(|fault| fault.pointer.as_str()).collect();
        let expected = [
            "/providers/0/name",
            "/providers/0/base_url",
            "/providers/1/name",
            "/providers/1/base_url",
            "/providers/2/base_url",
            "/script",
        ];
        assert_eq!(pointers, expected, "{faults}");
        assert!(!faults.to_string().contains("pass"), "{faults}");
    }

    #[test]
    fn a_missing_key_is_said_at_the_start() {
        let config = json!({ "providers": [{ "name": "openai", "api_key": "env:OPENAI_API_KEY" }] });
        let faults = configured(config.clone(), &|_| None).err().expect("no key");
        assert_eq!(faults.to_string(), "/providers/0/api_key: the environment variable OPENAI_API_KEY is not set");
        let router = configured(config, &|_| Some("sk-1".to_owned())).expect("a key");
        assert!(router.knows("openai/anything") && router.models().contains(&"openai/*".to_owned()));
    }

    #[test]
    fn a_default_model_that_nobody_serves_is_a_fault() {
        let faults = configured(json!({ "default_model": "openai/gpt" }), &|_| None).err().expect("nobody serves it");
        assert!(faults.to_string().starts_with("/default_model: `openai/gpt` is served by no provider"), "{faults}");
    }
}
