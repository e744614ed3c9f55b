//! Retry delays. The `backoff` crate is used here, and only here, as a delay calculator: the attempt number
//! comes from the log, the jitter from a seed, so that replay computes the same delay.

use std::time::{Duration, Instant};

use backoff::{Clock, backoff::Backoff as _, exponential::ExponentialBackoff};

use crate::{error::Retryable, template::RetryPolicy, time::mix64};

/// `backoff` asks a clock how long it has been retrying; without a maximal elapsed time the answer is unused.
struct NoClock(Instant);

impl Clock for NoClock {
    fn now(&self) -> Instant {
        self.0
    }
}

/// How long to wait after failed attempt number `attempt` (from 1), or `None` when there is no further attempt.
///
/// `initial_delay_ms` doubled for each attempt, at most `max_delay_ms`, times a jitter in 0.5..1 drawn from
/// `seed`; never less than a provider's Retry-After.
pub fn delay(policy: &RetryPolicy, attempt: u32, retry: Retryable, seed: u64) -> Option<Duration> {
    let at_least = match retry {
        Retryable::Never => return None,
        Retryable::Backoff => Duration::ZERO,
        Retryable::After(millis) => Duration::from_millis(millis),
    };
    (attempt <= policy.max_retries).then(|| jittered(exponential(policy, attempt), seed).max(at_least))
}

fn exponential(policy: &RetryPolicy, attempt: u32) -> Duration {
    #[expect(clippy::disallowed_methods, reason = "the value is never used: max_elapsed_time is None")]
    let start = Instant::now();
    let mut backoff = ExponentialBackoff {
        current_interval: Duration::from_millis(policy.initial_delay_ms),
        initial_interval: Duration::from_millis(policy.initial_delay_ms),
        randomization_factor: 0.0,
        multiplier: 2.0,
        max_interval: Duration::from_millis(policy.max_delay_ms),
        start_time: start,
        max_elapsed_time: None,
        clock: NoClock(start),
    };
    (0..attempt).filter_map(|_| backoff.next_backoff()).last().unwrap_or_default()
}

fn jittered(delay: Duration, seed: u64) -> Duration {
    let unit = u32::try_from(mix64(seed) >> 32).unwrap_or(u32::MAX);
    delay.mul_f64(0.5 + 0.5 * f64::from(unit) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy { max_retries: 3, initial_delay_ms: 100, max_delay_ms: 250 };

    #[test]
    fn delays_double_up_to_the_maximum_and_jitter_takes_at_most_half() {
        for (attempt, full) in [(1, 100), (2, 200), (3, 250)] {
            for seed in 0..50 {
                let delay = delay(&POLICY, attempt, Retryable::Backoff, seed).expect("attempts are left");
                assert!(delay <= Duration::from_millis(full) && delay >= Duration::from_millis(full / 2), "{attempt}: {delay:?}");
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_delay() {
        let again = || delay(&POLICY, 2, Retryable::Backoff, 7);
        assert_eq!(again(), again());
        assert_ne!(again(), delay(&POLICY, 2, Retryable::Backoff, 8));
    }

    #[test]
    fn retry_after_is_a_lower_bound() {
        assert_eq!(delay(&POLICY, 1, Retryable::After(9000), 1), Some(Duration::from_secs(9)));
    }

    #[test]
    fn what_cannot_help_and_what_was_tried_often_enough_is_not_retried() {
        assert_eq!(delay(&POLICY, 1, Retryable::Never, 1), None);
        assert_eq!(delay(&POLICY, 4, Retryable::Backoff, 1), None);
    }
}
