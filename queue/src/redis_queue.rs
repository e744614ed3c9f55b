//! The ready list of a fleet: Redis lists, one for each priority.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use muster_shared::queue::{QueueError, Ready, ReadyQueue};
use redis::{Client, Pipeline, cmd};
use tokio::time::Instant;

use crate::{
    message::Keys,
    redis_link::{BLOCK_LIMIT, BlockingLink, Link, unreachable},
    redis_put::{End, put},
    redis_source::RedisSource,
};

/// Ready lists in Redis (7.0 or newer). A clone uses the same connections.
///
/// Reducers of one push go before everything of their priority, leaves behind it; both keep their order.
/// A push that fails in the middle leaves some of its messages pushed.
#[derive(Debug, Clone)]
pub struct RedisQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Client,
    keys: Arc<Keys>,
    link: Arc<Link>,
    nudges: BlockingLink,
    /// The canary was asked for and there was no answer: it may have been planted all the same.
    in_doubt: AtomicBool,
}

impl RedisQueue {
    /// Lists at `url` (`redis://host:port/db`) whose keys begin with `{prefix}`. Connects when it is first
    /// used: only a malformed URL or prefix fails here. Operations fail within about two seconds.
    pub fn connect(url: &str, prefix: &str) -> Result<Self, QueueError> {
        let client = Client::open(url).map_err(|error| unreachable(&error))?;
        let shared = Shared {
            keys: Arc::new(Keys::new(prefix)?),
            link: Arc::new(Link::new(client.clone())),
            nudges: BlockingLink::new(client.clone()),
            client,
            in_doubt: AtomicBool::new(false),
        };
        Ok(Self(Arc::new(shared)))
    }

    /// A taking end of these lists, with a blocking connection of its own.
    pub fn source(&self) -> RedisSource {
        RedisSource::new(self.0.client.clone(), Arc::clone(&self.0.keys), Arc::clone(&self.0.link))
    }
}

#[async_trait]
impl ReadyQueue for RedisQueue {
    async fn push(&self, ready: &[Ready]) -> Result<(), QueueError> {
        let (reducers, leaves): (Vec<&Ready>, Vec<&Ready>) = ready.iter().partition(|ready| ready.reducer);
        put(&self.0.link, &self.0.keys, &reducers, End::Front).await?;
        put(&self.0.link, &self.0.keys, &leaves, End::Back).await
    }

    async fn depth(&self) -> Result<u64, QueueError> {
        let mut pipeline = Pipeline::new();
        for list in self.0.keys.lists() {
            pipeline.cmd("LLEN").arg(list);
        }
        let lengths: Vec<u64> = self.0.link.run(&pipeline).await?.value;
        Ok(lengths.iter().sum())
    }

    /// Also says yes after an outage in which it was asked and nothing answered: the canary may have been
    /// planted unheard, and pushes have failed meanwhile.
    async fn lost_data(&self) -> Result<bool, QueueError> {
        let in_doubt = self.0.in_doubt.swap(true, Ordering::SeqCst);
        let mut pipeline = Pipeline::new();
        pipeline.cmd("SET").arg(&self.0.keys.canary).arg(1).arg("NX");
        let answer = self.0.link.run::<(Option<String>,)>(&pipeline).await?;
        self.0.in_doubt.store(false, Ordering::SeqCst);
        let planted = answer.value.0.is_some();
        Ok(planted || answer.repeated || in_doubt)
    }

    async fn nudge(&self) -> Result<(), QueueError> {
        let key = &self.0.keys.nudge;
        let mut pipeline = Pipeline::new();
        pipeline.cmd("LPUSH").arg(key).arg(1).ignore().cmd("LTRIM").arg(key).arg(0).arg(0).ignore();
        self.0.link.run::<()>(&pipeline).await?;
        Ok(())
    }

    /// May be dropped while it waits.
    async fn nudged(&self, timeout: Duration) -> Result<(), QueueError> {
        let key = &self.0.keys.nudge;
        let until = Instant::now() + timeout;
        loop {
            // In slices, so that a half-open connection is noticed; never 0, which would be for ever.
            let slice = until.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(1), BLOCK_LIMIT);
            let nudge: Option<(String, String)> = self.0.nudges.run(cmd("BLPOP").arg(key).arg(slice.as_secs_f64())).await?;
            if nudge.is_some() {
                // What was said until now is heard now.
                let mut pipeline = Pipeline::new();
                pipeline.cmd("DEL").arg(key).ignore();
                self.0.link.run::<()>(&pipeline).await?;
                return Ok(());
            }
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }
}
