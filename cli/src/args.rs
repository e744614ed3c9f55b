//! The command line: what can be said, with examples. What it means is elsewhere.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{config::LogFormat, output::Format};

// Paragraphs are one line each: the terminal's width breaks them.
const EXIT_CODES: &str = "\
Exit codes: 0 done · 1 what was asked for failed (a run failed, there is no such thing) · 2 the command line, the configuration, a file \
or a request is not valid · 3 the server, the database or Redis cannot be reached · 130 interrupted

Settings come from a file (--config, else MUSTER_CONFIG, else ./muster.toml), then from MUSTER_… variables, then from flags: the later \
wins. docs/configuration.md lists them.";

/// Runs fleets of policy-governed agents.
#[derive(Debug, Parser)]
#[command(name = "muster", version, after_help = EXIT_CODES, max_term_width = 120, propagate_version = true)]
pub(crate) struct Cli {
    /// What every command understands.
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
pub(crate) struct GlobalArgs {
    /// The configuration file [env: MUSTER_CONFIG] [default: ./muster.toml, if there is one]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) config: Option<PathBuf>,
    /// What is logged to standard error: `debug`, `info,sqlx=warn` [env: MUSTER_LOG]
    #[arg(long, global = true, value_name = "FILTER", help_heading = "Global options")]
    pub(crate) log: Option<String>,
    /// The form of the log [env: MUSTER_LOG_FORMAT]
    #[arg(long, global = true, value_name = "FORMAT", help_heading = "Global options")]
    pub(crate) log_format: Option<LogFormat>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole fleet in this process: API, worker, SQLite, in-process queue
    #[command(after_help = "Examples:\n  muster dev\n  muster dev --data /tmp/fleet --listen 127.0.0.1:0")]
    Dev(DevArgs),
    /// Run the HTTP API (PostgreSQL and Redis)
    #[command(after_help = "Example:\n  MUSTER_DATABASE_URL=postgres://… MUSTER_REDIS_URL=redis://… muster api --listen 0.0.0.0:8080")]
    Api(ApiArgs),
    /// Run a worker (PostgreSQL and Redis)
    #[command(
        after_help = "With --listen it also serves /healthz, /readyz and /metrics.\n\nExamples:\n  muster worker --concurrency 500\n  \
                            muster worker --listen 0.0.0.0:9090"
    )]
    Worker(WorkerArgs),
    /// Bring the database to the schema that this binary knows
    #[command(after_help = "Example:\n  MUSTER_DATABASE_URL=postgres://… muster migrate")]
    Migrate(DatabaseArgs),
    /// Run a file, or look at runs
    #[command(
        args_conflicts_with_subcommands = true,
        subcommand_negates_reqs = true,
        after_help = "Examples:\n  muster run examples/summarize.yaml --input 'docs/**/*.md'\n  muster run work.yaml --set topic=bees --detach\n  \
                      muster run examples/summarize.yaml --data .muster/demo     (no server needed)\n  muster run result run_…"
    )]
    Run(RunArgs),
    /// Agent templates
    #[command(subcommand, after_help = "Example:\n  muster agent apply examples/templates/*.yaml")]
    Agent(AgentCommand),
    /// Single agents of a run
    #[command(subcommand, after_help = "Example:\n  muster instance events ins_…")]
    Instance(InstanceCommand),
    /// Fan agents out over real files and reduce their answers: no server, key or network needed
    #[command(
        after_help = "With OPENAI_API_KEY, or MUSTER_MODEL and MUSTER_MODEL_URL, that model answers instead of the offline one.\n\nExamples:\n  \
                            muster demo\n  muster demo --input 'notes/**/*.md' --out report.md"
    )]
    Demo(DemoArgs),
}

/// `muster dev`.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Where the fleet keeps its data [env: MUSTER_DATA] [default: .muster]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Where to listen [env: MUSTER_LISTEN] [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// What agents may read [env: MUSTER_ARTIFACTS_READ] [default: the working directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) artifacts_read: Option<PathBuf>,
    /// Where agents may write [env: MUSTER_ARTIFACTS_WRITE] [default: artifacts in the data directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) artifacts_write: Option<PathBuf>,
    /// How it works.
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    /// Where traces go.
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
}

/// `muster api`.
#[derive(Debug, Args)]
pub(crate) struct ApiArgs {
    /// Where to listen [env: MUSTER_LISTEN] [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// The database.
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    /// Redis, and files.
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
    /// Where traces go.
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
}

/// `muster worker`.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// Where to serve health and metrics [env: MUSTER_LISTEN] [default: nowhere]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// The database.
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    /// Redis, and files.
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
    /// How it works.
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    /// Where traces go.
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
}

/// The database; all that `muster migrate` needs.
#[derive(Debug, Args)]
pub(crate) struct DatabaseArgs {
    /// PostgreSQL: postgres://user:password@host:5432/database [env: MUSTER_DATABASE_URL]
    #[arg(long, value_name = "URL")]
    pub(crate) database_url: Option<String>,
}

/// What the processes of a fleet share beside the database.
#[derive(Debug, Args)]
pub(crate) struct FleetArgs {
    /// Redis: redis://host:6379 [env: MUSTER_REDIS_URL]
    #[arg(long, value_name = "URL")]
    pub(crate) redis_url: Option<String>,
    /// Before the names of all Redis keys [env: MUSTER_REDIS_PREFIX] [default: muster]
    #[arg(long, value_name = "NAME")]
    pub(crate) redis_prefix: Option<String>,
    /// What agents may read; the same for the API and its workers [env: MUSTER_ARTIFACTS_READ] [default: nothing]
    #[arg(long, value_name = "DIR")]
    pub(crate) artifacts_read: Option<PathBuf>,
    /// Where agents may write; given if and only if --artifacts-read is [env: MUSTER_ARTIFACTS_WRITE] [default: nowhere]
    #[arg(long, value_name = "DIR")]
    pub(crate) artifacts_write: Option<PathBuf>,
}

