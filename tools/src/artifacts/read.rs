//! `artifact_read`: a piece of a file as text.

use std::{fs::File, os::unix::fs::FileExt as _, sync::Arc};

use async_trait::async_trait;
use muster_shared::{
    gate::Permit,
    ids::{InstanceId, RunId},
    tool::{Effect, Tool, ToolError, ToolSpec},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ArtifactRoots, Denied, MAX_PATH_CHARS, RUN_PREFIX, beneath, blocking, parts};
use crate::{arguments, invalid_arguments};

/// Bytes of a file that one call reads when it does not say.
const DEFAULT_BYTES: usize = 32 * 1024;

/// Bytes of a file that one call reads at most.
const MAX_BYTES: usize = 48 * 1024;

/// Bytes that the text may need as JSON. With the path and what the log wraps around a result it stays under
/// [`muster_shared::MAX_INLINE_BYTES`], whatever needs escaping.
const MAX_ESCAPED_BYTES: usize = 52 * 1024;

/// `artifact_read {path, offset?, max_bytes?} -> {path, text, bytes, truncated, lossy}`. Pure.
pub struct ArtifactRead {
    spec: ToolSpec,
    roots: Arc<ArtifactRoots>,
}

impl ArtifactRead {
    /// Reads below these roots.
    pub fn new(roots: Arc<ArtifactRoots>) -> Self {
        let spec = ToolSpec {
            name: "artifact_read".to_owned(),
            description: format!(
                "Reads a file as text. `path` is relative to the artifact root, or `{RUN_PREFIX}<instance id>/<path>` for what an agent of this \
                 run wrote. Answers up to `max_bytes` bytes from `offset`; when `truncated` is true, go on at `offset` + `bytes`. `lossy` is true \
                 when bytes that are not text were replaced by U+FFFD."
            ),
            input_schema: json!({
                "type": "object", "additionalProperties": false, "required": ["path"],
                "properties": {
                    "path": {"type": "string", "minLength": 1, "maxLength": MAX_PATH_CHARS},
                    "offset": {"type": "integer", "minimum": 0, "maximum": i64::MAX, "default": 0},
                    "max_bytes": {"type": "integer", "minimum": 16, "maximum": MAX_BYTES, "default": DEFAULT_BYTES},
                },
            }),
            output_schema: json!({
                "type": "object", "additionalProperties": false, "required": ["path", "text", "bytes", "truncated", "lossy"],
                "properties": {
                    "path": {"type": "string"},
                    "text": {"type": "string"},
                    "bytes": {"type": "integer", "minimum": 0},
                    "truncated": {"type": "boolean"},
                    "lossy": {"type": "boolean"},
                },
            }),
            timeout_ms: 10_000,
            effect: Effect::Pure,
        };
        Self { spec, roots }
    }
}

#[derive(Deserialize)]
struct Arguments {
    path: String,
    #[serde(default)]
    offset: u64,
    #[serde(default = "default_bytes")]
    max_bytes: usize,
}

const fn default_bytes() -> usize {
    DEFAULT_BYTES
}

#[async_trait]
impl Tool for ArtifactRead {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    async fn call(&self, permit: Permit) -> Result<Value, ToolError> {
        let given: Arguments = arguments(permit.arguments())?;
        let (roots, run) = (Arc::clone(&self.roots), permit.lease().run);
        blocking(move || {
            let piece = match given.path.strip_prefix(RUN_PREFIX) {
                None => read_root(&roots, &given.path, &given),
                Some(rest) => {
                    let (instance, rest) = rest.split_once('/').unwrap_or((rest, ""));
                    let instance: InstanceId = instance.parse().map_err(|error| invalid_arguments(format!("/path: {error}")))?;
                    read_run(&roots, run, instance, rest, &given)
                }
            };
            let Piece { text, bytes, truncated, lossy } = piece.map_err(|denied| denied.shown(&given.path))?;
            Ok(json!({"path": given.path, "text": text, "bytes": bytes, "truncated": truncated, "lossy": lossy}))
        })
        .await
    }
}

fn read_root(roots: &ArtifactRoots, path: &str, given: &Arguments) -> Result<Piece, Denied> {
    let parts = parts(path)?;
    read(&beneath::open(beneath::root(&roots.read)?, &parts)?, given)
}

/// What another instance of this run wrote. Other runs cannot be named: the run is the lease's.
fn read_run(roots: &ArtifactRoots, run: RunId, instance: InstanceId, path: &str, given: &Arguments) -> Result<Piece, Denied> {
    let parts = parts(path)?;
    let run = beneath::enter(&beneath::root(&roots.write)?, &run.to_string())?;
    let instance = beneath::enter(&run, &instance.to_string())?;
    read(&beneath::open(instance, &parts)?, given)
}

