//! Settings: a file, then the environment, then flags; the later wins. `docs/configuration.md` lists them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueEnum;
use muster_engine::EngineConfig;
use serde::{Deserialize, de::IgnoredAny};

use crate::{
    address::Address,
    args::{Command, DatabaseArgs, FleetArgs, GlobalArgs, TraceArgs, WorkArgs},
    failure::Failure,
};

/// Where client commands look for a server.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:8080";
/// Where the API listens.
pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:8080";
/// Read when there is one and no other is named.
const DEFAULT_FILE: &str = "muster.toml";

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// One source of settings. What is absent is left to the source below it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Layer {
    database_url: Option<Address>,
    redis_url: Option<Address>,
    redis_prefix: Option<String>,
    listen: Option<String>,
    url: Option<String>,
    data: Option<PathBuf>,
    script: Option<PathBuf>,
    concurrency: Option<usize>,
    grace_ms: Option<u64>,
    lease_ttl_ms: Option<u64>,
    heartbeat_ms: Option<u64>,
    artifacts_read: Option<PathBuf>,
    artifacts_write: Option<PathBuf>,
    otlp_endpoint: Option<String>,
    log: Option<String>,
    log_format: Option<LogFormat>,
    engine: Option<EngineConfig>,
    #[serde(flatten)]
    unknown: BTreeMap<String, IgnoredAny>,
}

impl Layer {
    /// This, completed by what is below it.
    fn over(self, below: Self) -> Self {
        Self {
            database_url: self.database_url.or(below.database_url),
            redis_url: self.redis_url.or(below.redis_url),
            redis_prefix: self.redis_prefix.or(below.redis_prefix),
            listen: self.listen.or(below.listen),
            url: self.url.or(below.url),
            data: self.data.or(below.data),
            script: self.script.or(below.script),
            concurrency: self.concurrency.or(below.concurrency),
            grace_ms: self.grace_ms.or(below.grace_ms),
            lease_ttl_ms: self.lease_ttl_ms.or(below.lease_ttl_ms),
            heartbeat_ms: self.heartbeat_ms.or(below.heartbeat_ms),
            artifacts_read: self.artifacts_read.or(below.artifacts_read),
            artifacts_write: self.artifacts_write.or(below.artifacts_write),
            otlp_endpoint: self.otlp_endpoint.or(below.otlp_endpoint),
            log: self.log.or(below.log),
            log_format: self.log_format.or(below.log_format),
            engine: self.engine.or(below.engine),
            unknown: BTreeMap::new(),
        }
    }

    fn from_file(path: &Path) -> Result<Self, Failure> {
        let file = config::File::from(path).format(config::FileFormat::Toml);
        let layer: Self = config::Config::builder()
            .add_source(file)
            .build()
            .and_then(config::Config::try_deserialize)
            .map_err(|error| Failure::file(path, error))?;
        if layer.unknown.is_empty() {
            return Ok(layer);
        }
        let unknown: Vec<&str> = layer.unknown.keys().map(String::as_str).collect();
        Err(Failure::file(path, format!("unknown settings: {} (docs/configuration.md lists what there is)", unknown.join(", "))))
    }

