//! The commands that speak to a fleet: over HTTP to a server, or to one that this process runs for as long as
//! the command takes (`--data`).

pub(crate) mod agents;
pub(crate) mod follow;
pub(crate) mod http;
pub(crate) mod instances;
pub(crate) mod runs;

use std::path::Path;

use muster_shared::wire::Listing;
use serde::de::DeserializeOwned;

use crate::{
    args::TargetArgs,
    client::http::Client,
    embed::{self, Embedded, Work},
    failure::Failure,
    serve::Context,
};

/// Items of one page.
const PAGE: usize = 500;

/// A client, and the fleet that it speaks to if that runs in this process.
pub(crate) struct Link {
    /// Speaks to the fleet.
    pub(crate) client: Client,
    embedded: Option<Embedded>,
    /// How to name this fleet in another command: empty, or ` --data DIR`, or ` --url URL`.
    pub(crate) flags: String,
}

impl Link {
    /// A server by its URL; or the fleet of a data directory: the process that holds it, else one in this process.
    /// With [`Work::Done`] instances make progress even when no other process runs.
    pub(crate) async fn open(context: &Context, target: &TargetArgs, work: Work) -> Result<Self, Failure> {
        let Some(data) = &target.data else {
            let url = target.url.as_deref().unwrap_or(&context.config.url);
            let flags = target.url.as_ref().map(|url| format!(" --url {url}")).unwrap_or_default();
            return Ok(Self { client: Client::new(url)?, embedded: None, flags });
        };
        let flags = format!(" --data {}", data.display());
        if let Some(client) = holder(data).await {
            return Ok(Self { client, embedded: None, flags });
        }
        if !data.is_dir() && work == Work::LeftAlone {
            return Err(Failure::usage(format!("{} is not the data directory of a fleet", data.display())));
        }
        let embedded = Embedded::start(context, data, embed::ANY_PORT, work).await?;
        Ok(Self { client: Client::new(embedded.url())?, embedded: Some(embedded), flags })
    }

    /// Whether the fleet runs in this process, with its settings.
    pub(crate) const fn is_ours(&self) -> bool {
        self.embedded.is_some()
    }

    /// Ends the fleet, if it runs in this process.
    pub(crate) async fn close(self) {
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
    }

    /// Does something with the fleet, and ends it whatever came out.
    pub(crate) async fn with<T>(
        context: &Context,
        target: &TargetArgs,
        work: Work,
        what: impl AsyncFnOnce(&Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let link = Self::open(context, target, work).await?;
        let outcome = what(&link).await;
        link.close().await;
        outcome
    }
}

/// The process that holds a data directory, if it answers.
async fn holder(data: &Path) -> Option<Client> {
    let client = Client::new(embed::address_of(data)?.trim()).ok()?;
    client.alive().await.then_some(client)
}

/// Every item of a listing, page by page.
async fn all<T: DeserializeOwned>(client: &Client, path: &str) -> Result<Vec<T>, Failure> {
    let mut items = Vec::new();
    let mut after = String::new();
    loop {
        let page: Listing<T> = client.get(&format!("{path}?limit={PAGE}{after}")).await?;
        items.extend(page.items);
        match page.next {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(items),
        }
    }
}
