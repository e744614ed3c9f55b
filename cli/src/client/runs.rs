//! `muster run …`.

use muster_shared::{
    ids::{RunId, uuid_v7},
    time::{SystemClock, SystemRandom},
    wire::{InstanceView, Listing, RunView, SpawnResponse},
};
use serde_json::json;

use crate::{
    args::{ClientArgs, RunArgs, RunCommand, RunFileArgs, RunIdArgs},
    client::{self, Link, agents, follow},
    embed::Work,
    failure::Failure,
    output,
    runfile::{self, Given, Prepared},
    serve::Context,
};

/// Runs a file, or does what is asked about runs.
pub(crate) async fn command(context: &Context, args: RunArgs) -> Result<(), Failure> {
    match args.command {
        None => run_file(context, args.file).await,
        Some(RunCommand::List { limit, client }) => list(context, limit, &client).await,
        Some(RunCommand::Show { id, instances, client }) => show(context, run_id(&id)?, instances, &client).await,
        Some(RunCommand::Watch(args)) => {
            let run = run_id(&args.id)?;
            Link::with(context, &args.client.target, Work::Done, async |link| watch(link, run, &args.client).await).await
        }
        Some(RunCommand::Result(args)) => result(context, &args).await,
        Some(RunCommand::Cancel(args)) => {
            let path = format!("/v1/runs/{}/cancel", run_id(&args.id)?);
            let view: RunView =
                Link::with(context, &args.client.target, Work::LeftAlone, async |link| link.client.post(&path, &json!({})).await).await?;
            output::show(args.client.output, &view, output::run)
        }
    }
}

fn run_id(id: &str) -> Result<RunId, Failure> {
    id.parse().map_err(|error| Failure::usage(format!("{error}")))
}

async fn run_file(context: &Context, args: RunFileArgs) -> Result<(), Failure> {
    let Some(file) = args.file else { return Err(Failure::usage("give a run file, or one of: list, show, watch, result, cancel")) };
    let given = Given { input: args.input, set: args.set, model: args.model, ..Given::default() };
    if !file.exists() && file.extension().is_none() {
        return Err(Failure::usage(format!(
            "there is no run file `{}`, and no such command: list, show, watch, result, cancel",
            file.display()
        )));
    }
    let prepared = runfile::load(&file, &given)?;
    let work = if args.detach { Work::LeftAlone } else { Work::Done };
    if args.detach && args.client.target.data.is_some() {
        return Err(Failure::usage(
            "--detach needs a server that goes on working: leave --data away, or start `muster dev --data …` and give --url",
        ));
    }
    Link::with(context, &args.client.target, work, async |link| {
        let spawned = spawn(link, prepared).await?;
        if args.detach {
            return output::show(args.client.output, &spawned, |spawned| spawned.run_id.to_string());
        }
        watch(link, spawned.run_id, &args.client).await
    })
    .await
}

/// Stores what a run file brings and spawns it. One key for all tries: the run is made once.
pub(crate) async fn spawn(link: &Link, run: Prepared) -> Result<SpawnResponse, Failure> {
    run.notes.iter().for_each(output::note);
    for template in run.templates {
        let name = template.get("name").and_then(|name| name.as_str()).unwrap_or("a template").to_owned();
        agents::apply(&link.client, &name, template, true).await?;
    }
    let key = format!("cli-{}", uuid_v7(&SystemClock, &SystemRandom).simple());
    let agent: muster_shared::catalog::TemplateSelector = run.agent.parse().map_err(Failure::usage)?;
    let spawned: SpawnResponse = link.client.post_once(&format!("/v1/agents/{agent}/spawn"), &run.request, &key).await?;
    let instances = if spawned.instances == 1 { "1 instance".to_owned() } else { format!("{} instances", spawned.instances) };
    output::note(format!("{}: {} with {instances} of {agent}", run.name, spawned.run_id));
    Ok(spawned)
}

async fn watch(link: &Link, run: RunId, client: &ClientArgs) -> Result<(), Failure> {
    let view = follow::follow(link, run).await?;
    let result = follow::answer(link, &view).await?;
    output::note(summary(&view));
    output::show(client.output, &result, |result| output::answer(&result.output))
}

/// How a run went, in one line.
pub(crate) fn summary(run: &RunView) -> String {
    let seconds = run.finished_at.map_or(0.0, |at| at.since(run.created_at).as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = if seconds > 0.0 { run.steps as f64 / seconds } else { 0.0 };
    format!(
        "{} in {seconds:.1} s: {} instances, {} steps ({rate:.0}/s), {}",
        run.status.as_str(),
        run.instances.total,
        run.steps,
        output::usage(&run.usage)
    )
}

async fn list(context: &Context, limit: u32, client: &ClientArgs) -> Result<(), Failure> {
    let listing: Listing<RunView> =
        Link::with(context, &client.target, Work::LeftAlone, async |link| link.client.get(&format!("/v1/runs?limit={limit}")).await)
            .await?;
    output::show(client.output, &listing.items, |views| output::runs(views))
}

async fn show(context: &Context, run: RunId, instances: bool, client: &ClientArgs) -> Result<(), Failure> {
    let (view, of) = Link::with(context, &client.target, Work::LeftAlone, async |link| {
        let view: RunView = link.client.get(&format!("/v1/runs/{run}")).await?;
        let of: Vec<InstanceView> =
            if instances { client::all(&link.client, &format!("/v1/runs/{run}/instances")).await? } else { Vec::new() };
        Ok((view, of))
    })
    .await?;
    if !instances {
        return output::show(client.output, &view, output::run);
    }
    let document = json!({ "run": view, "instances": of });
    output::show(client.output, &document, |_| format!("{}\n\n{}", output::run(&view), output::instances(&of)))
}

async fn result(context: &Context, args: &RunIdArgs) -> Result<(), Failure> {
    let run = run_id(&args.id)?;
    let result = Link::with(context, &args.client.target, Work::LeftAlone, async |link| {
        let view: RunView = link.client.get(&format!("/v1/runs/{run}")).await?;
        follow::answer(link, &view).await
    })
    .await?;
    output::show(args.client.output, &result, |result| output::answer(&result.output))
}
