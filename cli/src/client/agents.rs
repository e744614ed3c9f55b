//! `muster agent …`.

use muster_shared::{
    catalog::TemplateSelector,
    template::Template,
    wire::{AgentView, Listing},
};
use serde_json::{Value, json};

use crate::{
    args::AgentCommand,
    client::{Link, http::Client},
    embed::Work,
    failure::Failure,
    output, runfile,
    serve::Context,
};

/// Does what is asked about templates.
pub(crate) async fn command(context: &Context, command: AgentCommand) -> Result<(), Failure> {
    match command {
        AgentCommand::Apply { files, no_activate, client } => {
            // Every file is read before the first is sent.
            let templates = files.iter().map(|file| runfile::template(file)).collect::<Result<Vec<Value>, _>>()?;
            let views = Link::with(context, &client.target, Work::LeftAlone, async |link| {
                let mut views = Vec::with_capacity(templates.len());
                for (file, template) in files.iter().zip(templates) {
                    views.push(apply(&link.client, &file.display().to_string(), template, !no_activate).await?);
                }
                Ok(views)
            })
            .await?;
            output::show(client.output, &views, |views| output::agents(views))
        }
        AgentCommand::List(client) => {
            let listing: Listing<AgentView> =
                Link::with(context, &client.target, Work::LeftAlone, async |link| link.client.get("/v1/agents").await).await?;
            output::show(client.output, &listing.items, |views| output::agents(views))
        }
        AgentCommand::Show { name, client } => {
            let selector: TemplateSelector = name.parse().map_err(Failure::usage)?;
            if selector.to_string().contains(['/', '?', '#', '%', ' ']) {
                return Err(Failure::usage(format!("`{name}` is no name of a template")));
            }
            let path = format!("/v1/agents/{selector}");
            let view: AgentView = Link::with(context, &client.target, Work::LeftAlone, async |link| link.client.get(&path).await).await?;
            output::show(client.output, &view, |view| {
                let head = output::pairs(&[
                    ("agent", format!("{}@{}", view.spec.name, view.version)),
                    ("id", view.id.to_string()),
                    ("active", view.active.to_string()),
                    ("hash", view.hash.to_string()),
                    ("created", view.created_at.to_string()),
                ]);
                format!("{head}\n\n{}", serde_norway::to_string(&view.spec).unwrap_or_default())
            })
        }
        AgentCommand::Schema { output } => output::show(output, &Template::json_schema(), output::answer),
    }
}

/// Stores one template; its faults name the file.
pub(crate) async fn apply(client: &Client, from: &str, template: Value, activate: bool) -> Result<AgentView, Failure> {
    let body = json!({ "template": template, "activate": activate });
    client.post("/v1/agents", &body).await.map_err(|failure| Failure { message: format!("{from}: {}", failure.message), ..failure })
}