    fn from_environment(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let get = |name: &str| get(name).filter(|value| !value.trim().is_empty());
        let log_format = get("MUSTER_LOG_FORMAT")
            .map(|value| {
                LogFormat::from_str(&value, true)
                    .map_err(|_| Failure::usage(format!("MUSTER_LOG_FORMAT is `{value}`; it must be text or json")))
            })
            .transpose()?;
        Ok(Self {
            database_url: get("MUSTER_DATABASE_URL").map(Address::new),
            redis_url: get("MUSTER_REDIS_URL").map(Address::new),
            redis_prefix: get("MUSTER_REDIS_PREFIX"),
            listen: get("MUSTER_LISTEN"),
            url: get("MUSTER_URL"),
            data: get("MUSTER_DATA").map(PathBuf::from),
            script: get("MUSTER_SCRIPT").map(PathBuf::from),
            concurrency: number(&get, "MUSTER_CONCURRENCY")?,
            grace_ms: number(&get, "MUSTER_GRACE_MS")?,
            lease_ttl_ms: number(&get, "MUSTER_LEASE_TTL_MS")?,
            heartbeat_ms: number(&get, "MUSTER_HEARTBEAT_MS")?,
            artifacts_read: get("MUSTER_ARTIFACTS_READ").map(PathBuf::from),
            artifacts_write: get("MUSTER_ARTIFACTS_WRITE").map(PathBuf::from),
            otlp_endpoint: get("MUSTER_OTLP_ENDPOINT"),
            log: get("MUSTER_LOG"),
            log_format,
            engine: None,
            unknown: BTreeMap::new(),
        })
    }

    fn from_flags(global: &GlobalArgs, command: &Command) -> Self {
        let said = match command {
            Command::Dev(dev) => Self {
                listen: dev.listen.clone(),
                data: dev.data.clone(),
                artifacts_read: dev.artifacts_read.clone(),
                artifacts_write: dev.artifacts_write.clone(),
                ..Self::of_work(&dev.work).over(Self::of_trace(&dev.trace))
            },
            Command::Api(api) => {
                Self { listen: api.listen.clone(), ..Self::of_fleet(&api.database, &api.fleet).over(Self::of_trace(&api.trace)) }
            }
            Command::Worker(worker) => Self {
                listen: worker.listen.clone(),
                ..Self::of_fleet(&worker.database, &worker.fleet).over(Self::of_work(&worker.work)).over(Self::of_trace(&worker.trace))
            },
            Command::Migrate(database) => Self { database_url: database.database_url.clone().map(Address::new), ..Self::default() },
            // The other commands have flags that are no settings.
            Command::Run(_) | Command::Agent(_) | Command::Instance(_) | Command::Demo(_) => Self::default(),
        };
        Self { log: global.log.clone(), log_format: global.log_format, ..said }
    }

    fn of_fleet(database: &DatabaseArgs, fleet: &FleetArgs) -> Self {
        Self {
            database_url: database.database_url.clone().map(Address::new),
            redis_url: fleet.redis_url.clone().map(Address::new),
            redis_prefix: fleet.redis_prefix.clone(),
            artifacts_read: fleet.artifacts_read.clone(),
            artifacts_write: fleet.artifacts_write.clone(),
            ..Self::default()
        }
    }

    fn of_work(work: &WorkArgs) -> Self {
        Self { concurrency: work.concurrency, grace_ms: work.grace_ms, script: work.script.clone(), ..Self::default() }
    }

    fn of_trace(trace: &TraceArgs) -> Self {
        Self { otlp_endpoint: trace.otlp_endpoint.clone(), ..Self::default() }
    }
}

fn number<T: std::str::FromStr>(get: &dyn Fn(&str) -> Option<String>, name: &str) -> Result<Option<T>, Failure> {
    get(name)
        .map(|value| value.trim().parse().map_err(|_| Failure::usage(format!("{name} is `{value}`; it must be a whole number, 0 or more"))))
        .transpose()
}

/// The settings of this process.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// PostgreSQL, for `api`, `worker` and `migrate`.
    pub(crate) database_url: Option<Address>,
    /// Redis, for `api` and `worker`.
    pub(crate) redis_url: Option<Address>,
    /// Before the names of all Redis keys.
    pub(crate) redis_prefix: String,
    /// Where to listen.
    pub(crate) listen: Option<String>,
    /// The server that client commands speak to.
    pub(crate) url: String,
    /// Where embedded fleets keep their data.
    pub(crate) data: Option<PathBuf>,
    /// Instances that a worker holds at once.
    pub(crate) concurrency: usize,
    /// How long calls in progress may take once it drains.
    pub(crate) grace: Duration,
    /// A worker is dead when its heartbeat is older.
    pub(crate) lease_ttl: Duration,
    /// Between two heartbeats.
    pub(crate) heartbeat: Duration,
    /// What agents may read.
    pub(crate) artifacts_read: Option<PathBuf>,
    /// Where agents may write.
    pub(crate) artifacts_write: Option<PathBuf>,
    /// Where traces go.
    pub(crate) otlp_endpoint: Option<String>,
    /// What is logged.
    pub(crate) log: Option<String>,
    /// How it is logged.
    pub(crate) log_format: LogFormat,
    /// The models.
    pub(crate) engine: EngineConfig,
}