/// How a worker works.
#[derive(Debug, Args)]
pub(crate) struct WorkArgs {
    /// Instances that the worker holds at once [env: MUSTER_CONCURRENCY] [default: 256]
    #[arg(long, value_name = "N")]
    pub(crate) concurrency: Option<usize>,
    /// How long a draining worker lets calls in progress finish [env: MUSTER_GRACE_MS] [default: 30000]
    #[arg(long, value_name = "MS")]
    pub(crate) grace_ms: Option<u64>,
    /// The script of the model `offline/script` [env: MUSTER_SCRIPT]
    #[arg(long, value_name = "FILE")]
    pub(crate) script: Option<PathBuf>,
}

/// Where traces go.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// Where traces are sent, OTLP over HTTP: http://collector:4318 [env: MUSTER_OTLP_ENDPOINT] [default: nowhere]
    #[arg(long, value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,
}

/// Which fleet a client command speaks to.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct TargetArgs {
    /// The server [env: MUSTER_URL] [default: http://127.0.0.1:8080]
    #[arg(long, value_name = "URL", conflicts_with = "data")]
    pub(crate) url: Option<String>,
    /// The data directory of an embedded fleet; it need not be running
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

/// Which fleet, and the form of the answer.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ClientArgs {
    /// Which fleet.
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// The form of what is printed
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    pub(crate) output: Format,
}

/// `muster run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Looking at runs.
    #[command(subcommand)]
    pub(crate) command: Option<RunCommand>,
    /// Running a file.
    #[command(flatten)]
    pub(crate) file: RunFileArgs,
}

/// `muster run FILE`.
#[derive(Debug, Args)]
pub(crate) struct RunFileArgs {
    /// The run file, YAML or JSON
    #[arg(value_name = "FILE", required = true)]
    pub(crate) file: Option<PathBuf>,
    /// One agent for each file that this matches, instead of what the run file says; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub(crate) input: Vec<String>,
    /// The value of `{{KEY}}` in the run file; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// The model of the templates that the run file brings, instead of theirs
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Print the run's id and leave it running
    #[arg(long)]
    pub(crate) detach: bool,
    /// Which fleet, and the form of the answer.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `muster run …`.
#[derive(Debug, Subcommand)]
pub(crate) enum RunCommand {
    /// List runs, newest first
    List {
        /// How many at most, 1 to 1000
        #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Which fleet, and the form of the answer.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show how a run stands
    Show {
        /// The run: run_…
        id: String,
        /// List its instances, too
        #[arg(long)]
        instances: bool,
        /// Which fleet, and the form of the answer.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Follow a run to its end, then print its answer
    Watch(RunIdArgs),
    /// Print the answer of a run
    Result(RunIdArgs),
    /// Cancel a run and everything in it
    Cancel(RunIdArgs),
}

/// A run.
#[derive(Debug, Args)]
pub(crate) struct RunIdArgs {
    /// The run: run_…
    pub(crate) id: String,
    /// Which fleet, and the form of the answer.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// An instance.
#[derive(Debug, Args)]
pub(crate) struct InstanceIdArgs {
    /// The instance: ins_…
    pub(crate) id: String,
    /// Which fleet, and the form of the answer.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `muster agent …`.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Store template versions and activate them
    #[command(after_help = "The same content again stores nothing.\n\nExample:\n  muster agent apply examples/templates/*.yaml")]
    Apply {
        /// Templates, YAML or JSON
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Store the versions, but let new instances use the present ones
        #[arg(long)]
        no_activate: bool,
        /// Which fleet, and the form of the answer.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// List templates
    List(ClientArgs),
    /// Show a template
    #[command(after_help = "Examples:\n  muster agent show research\n  muster agent show research@3 -o yaml")]
    Show {
        /// NAME, NAME@VERSION or tpl_…
        name: String,
        /// Which fleet, and the form of the answer.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Print the JSON Schema of a template
    Schema {
        /// The form of what is printed
        #[arg(short, long, value_name = "FORM", default_value = "json")]
        output: Format,
    },
}

/// `muster instance …`.
#[derive(Debug, Subcommand)]
pub(crate) enum InstanceCommand {
    /// Show how an instance stands
    Show(InstanceIdArgs),
    /// Print the log of an instance
    Events(InstanceIdArgs),
    /// Cancel an instance
    Cancel(InstanceIdArgs),
}

/// `muster demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// One agent for each file that this matches [default: sources and documents below the working directory]; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub(crate) input: Vec<String>,
    /// Where the fleet keeps its data [env: MUSTER_DATA] [default: .muster/demo]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Where the report is written [default: muster-report.md in the data directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_takes_a_file_or_a_subcommand() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        let Command::Run(run) = parse("muster run a.yaml --set k=v --set l=w -o json").unwrap().command else { panic!("run") };
        assert!(run.command.is_none() && run.file.set == ["k=v", "l=w"] && run.file.client.output == Format::Json);
        let Command::Run(run) = parse("muster run show run_1 --data d").unwrap().command else { panic!("run") };
        assert!(matches!(run.command, Some(RunCommand::Show { .. })));
        assert!(parse("muster run").is_err());
        assert!(parse("muster run a.yaml --url http://h --data d").is_err());
    }
}
