//! Tokens, estimated: four bytes are one token. Good enough to bound and to account offline answers.

use muster_shared::engine::{Message, ModelRequest, ToolCall, Usage};

pub(crate) const BYTES_PER_TOKEN: usize = 4;

/// Tokens of that many bytes, rounded up.
pub(crate) fn of_bytes(bytes: usize) -> i64 {
    i64::try_from(bytes.div_ceil(BYTES_PER_TOKEN)).unwrap_or(i64::MAX)
}

/// Bytes that fit into that many tokens.
pub(crate) fn bytes(tokens: u32) -> usize {
    usize::try_from(tokens).unwrap_or(usize::MAX).saturating_mul(BYTES_PER_TOKEN)
}

/// What a call with this answer would have used.
pub(crate) fn usage(request: &ModelRequest, text: &str, calls: &[ToolCall]) -> Usage {
    let asked: usize = request.messages.iter().map(message_bytes).sum();
    let answered = text.len() + calls.iter().map(call_bytes).sum::<usize>();
    Usage { input_tokens: of_bytes(asked), output_tokens: of_bytes(answered), cost_micros: 0 }
}

fn message_bytes(message: &Message) -> usize {
    match message {
        Message::System { text } | Message::User { text } => text.len(),
        Message::Inputs { inputs } => inputs.iter().map(|input| input.name.len() + input.output.to_string().len()).sum(),
        Message::Assistant { text, tool_calls } => text.len() + tool_calls.iter().map(call_bytes).sum::<usize>(),
        Message::Tool { content, .. } => content.to_string().len(),
    }
}

fn call_bytes(call: &ToolCall) -> usize {
    call.name.len() + call.arguments.to_string().len()
}

/// The beginning of `text` in at most `limit` bytes, whole characters, with an ellipsis where it was cut.
pub(crate) fn cut(text: &str, limit: usize) -> String {
    const ELLIPSIS: &str = "…";
    if text.len() <= limit {
        return text.to_owned();
    }
    if limit < ELLIPSIS.len() {
        return ".".repeat(limit);
    }
    let mut end = limit - ELLIPSIS.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    // Prefer the end of a word, unless that loses too much.
    let head = &text[..end];
    let head = head.rfind(char::is_whitespace).filter(|at| at * 3 > end * 2).map_or(head, |at| &head[..at]);
    format!("{}{ELLIPSIS}", head.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_text_keeps_whole_characters_and_the_limit() {
        let text = "größer als erwartet, und noch länger";
        for limit in 0..=text.len() {
            let cut = cut(text, limit);
            assert!(cut.len() <= limit, "{cut:?} at {limit}");
        }
        assert_eq!(cut(text, text.len()), text);
        assert_eq!(of_bytes(0), 0);
        assert_eq!(of_bytes(5), 2);
    }
}
