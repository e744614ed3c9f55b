//! Request headers that mean something to Muster.

use axum::http::{HeaderMap, HeaderName};

use crate::problem::{ApiError, Code};

/// The request's id: taken from the client or made, answered in every case.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The client's key for "make this once".
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Set to `true` when an answer repeats an earlier one.
pub(crate) const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A key has at most this many characters.
const MAX_KEY_CHARS: usize = 255;
/// A request id from outside has at most this many characters; longer ones are replaced.
const MAX_REQUEST_ID_CHARS: usize = 128;

fn is_visible_ascii(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_graphic)
}

/// The idempotency key, if there is one: 1 to 255 visible ASCII characters.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = values.next() else { return Ok(None) };
    let bytes = key.as_bytes();
    let accepted = values.next().is_none() && (1..=MAX_KEY_CHARS).contains(&bytes.len()) && is_visible_ascii(bytes);
    match key.to_str() {
        Ok(key) if accepted => Ok(Some(key.to_owned())),
        Ok(_) | Err(_) => {
            Err(ApiError::new(Code::BadIdempotencyKey, format!("give one key of 1 to {MAX_KEY_CHARS} visible ASCII characters")))
        }
    }
}

/// The request id that the client gave, if it can be used.
pub(crate) fn request_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    ((1..=MAX_REQUEST_ID_CHARS).contains(&id.len()) && is_visible_ascii(id.as_bytes())).then_some(id)
}

/// The W3C trace context that the client gave, in the form of version 00, if it is valid.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let given = values.next()?.to_str().ok()?.trim();
    if values.next().is_some() {
        return None;
    }
    let mut fields = given.split('-');
    let (version, trace, parent, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let is_hex = |text: &str, len: usize| text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |text: &str| text.bytes().all(|b| b == b'0');
    let well_formed = is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2);
    // Later versions may append fields; version 00 has none, and ff is forbidden.
    let known = version != "ff" && (version != "00" || fields.next().is_none());
    (well_formed && known && !is_zero(trace) && !is_zero(parent)).then(|| format!("00-{trace}-{parent}-{flags}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, axum::http::HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn an_idempotency_key_has_1_to_255_visible_ascii_characters() {
        let longest = "k".repeat(255);
        assert_eq!(idempotency_key(&HeaderMap::new()), Ok(None));
        assert_eq!(idempotency_key(&with(IDEMPOTENCY_KEY, &[longest.as_bytes()])), Ok(Some(longest.clone())));
        let too_long = "k".repeat(256);
        for bad in [&[&b""[..]][..], &[b"two words"], &[b"\xc3\xa4"], &[b"tab\tbed"], &[too_long.as_bytes()], &[b"one", b"two"]] {
            assert!(idempotency_key(&with(IDEMPOTENCY_KEY, bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_trace_context_is_passed_on_only_when_it_is_valid() {
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(traceparent(&with(TRACEPARENT, &[valid.as_bytes()])).as_deref(), Some(valid));
        let later = format!("cc{}-more", &valid[2..]);
        assert_eq!(traceparent(&with(TRACEPARENT, &[later.as_bytes()])).as_deref(), Some(valid));
        for bad in [
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "",
        ] {
            assert_eq!(traceparent(&with(TRACEPARENT, &[bad.as_bytes()])), None, "{bad}");
        }
        assert_eq!(traceparent(&with(TRACEPARENT, &[valid.as_bytes(), valid.as_bytes()])), None);
    }

    #[test]
    fn a_request_id_that_could_forge_a_log_line_is_not_used() {
        assert_eq!(request_id(&with(REQUEST_ID, &[b"abc-1"])), Some("abc-1"));
        for bad in [&b""[..], b"a b", b"\xff", "x".repeat(129).as_bytes()] {
            assert_eq!(request_id(&with(REQUEST_ID, &[bad])), None, "{bad:?}");
        }
    }
}
