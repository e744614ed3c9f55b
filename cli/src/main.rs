//! `muster`: the composition root and the command line of the fleet.

mod address;
mod args;
mod client;
mod config;
mod demo;
mod embed;
mod failure;
mod output;
mod program;
mod progress;
mod runfile;
mod serve;
mod telemetry;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{
    args::{Cli, Command},
    config::Config,
    failure::Failure,
    serve::Context,
};

/// What servers log unless they are told otherwise.
const SERVER_LOG: &str = "info,sqlx=warn,hyper=warn,reqwest=warn";
/// What client commands log unless they are told otherwise.
const CLIENT_LOG: &str = "warn,sqlx=error";

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::note(format!("muster: {failure}"));
            failure.exit.into()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let config = Config::load(&cli.global, &cli.command)?;
    let (role, filter) = match &cli.command {
        Command::Dev(_) => ("dev", SERVER_LOG),
        Command::Api(_) => ("api", SERVER_LOG),
        Command::Worker(_) => ("worker", SERVER_LOG),
        Command::Migrate(_) => ("migrate", SERVER_LOG),
        Command::Demo(_) => ("demo", CLIENT_LOG),
        Command::Run(_) | Command::Agent(_) | Command::Instance(_) => ("client", CLIENT_LOG),
    };
    let telemetry = telemetry::start(&config, filter, role)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("the async runtime cannot be started: {error}")))?;
    let context = Context { config, render: telemetry.render(), metrics: telemetry.metrics() };
    let outcome = runtime.block_on(dispatch(context, cli.command));
    // Whatever still blocks (a file being read) is not waited for.
    runtime.shutdown_background();
    telemetry.finish();
    outcome
}

async fn dispatch(context: Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Dev(_) => serve::dev(&context).await,
        Command::Api(_) => serve::api(&context).await,
        Command::Worker(_) => serve::worker(&context).await,
        Command::Migrate(_) => serve::migrate(&context).await,
        Command::Run(args) => client::runs::command(&context, args).await,
        Command::Agent(command) => client::agents::command(&context, command).await,
        Command::Instance(command) => client::instances::command(&context, command).await,
        Command::Demo(args) => demo::command(context, args).await,
    }
}
