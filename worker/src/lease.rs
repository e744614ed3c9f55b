//! The worker's own deadline: until when it may believe in its leases.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

/// A clock that runs while the machine is suspended; only differences of it mean anything.
pub(crate) fn boot_clock() -> Duration {
    #[cfg(target_os = "linux")]
    const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;
    // Both clocks exist on every supported kernel; a zero would only make every lease look expired.
    clock_gettime(CLOCK).map_or(Duration::ZERO, Duration::from)
}

/// Leases are believed in until `ttl` minus a margin after the last acknowledged heartbeat was *sent* (rule 6).
#[derive(Debug)]
pub(crate) struct LeaseClock {
    believes: Duration,
    sent: watch::Sender<Duration>,
}

impl LeaseClock {
    /// A clock whose first heartbeat (the registration) was sent at `sent`.
    pub(crate) fn new(ttl: Duration, sent: Duration) -> Self {
        // A tenth of the TTL for the time between this check and the effect.
        Self { believes: ttl.mul_f64(0.9), sent: watch::Sender::new(sent) }
    }

    /// The heartbeat that was sent at `sent` has been acknowledged.
    pub(crate) fn renew(&self, sent: Duration) {
        self.sent.send_replace(sent);
    }

    /// Whether an effect may start at `now`.
    pub(crate) fn is_live(&self, now: Duration) -> bool {
        now.saturating_sub(*self.sent.borrow()) < self.believes
    }

    /// Waits until an effect may start. It may wait for ever: select it against the end of the session.
    pub(crate) async fn live(&self) {
        let mut renewals = self.sent.subscribe();
        while !self.is_live(boot_clock()) {
            if renewals.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_believed_in_for_less_than_its_ttl_from_when_the_heartbeat_was_sent() {
        let lease = LeaseClock::new(Duration::from_secs(10), Duration::from_secs(100));
        assert!(lease.is_live(Duration::from_secs(108)));
        assert!(!lease.is_live(Duration::from_secs(109)));
        lease.renew(Duration::from_secs(108));
        assert!(lease.is_live(Duration::from_secs(116)));
    }

    #[tokio::test]
    async fn an_effect_waits_for_the_next_acknowledged_heartbeat() {
        let lease = LeaseClock::new(Duration::from_secs(10), Duration::ZERO);
        let (): () = tokio::select! {
            biased;
            () = lease.live() => panic!("the machine has been up for longer than nine seconds"),
            () = async { lease.renew(boot_clock()) } => {}
        };
        lease.live().await;
    }
}
