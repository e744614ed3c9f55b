//! Who may declare a worker dead.

use std::time::Duration;

/// A judge of other processes. After an outage it declares nobody dead before it has had one full TTL of
/// uninterrupted contact with the database: until then the others may only have been cut off as it was (rule 5).
#[derive(Debug, Clone)]
pub struct Judge {
    ttl: Duration,
    since: Option<Duration>,
    last: Duration,
}

impl Judge {
    /// A judge that has just started.
    pub const fn new(ttl: Duration) -> Self {
        Self { ttl, since: None, last: Duration::ZERO }
    }

    /// The database answered, and its clock said `now`: the clock by which heartbeats grow old. A gap of half a
    /// TTL without an answer counts as an outage (this process may have been stopped, or the database, or the
    /// whole machine suspended), and so does a clock that is set back or far ahead.
    pub fn contact(&mut self, now: Duration) {
        let interrupted = self.since.is_none() || now < self.last || now.saturating_sub(self.last) > self.ttl / 2;
        if interrupted {
            self.since = Some(now);
        }
        self.last = now;
    }

    /// The database did not answer.
    pub const fn outage(&mut self) {
        self.since = None;
    }

    /// Whether it may judge at `now`.
    pub fn may_judge(&self, now: Duration) -> bool {
        self.since.is_some_and(|since| now.saturating_sub(since) >= self.ttl && now.saturating_sub(self.last) <= self.ttl / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_judge_waits_one_full_ttl_of_contact() {
        let mut judge = Judge::new(TTL);
        for second in 0..10 {
            judge.contact(at(second));
            assert!(!judge.may_judge(at(second)), "after {second} s");
        }
        judge.contact(at(10));
        assert!(judge.may_judge(at(10)));
    }

    #[test]
    fn an_outage_starts_the_wait_anew() {
        let mut judge = Judge::new(TTL);
        (0..=20).for_each(|second| judge.contact(at(second)));
        judge.outage();
        judge.contact(at(21));
        assert!(!judge.may_judge(at(21)));
        (22..=31).for_each(|second| judge.contact(at(second)));
        assert!(judge.may_judge(at(31)));
    }

    #[test]
    fn a_silent_gap_counts_as_an_outage() {
        let mut judge = Judge::new(TTL);
        (0..=20).for_each(|second| judge.contact(at(second)));
        assert!(!judge.may_judge(at(30)), "it has not heard from the database for 10 s");
        judge.contact(at(30));
        assert!(!judge.may_judge(at(30)));
    }

    #[test]
    fn a_clock_that_is_set_back_starts_the_wait_anew() {
        let mut judge = Judge::new(TTL);
        (100..=120).for_each(|second| judge.contact(at(second)));
        judge.contact(at(50));
        assert!(!judge.may_judge(at(50)));
        (51..=60).for_each(|second| judge.contact(at(second)));
        assert!(judge.may_judge(at(60)), "and does not wait until the old time has come again");
    }
}
