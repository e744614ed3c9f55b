//! `muster-bench`: what a durable step costs, as a ratio to the raw limit of the same machine.
//!
//! Workload W(N, K, L): N instances with K durable model steps each (latency L ms, 200-byte outputs), then a
//! reduction tree with chunk size 5; from the spawn request until the root result can be read. Steps are
//! N*K + reducers. Beside the fleet, in the same run, the floor: see [`floor`].
//!
//! Figures go to stdout, one JSON line each; everything for people goes to stderr.

mod database;
mod fleet;
mod floor;
mod report;
mod workload;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::{
    database::Server,
    fleet::{Fleet, Kind},
    report::{Figure, Report, say},
    workload::Workload,
};

/// Measures a Muster fleet beside the floor: a program that does only what durability needs.
#[derive(Parser)]
#[command(name = "muster-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure steps/s of a real fleet and of the floor, in turns.
    Quick(Quick),
    /// Measure the floor alone.
    Floor(Common),
}

#[derive(Args)]
struct Common {
    /// Instances of a run.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    n: u32,
    /// Durable steps of each instance.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    k: u32,
    /// Latency of each model step, in milliseconds.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    latency_ms: u64,
    /// Measurements; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// Append the JSON lines to this file, too.
    #[arg(long)]
    out: Option<PathBuf>,
    /// The maintenance database of the server; databases of our own are made beside it and dropped.
    #[arg(long, env = "MUSTER_TEST_POSTGRES_URL", hide_env_values = true)]
    postgres_url: Option<String>,
}

#[derive(Args)]
struct Quick {
    #[command(flatten)]
    common: Common,
    /// The binary to measure.
    #[arg(long, default_value = "target/release/muster")]
    muster: PathBuf,
    /// Measure `muster dev` on SQLite instead: one process, no servers, and no floor yet.
    #[arg(long)]
    embedded: bool,
    /// The Redis server.
    #[arg(long, env = "MUSTER_TEST_REDIS_URL", hide_env_values = true)]
    redis_url: Option<String>,
}

impl Common {
    fn workload(&self) -> Workload {
        Workload { n: self.n.into(), k: self.k.into(), latency_ms: self.latency_ms }
    }

    async fn server(&self) -> anyhow::Result<Server> {
        Server::connect(needed(self.postgres_url.as_deref(), "MUSTER_TEST_POSTGRES_URL")?).await
    }
}

fn needed<'a>(url: Option<&'a str>, name: &str) -> anyhow::Result<&'a str> {
    url.with_context(|| format!("{name} is not set: run this under scripts/with-servers, which starts private servers"))
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Quick(quick) if quick.embedded => embedded(&quick).await,
        Command::Quick(quick) => steps(&quick).await,
        Command::Floor(common) => floor_alone(&common).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The fleet and the floor in turns, so that what the machine does meanwhile meets both.
async fn steps(quick: &Quick) -> anyhow::Result<()> {
    let common = &quick.common;
    let redis = needed(quick.redis_url.as_deref(), "MUSTER_TEST_REDIS_URL")?;
    let server = common.server().await?;
    let workload = common.workload();
    let mut report = Report::new(common.out.as_deref())?;
    let database = server.create("fleet").await?;
    let measured = in_turns(quick, &server, Kind::Servers { database: database.url(), redis }).await;
    database.drop_it().await?;
    let (ours, floors) = measured?;
    report.add(&Figure::new("steps", workload, &ours).beside(&floors))?;
    report.table();
    Ok(())
}

async fn in_turns(quick: &Quick, server: &Server, kind: Kind<'_>) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let (workload, repeat) = (quick.common.workload(), quick.common.repeat);
    let mut fleet = Fleet::start(&quick.muster, workload, kind).await?;
    let measured = async {
        fleet.warm_up().await?;
        let (mut ours, mut floors) = (Vec::new(), Vec::new());
        for round in 1..=repeat {
            server.checkpoint().await?;
            let floor = workload.rate(floor::measure(server, workload).await?);
            server.checkpoint().await?;
            let rate = workload.rate(fleet.measure().await?);
            say(&format!("round {round} of {repeat}: fleet {rate:.0} steps/s, floor {floor:.0} steps/s"));
            ours.push(rate);
            floors.push(floor);
        }
        anyhow::Ok((ours, floors))
    }
    .await;
    fleet.stop(measured).await
}

async fn embedded(quick: &Quick) -> anyhow::Result<()> {
    let workload = quick.common.workload();
    let mut report = Report::new(quick.common.out.as_deref())?;
    let mut fleet = Fleet::start(&quick.muster, workload, Kind::Embedded).await?;
    let measured = async {
        fleet.warm_up().await?;
        let mut rates = Vec::new();
        for round in 1..=quick.common.repeat {
            let rate = workload.rate(fleet.measure().await?);
            say(&format!("round {round} of {}: embedded {rate:.0} steps/s", quick.common.repeat));
            rates.push(rate);
        }
        anyhow::Ok(rates)
    }
    .await;
    let rates = fleet.stop(measured).await?;
    report.add(&Figure::new("embedded", workload, &rates))?;
    report.table();
    Ok(())
}

async fn floor_alone(common: &Common) -> anyhow::Result<()> {
    let server = common.server().await?;
    let workload = common.workload();
    let mut report = Report::new(common.out.as_deref())?;
    let mut rates = Vec::new();
    for round in 1..=common.repeat {
        server.checkpoint().await?;
        let rate = workload.rate(floor::measure(&server, workload).await?);
        say(&format!("round {round} of {}: floor {rate:.0} steps/s", common.repeat));
        rates.push(rate);
    }
    report.add(&Figure::new("floor", workload, &rates))?;
    report.table();
    Ok(())
}
