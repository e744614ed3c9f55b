//! `muster instance …`.

use muster_shared::{
    ids::InstanceId,
    wire::{EventView, InstanceView},
};
use serde_json::json;

use crate::{
    args::{InstanceCommand, InstanceIdArgs},
    client::{self, Link},
    embed::Work,
    failure::Failure,
    output,
    serve::Context,
};

/// Does what is asked about instances.
pub(crate) async fn command(context: &Context, command: InstanceCommand) -> Result<(), Failure> {
    match command {
        InstanceCommand::Show(args) => {
            let path = path(&args)?;
            let view: InstanceView =
                Link::with(context, &args.client.target, Work::LeftAlone, async |link| link.client.get(&path).await).await?;
            output::show(args.client.output, &view, output::instance)
        }
        InstanceCommand::Events(args) => {
            let path = format!("{}/events", path(&args)?);
            let events: Vec<EventView> =
                Link::with(context, &args.client.target, Work::LeftAlone, async |link| client::all(&link.client, &path).await).await?;
            output::show(args.client.output, &events, |events| output::events(events))
        }
        InstanceCommand::Cancel(args) => {
            let path = format!("{}/cancel", path(&args)?);
            let view: InstanceView =
                Link::with(context, &args.client.target, Work::LeftAlone, async |link| link.client.post(&path, &json!({})).await).await?;
            output::show(args.client.output, &view, output::instance)
        }
    }
}

fn path(args: &InstanceIdArgs) -> Result<String, Failure> {
    let id: InstanceId = args.id.parse().map_err(|error| Failure::usage(format!("{error}")))?;
    Ok(format!("/v1/instances/{id}"))
}
