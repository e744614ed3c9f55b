//! A batch of fenced writes: what cannot be stored drops out, the rest commits together, and a batch that the
//! database refuses is halved until the culprit is alone (rule 3).

use std::collections::BTreeMap;

use muster_shared::store::{Committed, Then, Write, WriteError};

use super::{PostgresStore, append::append, errors::Failure, errors::retrying, transition::transition};
use crate::rows;

type Answer = Result<Committed, WriteError>;

/// Which statements a write needs.
#[derive(Clone, Copy)]
enum Path {
    /// One statement: the instance goes on.
    Append,
    /// A transaction: its ownership or status changes.
    Transition,
}

impl Path {
    const fn of(write: &Write) -> Self {
        match write.then {
            Then::Continue => Self::Append,
            Then::Wait { .. } | Then::Complete { .. } | Then::Fail { .. } | Then::Release => Self::Transition,
        }
    }
}

/// Commits; answers in the order of the batch.
pub(super) async fn commit(store: &PostgresStore, batch: &[Write]) -> Vec<Answer> {
    let mut answers: Vec<Option<Answer>> =
        batch.iter().map(|write| rows::refused_write(write).map(|why| Err(WriteError::Refused(why)))).collect();
    for wave in waves(batch) {
        let mut paths: (Vec<usize>, Vec<usize>) = Default::default();
        for (which, before) in wave {
            if answers[which].is_some() {
                continue;
            }
            // What follows a write that failed cannot follow what is stored.
            if let Some(Some(Err(error))) = before.map(|before| &answers[before]) {
                answers[which] = Some(Err(error.clone()));
                continue;
            }
            match Path::of(&batch[which]) {
                Path::Append => paths.0.push(which),
                Path::Transition => paths.1.push(which),
            }
        }
        let (appended, moved) = tokio::join!(settle(store, batch, paths.0, Path::Append), settle(store, batch, paths.1, Path::Transition));
        for (which, answer) in appended.into_iter().chain(moved) {
            answers[which] = Some(answer);
        }
    }
    let lost = || Err(WriteError::Unavailable("the write was not reached".to_owned()));
    answers.into_iter().map(|answer| answer.unwrap_or_else(lost)).collect()
}

/// The writes in waves, so that no instance is twice in one: each with the earlier write of its instance.
fn waves(batch: &[Write]) -> Vec<Vec<(usize, Option<usize>)>> {
    let mut seen: BTreeMap<_, (usize, usize)> = BTreeMap::new();
    let mut waves: Vec<Vec<(usize, Option<usize>)>> = Vec::new();
    for (which, write) in batch.iter().enumerate() {
        let before = seen.get(&write.lease.instance).copied();
        let wave = before.map_or(0, |(wave, _)| wave + 1);
        if waves.len() == wave {
            waves.push(Vec::new());
        }
        waves[wave].push((which, before.map(|(_, before)| before)));
        seen.insert(write.lease.instance, (wave, which));
    }
    waves
}

/// Commits the writes `which` by one path, halving what the database refuses.
async fn settle(store: &PostgresStore, batch: &[Write], which: Vec<usize>, path: Path) -> Vec<(usize, Answer)> {
    let mut answers = Vec::with_capacity(which.len());
    let mut parts = vec![which];
    while let Some(mut part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        let writes: Vec<&Write> = part.iter().map(|index| &batch[*index]).collect();
        let done = match path {
            Path::Append => retrying(|| append(store, &writes)).await,
            Path::Transition => retrying(|| transition(store, &writes)).await,
        };
        match done {
            Ok(done) => answers.extend(part.into_iter().zip(done)),
            Err(Failure::Refused(why)) if part.len() == 1 => answers.push((part[0], Err(WriteError::Refused(why)))),
            Err(Failure::Refused(_)) => {
                let second = part.split_off(part.len() / 2);
                parts.extend([second, part]);
            }
            Err(other) => {
                // Nothing that a write could help: the rest would wait for the same.
                let error = WriteError::Unavailable(other.why());
                let rest = part.into_iter().chain(parts.drain(..).flatten());
                answers.extend(rest.map(|index| (index, Err(error.clone()))));
            }
        }
    }
    answers
}
