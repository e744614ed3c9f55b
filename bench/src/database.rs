//! Private databases on a server that is there, and the conditions under which a figure counts.

use anyhow::Context as _;
use muster_shared::{
    ids::uuid_v7,
    time::{SystemClock, SystemRandom},
};
use reqwest::Url;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

/// A Postgres server on which databases may be made.
pub(crate) struct Server {
    url: Url,
}

impl Server {
    /// Connects, and makes sure that commits are durable: without it every figure would be a lie.
    pub(crate) async fn connect(url: &str) -> anyhow::Result<Self> {
        let server = Self { url: Url::parse(url).context("the Postgres URL")? };
        let mut connection = server.maintenance().await?;
        for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
            let value: String = sqlx::query_scalar("SELECT current_setting($1)").bind(setting).fetch_one(&mut connection).await?;
            anyhow::ensure!(value == "on", "Postgres runs with {setting} = {value}: figures count only with {setting} = on");
        }
        Ok(server)
    }

    async fn maintenance(&self) -> anyhow::Result<PgConnection> {
        PgConnection::connect(self.url.as_str()).await.with_context(|| {
            format!("connecting to Postgres at {}:{}", self.url.host_str().unwrap_or("a socket"), self.url.port().unwrap_or(5432))
        })
    }

    /// Writes what is dirty now, so that it is not written during the next measurement.
    pub(crate) async fn checkpoint(&self) -> anyhow::Result<()> {
        self.maintenance().await?.execute("CHECKPOINT").await.context("CHECKPOINT needs a superuser")?;
        Ok(())
    }

    /// A new, empty database.
    pub(crate) async fn create(&self, purpose: &str) -> anyhow::Result<Database> {
        let name = format!("muster_bench_{purpose}_{}", uuid_v7(&SystemClock, &SystemRandom).simple());
        // The name is made of letters and digits, by us.
        self.maintenance().await?.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.context("creating a database")?;
        let mut url = self.url.clone();
        url.set_path(&name);
        Ok(Database { server: Self { url: self.url.clone() }, name, url })
    }
}

/// A database of our own. It stays when the process dies; private servers end with it.
pub(crate) struct Database {
    server: Server,
    name: String,
    url: Url,
}

impl Database {
    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Drops it, whoever is connected.
    pub(crate) async fn drop_it(self) -> anyhow::Result<()> {
        let statement = AssertSqlSafe(format!("DROP DATABASE {} WITH (FORCE)", self.name));
        self.server.maintenance().await?.execute(statement).await.context("dropping a database")?;
        Ok(())
    }
}
