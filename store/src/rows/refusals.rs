//! What may not enter a row, whatever the database would say: refused before it enters a batch (rule 3).

use muster_shared::{
    MAX_INLINE_BYTES,
    error::AgentError,
    ids::InstanceId,
    store::{SpawnBatch, Then, Write},
};

/// Whether text holds a NUL, raw or as the JSON escape `\u0000`: Postgres stores neither.
pub(crate) fn has_nul(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.contains(&0) {
        return true;
    }
    let mut from = 0;
    while let Some(found) = text[from..].find("\\u0000") {
        let at = from + found;
        // An even number of backslashes before it: this one begins an escape.
        if bytes[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 0 {
            return true;
        }
        from = at + 1;
    }
    false
}

/// The stored form of an error.
pub(crate) fn error_json(error: &AgentError) -> String {
    serde_json::to_string(error).expect("an error holds only strings")
}

/// The error of a run that failed because too many of its instances did: that of the last straw, by name.
pub(crate) fn run_error(error: &AgentError, instance: InstanceId) -> String {
    error_json(&AgentError { message: format!("{} (instance {instance})", error.message), ..error.clone() })
}

/// Why this JSON or text cannot enter a row, if it cannot.
pub(crate) fn refused_text(what: &str, text: &str) -> Option<String> {
    if text.len() > MAX_INLINE_BYTES {
        return Some(format!("{what} has {} bytes; at most {MAX_INLINE_BYTES} fit into a row", text.len()));
    }
    has_nul(text).then(|| format!("{what} contains a NUL character"))
}

/// Why this write cannot be stored, whatever the database says, if it cannot (rule 3).
pub(crate) fn refused_write(write: &Write) -> Option<String> {
    let first = write.entries.first().map_or(0, |entry| entry.seq);
    let consecutive = write.entries.iter().zip(first..).all(|(entry, seq)| entry.seq == seq && entry.epoch == write.lease.epoch);
    if !consecutive || write.entries.first().is_some_and(|entry| entry.seq < 1) {
        return Some("its entries are not consecutive under the lease's epoch".to_owned());
    }
    if write.entries.is_empty() && !matches!(write.then, Then::Release) {
        return Some("it has no entries".to_owned());
    }
    if let Some(why) = write.entries.iter().find_map(|entry| refused_text(&format!("event {}", entry.seq), &entry.payload)) {
        return Some(why);
    }
    match &write.then {
        Then::Complete { output } => refused_text("the output", output),
        Then::Fail { error } => refused_text("the error", &error_json(error)),
        Then::Continue | Then::Wait { .. } | Then::Release => None,
    }
}

/// Why this spawn cannot be stored, if it cannot.
pub(crate) fn refused_spawn(batch: &SpawnBatch) -> Option<String> {
    let nul = |what: &str, text: &str| text.contains('\0').then(|| format!("{what} contains a NUL character"));
    let made = i64::try_from(batch.instances.len()).unwrap_or(i64::MAX);
    if made != batch.group.tree.total {
        return Some(format!("the group has {} leaves, but {made} instances are given", batch.group.tree.total));
    }
    let of_run = [Some(&batch.run.spec), batch.run.traceparent.as_ref(), batch.idempotency.as_ref().map(|(key, _)| key)];
    if let Some(why) = of_run.into_iter().flatten().find_map(|text| nul("the request", text)) {
        return Some(why);
    }
    batch.instances.iter().find_map(|instance| {
        let texts = [Some(&instance.task), instance.name.as_ref(), instance.role.as_ref()];
        texts.into_iter().flatten().find_map(|text| nul(&format!("task {}", instance.ordinal), text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_is_found_raw_and_escaped_but_not_where_the_backslash_is_itself_escaped() {
        assert!(has_nul("a\0b"));
        assert!(has_nul(r#"{"a":"x\u0000y"}"#));
        assert!(has_nul(r#"{"a":"x\\\u0000y"}"#));
        assert!(!has_nul(r#"{"a":"x\\u0000y"}"#));
        assert!(!has_nul(r#"{"a":"x\u0001y"}"#));
    }
}
