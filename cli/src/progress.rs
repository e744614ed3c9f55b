//! How a run goes, live: one line on a terminal, a line every few seconds elsewhere. On standard error.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use muster_shared::wire::RunView;
use tokio::time::Instant;

use crate::output;

/// Between two lines where nobody watches.
const LINE_EVERY: Duration = Duration::from_secs(3);

/// Shows how one run goes.
pub(crate) struct Progress {
    began: Instant,
    last: Option<(Instant, i64)>,
    rate: f64,
    bar: Option<ProgressBar>,
    lined: Option<Instant>,
}

impl Progress {
    /// From now on.
    pub(crate) fn start() -> Self {
        let bar = output::watched().then(|| {
            let style =
                ProgressStyle::with_template("{bar:24} {pos}/{len} {msg} · {elapsed}").unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(style)
        });
        Self { began: Instant::now(), last: None, rate: 0.0, bar, lined: None }
    }

    /// How the run stands now.
    pub(crate) fn show(&mut self, run: &RunView) {
        self.measure(run.steps);
        let counts = &run.instances;
        let done = output::ended(counts);
        let message = format!(
            "done · {} queued · {} running · {} waiting · {} failed · {} steps, {:.0}/s",
            counts.queued,
            counts.running,
            counts.waiting,
            counts.failed + counts.timeout,
            run.steps,
            self.rate
        );
        match &self.bar {
            Some(bar) => {
                bar.set_length(u64::try_from(counts.total).unwrap_or_default());
                bar.set_position(u64::try_from(done).unwrap_or_default());
                bar.set_message(message);
            }
            None if self.lined.is_none_or(|at| at.elapsed() >= LINE_EVERY) => {
                self.lined = Some(Instant::now());
                output::note(format!("{done}/{} {message} · {:.0} s", counts.total, self.began.elapsed().as_secs_f64()));
            }
            None => {}
        }
    }

    /// The server is away for a moment.
    pub(crate) fn trouble(&mut self, what: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None => output::note(what),
        }
    }

    /// Takes the line away.
    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    /// Steps per second, smoothed, so that it can be read.
    fn measure(&mut self, steps: i64) {
        let now = Instant::now();
        let Some((at, before)) = self.last else {
            self.last = Some((now, steps));
            return;
        };
        let seconds = now.duration_since(at).as_secs_f64();
        if seconds < 0.2 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = (steps - before) as f64 / seconds;
        self.rate = if self.rate == 0.0 { rate } else { 0.6 * self.rate + 0.4 * rate };
        self.last = Some((now, steps));
    }
}