fn read(file: &File, given: &Arguments) -> Result<Piece, Denied> {
    // One byte more tells whether the file goes on.
    let wanted = given.max_bytes.min(MAX_BYTES);
    let mut bytes = vec![0; wanted + 1];
    let mut filled = 0;
    // Beyond the end there is nothing; some file systems answer an error to an offset that they cannot count to.
    let beyond = given.offset >= file.metadata()?.len();
    while filled < bytes.len() && !beyond {
        let at = given.offset.saturating_add(filled as u64);
        match file.read_at(&mut bytes[filled..], at) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let more = filled > wanted;
    Ok(Piece::decode(&bytes[..filled.min(wanted)], more, MAX_ESCAPED_BYTES))
}

/// A piece of a file as text.
#[derive(Debug, PartialEq, Eq)]
struct Piece {
    text: String,
    /// Bytes of the file that `text` stands for.
    bytes: usize,
    /// Whether the file goes on after them.
    truncated: bool,
    /// Whether something was replaced.
    lossy: bool,
}

impl Piece {
    /// Decodes as UTF-8, replacing what is none, and NUL, which cannot be journaled. Stops before a character
    /// that the end of the piece cuts in two (`more` follows), and before the escaped text gets too long.
    fn decode(bytes: &[u8], more: bool, max_escaped: usize) -> Self {
        let mut piece = Self { text: String::with_capacity(bytes.len()), bytes: 0, truncated: more, lossy: false };
        let mut escaped = 0;
        for chunk in bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                if !piece.push(c, c.len_utf8(), &mut escaped, max_escaped) {
                    return piece;
                }
            }
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            let at_end = piece.bytes + invalid.len() == bytes.len();
            let cut_in_two = at_end && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if cut_in_two && more {
                return piece;
            }
            if !piece.push(char::REPLACEMENT_CHARACTER, invalid.len(), &mut escaped, max_escaped) {
                return piece;
            }
            piece.lossy = true;
        }
        piece
    }

    /// Adds a character that stands for `bytes` bytes; false when it does not fit.
    fn push(&mut self, c: char, bytes: usize, escaped: &mut usize, max_escaped: usize) -> bool {
        let (c, replaced) = if c == '\0' { (char::REPLACEMENT_CHARACTER, true) } else { (c, false) };
        *escaped += match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            '\u{1}'..'\u{20}' => 6,
            _ => c.len_utf8(),
        };
        if *escaped > max_escaped {
            self.truncated = true;
            return false;
        }
        self.lossy |= replaced;
        self.text.push(c);
        self.bytes += bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8], more: bool) -> Piece {
        Piece::decode(bytes, more, MAX_ESCAPED_BYTES)
    }

    #[test]
    fn a_character_cut_by_the_end_of_a_piece_is_left_for_the_next() {
        let euro = "x€".as_bytes();
        assert_eq!(decode(&euro[..3], true), Piece { text: "x".to_owned(), bytes: 1, truncated: true, lossy: false });
        assert_eq!(decode(&euro[..3], false), Piece { text: "x\u{FFFD}".to_owned(), bytes: 3, truncated: false, lossy: true });
    }

    #[test]
    fn bytes_that_are_no_text_and_nul_are_replaced_and_it_says_so() {
        let piece = decode(b"a\xFF\0b", false);
        assert_eq!(piece, Piece { text: "a\u{FFFD}\u{FFFD}b".to_owned(), bytes: 4, truncated: false, lossy: true });
    }

    #[test]
    fn a_piece_stops_before_its_escaped_text_gets_too_long() {
        let piece = Piece::decode(&[1; 10], false, 32);
        assert_eq!((piece.bytes, piece.truncated), (5, true));
    }

    proptest! {
        #[test]
        fn pieces_together_are_the_file(bytes in proptest::collection::vec(any::<u8>(), 0..400), size in 16_usize..64, escaped in 24_usize..128) {
            let (mut at, mut text) = (0, String::new());
            loop {
                let end = (at + size).min(bytes.len());
                let piece = Piece::decode(&bytes[at..end], end < bytes.len(), escaped);
                prop_assert!(serde_json::to_string(&piece.text).is_ok_and(|json| json.len() <= escaped + 2));
                text.push_str(&piece.text);
                at += piece.bytes;
                if !piece.truncated {
                    break;
                }
                prop_assert!(piece.bytes > 0, "no progress at {at}");
            }
            prop_assert_eq!(at, bytes.len());
            if let Ok(whole) = String::from_utf8(bytes) {
                prop_assert_eq!(text, whole.replace('\0', "\u{FFFD}"));
            }
        }
    }
}
