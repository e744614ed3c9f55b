//! Which points of all sources say the most. The same input gives the same order on every machine: only
//! additions, multiplications, divisions and square roots (exact in IEEE 754), and ties go to the earlier point.

use super::{
    material::{Material, Source},
    split::Kind,
    words,
};

/// A point with its worth.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ranked {
    pub(super) text: String,
    pub(super) kind: Kind,
    /// Number of its source.
    pub(super) source: usize,
    /// Number within its source.
    pub(super) order: usize,
    pub(super) words: Vec<String>,
    pub(super) score: f64,
}

/// All points, the most salient first.
pub(super) fn points(material: &Material<'_>) -> Vec<Ranked> {
    let mut points: Vec<Ranked> = material.sources.iter().enumerate().flat_map(|(number, source)| of_source(number, source)).collect();
    score(&mut points, &words::content_words(material.task));
    points.sort_by(|a, b| b.score.total_cmp(&a.score).then((a.source, a.order).cmp(&(b.source, b.order))));
    points
}

fn of_source(number: usize, source: &Source) -> impl Iterator<Item = Ranked> {
    source.parsed.points.iter().enumerate().map(move |(order, (kind, text))| Ranked {
        text: text.clone(),
        kind: *kind,
        source: number,
        order,
        words: words::content_words(text),
        score: 0.0,
    })
}

/// Sets the scores: frequent words, the words of the task, the beginning of a text and documentation count more.
pub(super) fn score(points: &mut [Ranked], task: &[String]) {
    let scores: Vec<f64> = {
        let frequent = words::frequencies(points.iter().map(|point| point.words.as_slice()));
        points.iter().map(|point| worth(point, task, |word| frequent.get(word).copied().unwrap_or(0))).collect()
    };
    for (point, score) in points.iter_mut().zip(scores) {
        point.score = score;
    }
}

fn worth(point: &Ranked, task: &[String], frequency: impl Fn(&str) -> u32) -> f64 {
    let sum: f64 = point.words.iter().map(|word| f64::from(frequency(word)).sqrt()).sum();
    let asked = point.words.iter().filter(|word| task.binary_search(word).is_ok()).take(3).count();
    let position = 1.0 + 1.0 / (1.0 + small(point.order));
    let kind = match point.kind {
        Kind::Lead => 1.6,
        Kind::Doc => 1.15,
        Kind::Prose => 1.0,
        Kind::Names => 1.4,
        Kind::Comment => 0.55,
    };
    sum / (small(point.words.len()) + 3.0) * kind * position * (1.0 + 0.15 * small(asked))
}

fn small(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Takes the best points that `fits` lets in and that are not like one taken before; in the order of the text.
pub(super) fn select(points: &[Ranked], most: usize, mut fits: impl FnMut(&Ranked) -> bool) -> Vec<&Ranked> {
    let mut taken: Vec<&Ranked> = Vec::new();
    for point in points {
        if taken.len() >= most {
            break;
        }
        let new = !taken.iter().any(|other| words::alike(&other.words, &point.words) || other.text == point.text);
        if new && fits(point) {
            taken.push(point);
        }
    }
    taken.sort_by_key(|point| (point.source, point.order));
    taken
}