impl Config {
    /// The settings for a command, from everywhere.
    pub(crate) fn load(global: &GlobalArgs, command: &Command) -> Result<Self, Failure> {
        Self::from(global, command, &|name| std::env::var(name).ok())
    }

    fn from(global: &GlobalArgs, command: &Command, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let named = global.config.clone().or_else(|| environment("MUSTER_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from));
        let path = named.or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.is_file()));
        let file = path.as_deref().map(Layer::from_file).transpose()?.unwrap_or_default();
        let layer = Layer::from_flags(global, command).over(Layer::from_environment(environment)?).over(file);
        Self::complete(layer, environment)
    }

    fn complete(layer: Layer, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let mut engine = engine(layer.engine.unwrap_or_default(), environment)?;
        engine.script = layer.script.or(engine.script);
        let config = Self {
            database_url: layer.database_url,
            redis_url: layer.redis_url,
            redis_prefix: layer.redis_prefix.unwrap_or_else(|| "muster".to_owned()),
            listen: layer.listen,
            url: layer.url.unwrap_or_else(|| DEFAULT_URL.to_owned()),
            data: layer.data,
            concurrency: layer.concurrency.unwrap_or(256),
            grace: Duration::from_millis(layer.grace_ms.unwrap_or(30_000)),
            lease_ttl: Duration::from_millis(layer.lease_ttl_ms.unwrap_or(10_000)),
            heartbeat: Duration::from_millis(layer.heartbeat_ms.unwrap_or(2_000)),
            artifacts_read: layer.artifacts_read,
            artifacts_write: layer.artifacts_write,
            otlp_endpoint: layer.otlp_endpoint,
            log: layer.log,
            log_format: layer.log_format.unwrap_or_default(),
            engine,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), Failure> {
        if self.concurrency == 0 {
            return Err(Failure::usage("concurrency is 0; a worker needs at least one slot"));
        }
        // A lease must survive one lost heartbeat.
        if self.heartbeat.is_zero() || self.heartbeat * 2 >= self.lease_ttl {
            let (heartbeat, ttl) = (self.heartbeat.as_millis(), self.lease_ttl.as_millis());
            return Err(Failure::usage(format!(
                "heartbeat_ms is {heartbeat}; it must be more than 0 and less than half of lease_ttl_ms, {ttl}"
            )));
        }
        Ok(())
    }
}

/// The models of the file and of the environment. Providers of the file win, since they say more; the default
/// model of the environment wins where somebody named one.
fn engine(file: EngineConfig, environment: &dyn Fn(&str) -> Option<String>) -> Result<EngineConfig, Failure> {
    let found = EngineConfig::from_environment(environment).map_err(|faults| Failure::faulty("the environment", faults))?;
    let Some(found) = found else { return Ok(file) };
    let named = environment("MUSTER_MODEL").is_some_and(|model| !model.trim().is_empty());
    let default_model = if named { found.default_model.clone() } else { None };
    let mut engine = file.or(found);
    engine.default_model = default_model.or(engine.default_model);
    Ok(engine)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    fn global(config: Option<&Path>) -> GlobalArgs {
        GlobalArgs { config: config.map(Path::to_owned), log: None, log_format: None }
    }

    fn command(line: &str) -> Command {
        Cli::try_parse_from(line.split(' ')).unwrap().command
    }

    fn load(file: &str, variables: &[(&str, &str)], line: &str) -> Result<Config, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.toml");
        std::fs::write(&path, file).unwrap();
        Config::from(&global(Some(&path)), &command(line), &|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let file = "listen = \"file:1\"\nredis_prefix = \"file\"\nconcurrency = 3\nlease_ttl_ms = 5000\n";
        let environment = [("MUSTER_LISTEN", "env:1"), ("MUSTER_REDIS_PREFIX", "env"), ("MUSTER_GRACE_MS", "7"), ("MUSTER_URL", "")];
        let config = load(file, &environment, "muster worker --listen flag:1").unwrap();
        assert_eq!(config.listen.as_deref(), Some("flag:1"));
        assert_eq!(config.redis_prefix, "env");
        assert_eq!((config.concurrency, config.lease_ttl.as_millis(), config.grace.as_millis()), (3, 5000, 7));
        assert_eq!(config.url, DEFAULT_URL);
    }

    #[test]
    fn a_command_knows_only_the_flags_that_mean_something_to_it() {
        let known = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        for line in ["muster api --data d", "muster api --concurrency 3", "muster migrate --listen a:1", "muster dev --redis-url redis://h"]
        {
            assert!(!known(line), "{line}");
        }
        let line = "muster worker --database-url postgres://h/d --redis-url redis://h --concurrency 3 --otlp-endpoint http://o --script s";
        let config = load("", &[], line).unwrap();
        assert_eq!((config.concurrency, config.otlp_endpoint.as_deref(), config.engine.script), (3, Some("http://o"), Some("s".into())));
        assert!(config.database_url.is_some() && config.redis_url.is_some());
    }

    #[test]
    fn unknown_settings_of_the_file_are_all_named() {
        let message = load("lisen = \"x\"\nconcurency = 3\n", &[], "muster migrate").unwrap_err().message;
        assert!(message.contains("unknown settings: concurency, lisen"), "{message}");
        let message = load("[engine]\nmodel = \"x\"\n", &[], "muster migrate").unwrap_err().message;
        assert!(message.contains("model"), "{message}");
    }

    #[test]
    fn settings_of_the_wrong_kind_are_named() {
        for (file, variables) in
            [("concurrency = \"many\"", vec![]), ("", vec![("MUSTER_CONCURRENCY", "many")]), ("", vec![("MUSTER_LOG_FORMAT", "x")])]
        {
            let failure = load(file, &variables, "muster migrate").unwrap_err();
            assert!(failure.message.to_lowercase().contains("concurrency") || failure.message.contains("LOG_FORMAT"), "{failure}");
        }
        assert!(load("heartbeat_ms = 5000", &[], "muster migrate").unwrap_err().message.contains("heartbeat_ms"));
    }

    #[test]
    fn a_file_that_is_named_must_be_there() {
        let missing = Config::from(&global(Some(Path::new("/nowhere/m.toml"))), &command("muster migrate"), &|_| None);
        assert!(missing.unwrap_err().message.contains("/nowhere/m.toml"));
    }

    #[test]
    fn engines_of_the_file_and_the_environment_come_together() {
        let file = "[engine]\ndefault_model = \"openai/a\"\n[[engine.providers]]\nname = \"openai\"\napi_key = \"env:K\"\ntimeout_ms = 5\n";
        let config = load(file, &[("OPENAI_API_KEY", "k")], "muster migrate").unwrap();
        assert_eq!((config.engine.default_model(), config.engine.providers.len()), ("openai/a", 1));
        assert_eq!(config.engine.providers[0].timeout_ms, Some(5));
        let config = load(file, &[("OPENAI_API_KEY", "k"), ("MUSTER_MODEL", "b")], "muster migrate").unwrap();
        assert_eq!(config.engine.default_model(), "openai/b");
    }

    #[test]
    fn passwords_are_never_shown() {
        let config = load("database_url = \"postgres://u:secret@h/d\"", &[], "muster migrate").unwrap();
        assert!(!format!("{config:?}").contains("secret"));
    }
}
