//! What is in Redis: the names of the keys, and a message as compact JSON.

use muster_shared::{
    ids::InstanceId,
    queue::{QueueError, Ready},
};
use serde::Serialize;

use crate::{PRIORITIES, list_of};

/// The keys of one prefix. They share a hash tag, so that a Redis Cluster keeps them in one slot.
#[derive(Debug)]
pub(crate) struct Keys {
    /// By priority, 0 first.
    lists: [String; PRIORITIES],
    /// Gone when Redis has lost its data.
    pub(crate) canary: String,
    /// A list with at most one element: "there is something to dispatch".
    pub(crate) nudge: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Result<Self, QueueError> {
        if prefix.is_empty() || prefix.contains(['{', '}']) {
            return Err(QueueError(format!("the key prefix `{prefix}` is empty or has a brace in it")));
        }
        Ok(Self {
            lists: std::array::from_fn(|priority| format!("{{{prefix}}}:ready:p{priority}")),
            canary: format!("{{{prefix}}}:canary"),
            nudge: format!("{{{prefix}}}:nudge"),
        })
    }

    pub(crate) fn list(&self, priority: u8) -> &str {
        &self.lists[list_of(priority)]
    }

    /// The highest priority first.
    pub(crate) fn lists(&self) -> impl ExactSizeIterator<Item = &str> {
        self.lists.iter().rev().map(String::as_str)
    }
}

/// [`Ready`], without what is at its default. It is read back as [`Ready`].
#[derive(Serialize)]
struct Message<'a> {
    id: InstanceId,
    #[serde(skip_serializing_if = "is_default")]
    priority: u8,
    #[serde(skip_serializing_if = "is_default")]
    reducer: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

pub(crate) fn encode(ready: &Ready) -> Vec<u8> {
    let Ready { id, priority, reducer, traceparent } = ready;
    let message = Message { id: *id, priority: *priority, reducer: *reducer, traceparent: traceparent.as_deref() };
    serde_json::to_vec(&message).expect("strings and numbers are always JSON")
}

/// Drops what cannot be read, and says so once: whatever it was, the store knows what is to be run.
pub(crate) fn decode_all(payloads: &[Vec<u8>]) -> Vec<Ready> {
    let mut ready = Vec::with_capacity(payloads.len());
    let mut first_error = None;
    for payload in payloads {
        match serde_json::from_slice(payload) {
            Ok(job) => ready.push(job),
            Err(error) => first_error = first_error.or(Some((error, payload.len()))),
        }
    }
    if let Some((error, bytes)) = first_error {
        tracing::warn!(dropped = payloads.len() - ready.len(), %error, bytes, "dropped messages of the ready list that cannot be read");
    }
    ready
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(priority: u8, reducer: bool, traceparent: Option<&str>) -> Ready {
        Ready { id: InstanceId(uuid::Uuid::from_u128(7)), priority, reducer, traceparent: traceparent.map(str::to_owned) }
    }

    #[test]
    fn a_message_has_no_more_than_it_needs() {
        let plain = encode(&ready(0, false, None));
        assert_eq!(String::from_utf8(plain).expect("JSON"), r#"{"id":"ins_00000000000000000000000000000007"}"#);
    }

    #[test]
    fn a_message_is_read_back_as_it_was_written() {
        for job in [ready(0, false, None), ready(9, true, Some("00-ab-cd-01"))] {
            assert_eq!(decode_all(&[encode(&job)]), [job]);
        }
    }

    #[test]
    fn unreadable_messages_are_dropped_and_the_others_kept() {
        let job = ready(3, false, None);
        let payloads =
            [b"".to_vec(), b"{".to_vec(), br#"{"id":"run_00000000000000000000000000000007"}"#.to_vec(), encode(&job), vec![0xFF]];
        assert_eq!(decode_all(&payloads), [job]);
    }

    #[test]
    fn keys_share_a_hash_tag_and_go_from_the_highest_priority_down() {
        let keys = Keys::new("muster").expect("a good prefix");
        assert_eq!(keys.lists().next(), Some("{muster}:ready:p9"));
        assert_eq!(keys.lists().last(), Some("{muster}:ready:p0"));
        assert_eq!(keys.list(200), "{muster}:ready:p9");
        assert_eq!((keys.canary.as_str(), keys.nudge.as_str()), ("{muster}:canary", "{muster}:nudge"));
    }

    #[test]
    fn a_prefix_that_would_break_the_hash_tag_is_refused() {
        for prefix in ["", "a}b", "{a"] {
            assert!(Keys::new(prefix).is_err(), "{prefix}");
        }
    }
}
