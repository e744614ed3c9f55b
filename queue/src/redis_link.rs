//! Connections to Redis. Nothing here waits for long: a connection that does not answer in time is dropped,
//! and the next use makes another.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use muster_shared::queue::QueueError;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ServerErrorKind,
    aio::MultiplexedConnection,
};
use tokio::time::timeout;

/// How long an operation may take, with the connection that it may need.
const OPERATION_LIMIT: Duration = Duration::from_secs(2);

/// Below the limit, so that a connection that does not answer is known as such, and dropped.
const ANSWER_LIMIT: Duration = Duration::from_millis(1_500);

/// How long a blocking command may block.
pub(crate) const BLOCK_LIMIT: Duration = Duration::from_secs(1);

/// Above the time that a blocking command may block: a half-open connection is noticed after this.
const BLOCKED_ANSWER_LIMIT: Duration = Duration::from_secs(3);

pub(crate) fn unreachable(error: &RedisError) -> QueueError {
    QueueError(error.to_string())
}

/// What an operation brought.
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    /// The operation was sent twice, and may have had its effect the first time.
    pub(crate) repeated: bool,
}

/// One connection for operations that do not block, shared by all of them, made when it is first needed.
#[derive(Debug)]
pub(crate) struct Link {
    client: Client,
    current: tokio::sync::Mutex<Current>,
}

#[derive(Default)]
struct Current {
    connection: Option<MultiplexedConnection>,
    /// Counts the connections, so that nobody drops the successor of the one that failed.
    number: u64,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").field("connected", &self.connection.is_some()).field("number", &self.number).finish()
    }
}

impl Link {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, current: tokio::sync::Mutex::default() }
    }

    /// Runs the commands within the limit. When the connection turns out to be broken, they are sent once
    /// more over a new one; an answer that does not come in time is an error.
    pub(crate) async fn run<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<Answer<T>, QueueError> {
        let attempts = async {
            match self.attempt(commands).await {
                Ok(value) => Ok(Answer { value, repeated: false }),
                Err(error) if error.is_connection_dropped() => self.attempt(commands).await.map(|value| Answer { value, repeated: true }),
                Err(error) => Err(error),
            }
        };
        match timeout(OPERATION_LIMIT, attempts).await {
            Ok(outcome) => outcome.map_err(|error| unreachable(&error)),
            Err(_) => Err(QueueError(format!("no answer within {} s", OPERATION_LIMIT.as_secs()))),
        }
    }

    async fn attempt<T: FromRedisValue>(&self, commands: &Pipeline) -> RedisResult<T> {
        let (mut connection, number) = self.connection().await?;
        let outcome = commands.query_async(&mut connection).await;
        if let Err(error) = &outcome
            && is_lost(error)
        {
            let mut current = self.current.lock().await;
            if current.number == number {
                current.connection = None;
            }
        }
        outcome
    }

    async fn connection(&self) -> RedisResult<(MultiplexedConnection, u64)> {
        let mut current = self.current.lock().await;
        if let Some(connection) = &current.connection {
            return Ok((connection.clone(), current.number));
        }
        let connection = connect(&self.client, ANSWER_LIMIT).await?;
        current.number += 1;
        current.connection = Some(connection.clone());
        Ok((connection, current.number))
    }
}

/// A connection for blocking commands, one at a time: while it is in use nobody else may have it.
pub(crate) struct BlockingLink {
    client: Client,
    idle: Mutex<Option<MultiplexedConnection>>,
}

impl std::fmt::Debug for BlockingLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockingLink").finish_non_exhaustive()
    }
}

impl BlockingLink {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, idle: Mutex::default() }
    }

    /// Runs a command that blocks for [`BLOCK_LIMIT`] at most. After an error, or when this future is dropped
    /// while it waits, the connection is closed: its answer, if it has one, would be taken for another's.
    pub(crate) async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, QueueError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        let outcome = async {
            let mut connection = match idle {
                Some(connection) => connection,
                None => connect(&self.client, BLOCKED_ANSWER_LIMIT).await?,
            };
            command.query_async(&mut connection).await.map(|value| (value, connection))
        };
        let (value, connection) = outcome.await.map_err(|error: RedisError| unreachable(&error))?;
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        Ok(value)
    }
}

async fn connect(client: &Client, answer_limit: Duration) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(OPERATION_LIMIT)).set_response_timeout(Some(answer_limit));
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// Whether a connection is of no more use: broken, silent, or to a server that is no longer the primary.
fn is_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error() || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}
