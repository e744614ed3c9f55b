//! Figures: a JSON line each on stdout (and in a file), a table on stderr.

use std::{fs, io::Write as _, path::Path};

use anyhow::Context as _;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use crate::workload::Workload;

/// Tells a person how it goes.
#[expect(clippy::print_stderr, reason = "stderr is for people, stdout for figures")]
pub(crate) fn say(line: &str) {
    eprintln!("muster-bench: {line}");
}

/// One figure: the median of its measurements, beside that of the floor's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figure {
    bench: &'static str,
    n: u64,
    k: u64,
    latency_ms: u64,
    steps: u64,
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    floor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    min: f64,
    max: f64,
    repeat: usize,
}

impl Figure {
    /// The median of these rates; there is at least one.
    pub(crate) fn new(bench: &'static str, workload: Workload, rates: &[f64]) -> Self {
        let Workload { n, k, latency_ms } = workload;
        let (min, max) = rates.iter().fold((f64::INFINITY, 0.0), |(min, max), rate| (f64::min(min, *rate), f64::max(max, *rate)));
        Self {
            bench,
            n,
            k,
            latency_ms,
            steps: workload.steps(),
            value: rounded(median(rates), 1),
            unit: "steps/s",
            floor: None,
            ratio: None,
            min: rounded(min, 1),
            max: rounded(max, 1),
            repeat: rates.len(),
        }
    }

    /// With the floor's rates from the same run.
    #[must_use]
    pub(crate) fn beside(self, floors: &[f64]) -> Self {
        let floor = median(floors);
        Self { floor: Some(rounded(floor, 1)), ratio: Some(rounded(self.value / floor, 4)), ..self }
    }
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[middle - 1], sorted[middle]) } else { sorted[middle] }
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

/// Where figures go.
pub(crate) struct Report {
    file: Option<fs::File>,
    figures: Vec<Figure>,
}

impl Report {
    /// To stdout, and to the end of `out`. The file is opened first: better now than after the measurement.
    pub(crate) fn new(out: Option<&Path>) -> anyhow::Result<Self> {
        let open =
            |path: &Path| fs::File::options().create(true).append(true).open(path).with_context(|| format!("opening {}", path.display()));
        Ok(Self { file: out.map(open).transpose()?, figures: Vec::new() })
    }

    /// Prints the figure's JSON line.
    #[expect(clippy::print_stdout, reason = "the figures are what this program makes")]
    pub(crate) fn add(&mut self, figure: &Figure) -> anyhow::Result<()> {
        let line = serde_json::to_string(figure)?;
        println!("{line}");
        if let Some(file) = &mut self.file {
            writeln!(file, "{line}").context("writing the figures")?;
        }
        self.figures.push(figure.clone());
        Ok(())
    }

    /// The table for people.
    #[expect(clippy::print_stderr, reason = "stderr is for people, stdout for figures")]
    pub(crate) fn table(&self) {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header(["bench", "workload", "steps", "median", "min", "max", "floor", "ratio"]);
        let percent = |ratio: f64| format!("{:.1} %", ratio * 100.0);
        for figure in &self.figures {
            table.add_row([
                figure.bench.to_owned(),
                format!("W({}, {}, {})", figure.n, figure.k, figure.latency_ms),
                figure.steps.to_string(),
                format!("{:.0} {}", figure.value, figure.unit),
                format!("{:.0}", figure.min),
                format!("{:.0}", figure.max),
                figure.floor.map_or_else(|| "-".to_owned(), |floor| format!("{floor:.0}")),
                figure.ratio.map_or_else(|| "-".to_owned(), percent),
            ]);
        }
        eprintln!("{table}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_one_json_line_with_its_floor_and_ratio() {
        let workload = Workload { n: 1000, k: 5, latency_ms: 0 };
        let figure = Figure::new("steps", workload, &[900.0, 1000.0, 5000.0]).beside(&[4000.0, 6000.0]);
        assert_eq!(
            serde_json::to_string(&figure).expect("it has no odd keys"),
            r#"{"bench":"steps","n":1000,"k":5,"latency_ms":0,"steps":5251,"value":1000.0,"unit":"steps/s","floor":5000.0,"ratio":0.2,"min":900.0,"max":5000.0,"repeat":3}"#
        );
    }
}
