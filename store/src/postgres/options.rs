//! How connections to Postgres are made.

use std::time::Duration;

use muster_shared::store::StoreError;
use sqlx::{
    ConnectOptions as _, Connection as _, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// Sizes and timeouts of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresOptions {
    /// Connections at most.
    pub max_connections: u32,
    /// Waiting for a connection, and connecting, take at most this long.
    pub acquire_timeout: Duration,
    /// One statement takes at most this long.
    pub statement_timeout: Duration,
    /// A statement waits for a lock at most this long.
    pub lock_timeout: Duration,
    /// The server ends a transaction that does nothing for this long: its client is gone.
    pub idle_in_transaction_timeout: Duration,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            max_connections: 16,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(10),
            idle_in_transaction_timeout: Duration::from_secs(20),
        }
    }
}

/// A connection that was idle for longer than this is tried before it is used: the server may have gone away.
const TRY_AFTER: Duration = Duration::from_secs(1);

impl PostgresOptions {
    /// What each connection is made with.
    pub(super) fn connect_options(&self, url: &str) -> Result<PgConnectOptions, StoreError> {
        // The driver's message can repeat parts of the address, and that may hold a password.
        let options: PgConnectOptions = url.parse().map_err(|_| {
            StoreError::Refused("the database address cannot be read: expected `postgres://user:password@host:port/database`".to_owned())
        })?;
        let millis = |span: Duration| span.as_millis().to_string();
        let options = options
            .application_name("muster")
            .options([
                ("statement_timeout", millis(self.statement_timeout)),
                ("lock_timeout", millis(self.lock_timeout)),
                ("idle_in_transaction_session_timeout", millis(self.idle_in_transaction_timeout)),
            ])
            // Every statement here is written for index look-ups in a few rows at a time. The tables grow from
            // nothing to millions of rows between two ANALYZEs; a generic plan that was made while they were small
            // would scan them whole until then. So the planner gets no such choice, and plans once.
            .options([
                ("plan_cache_mode", "force_generic_plan"),
                ("enable_seqscan", "off"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                ("jit", "off"),
            ])
            .log_statements(level("off"))
            .log_slow_statements(level("warn"), Duration::from_secs(1));
        Ok(options)
    }

    /// A pool; connections are made when they are needed.
    pub(super) fn pool(&self, url: &str) -> Result<PgPool, StoreError> {
        let options = self.connect_options(url)?;
        Ok(PgPoolOptions::new()
            .max_connections(self.max_connections)
            .acquire_timeout(self.acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for > TRY_AFTER {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(options))
    }
}

/// The driver wants a type of the `log` crate, which nothing else here needs; it can be parsed.
fn level<L: std::str::FromStr>(name: &str) -> L
where
    L::Err: std::fmt::Debug,
{
    name.parse().expect("a level of the log crate")
}
