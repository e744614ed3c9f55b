//! One face for both lists, so that one suite runs over both.

use muster_queue::{MemoryQueue, MemorySource, RedisQueue, RedisSource, Source};
use muster_shared::queue::ReadyQueue;

use super::new_id;

pub(crate) trait Fixture: ReadyQueue + Clone + 'static {
    type Source: Source;

    fn source(&self) -> Self::Source;
}

impl Fixture for MemoryQueue {
    type Source = MemorySource;

    fn source(&self) -> MemorySource {
        Self::source(self)
    }
}

impl Fixture for RedisQueue {
    type Source = RedisSource;

    fn source(&self) -> RedisSource {
        Self::source(self)
    }
}

pub(crate) fn memory() -> MemoryQueue {
    MemoryQueue::new()
}

/// Lists of a prefix of their own in the Redis that all tests share.
pub(crate) fn redis() -> RedisQueue {
    RedisQueue::connect(&shared_url(), &format!("test-{}", new_id())).expect("a good URL and prefix")
}

pub(crate) fn shared_url() -> String {
    std::env::var("MUSTER_TEST_REDIS_URL").expect("MUSTER_TEST_REDIS_URL is not set: run through `make test` or `scripts/with-servers`")
}

/// Makes one test for each list out of each named function.
macro_rules! over_both_lists {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    crate::support::limited(super::$name(crate::support::fixture::memory())).await;
                }
            )*
        }

        mod redis {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    crate::support::limited(super::$name(crate::support::fixture::redis())).await;
                }
            )*
        }
    };
}
pub(crate) use over_both_lists;
