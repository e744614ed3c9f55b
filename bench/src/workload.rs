//! The workload, and how its steps are counted.

use std::time::Duration;

/// Outputs per reducer.
pub(crate) const CHUNK: u64 = 5;

/// W(N, K, L).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Workload {
    /// Instances.
    pub(crate) n: u64,
    /// Durable steps of each.
    pub(crate) k: u64,
    /// Latency of each model step.
    pub(crate) latency_ms: u64,
}

impl Workload {
    /// Reducers, level by level. A node with one child passes it on and has none.
    pub(crate) fn reducers(self) -> u64 {
        let (mut width, mut reducers) = (self.n, 0);
        while width > 1 {
            reducers += width / CHUNK + u64::from(width % CHUNK > 1);
            width = width.div_ceil(CHUNK);
        }
        reducers
    }

    /// Steps in all: a reducer makes one.
    pub(crate) fn steps(self) -> u64 {
        self.n * self.k + self.reducers()
    }

    /// Steps per second.
    #[expect(clippy::cast_precision_loss, reason = "a few million steps at most")]
    pub(crate) fn rate(self, elapsed: Duration) -> f64 {
        self.steps() as f64 / elapsed.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use muster_shared::reduce::Tree;

    use super::*;

    #[test]
    fn reducers_are_counted_as_the_fleet_plans_them() {
        for n in 1..3_000 {
            let tree = Tree { total: n, chunk: CHUNK as i64, reduces: true };
            let workload = Workload { n: n as u64, k: 5, latency_ms: 0 };
            assert_eq!(workload.reducers(), tree.reducers() as u64, "{n}");
        }
    }

    #[test]
    fn the_reference_workload_has_5251_steps() {
        assert_eq!(Workload { n: 1000, k: 5, latency_ms: 0 }.steps(), 5_251);
    }
}
