//! The taking end of the ready lists in Redis.

use std::sync::Arc;

use async_trait::async_trait;
use muster_shared::queue::{QueueError, Ready};
use redis::{Client, cmd};

use crate::{
    message::{self, Keys},
    redis_link::{BLOCK_LIMIT, BlockingLink, Link},
    redis_put::{End, put},
    source::Source,
};

/// A taking end of a [`RedisQueue`](crate::RedisQueue), with a blocking connection of its own. Messages that
/// cannot be read are logged and dropped.
#[derive(Debug)]
pub struct RedisSource {
    keys: Arc<Keys>,
    link: Arc<Link>,
    blocking: BlockingLink,
}

impl RedisSource {
    pub(crate) fn new(client: Client, keys: Arc<Keys>, link: Arc<Link>) -> Self {
        Self { keys, link, blocking: BlockingLink::new(client) }
    }
}

#[async_trait]
impl Source for RedisSource {
    async fn pop(&mut self, max: usize) -> Result<Vec<Ready>, QueueError> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let mut command = cmd("BLMPOP");
        command.arg(BLOCK_LIMIT.as_secs_f64()).arg(self.keys.lists().len());
        for list in self.keys.lists() {
            command.arg(list);
        }
        command.arg("LEFT").arg("COUNT").arg(max);
        let popped: Option<(String, Vec<Vec<u8>>)> = self.blocking.run(&command).await?;
        Ok(popped.map(|(_, payloads)| message::decode_all(&payloads)).unwrap_or_default())
    }

    async fn give_back(&mut self, ready: Vec<Ready>) -> Result<(), QueueError> {
        let ready: Vec<&Ready> = ready.iter().collect();
        put(&self.link, &self.keys, &ready, End::Front).await
    }
}
