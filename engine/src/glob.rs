//! Patterns with `*` for any run of characters. Nothing else is special, so that tasks may hold brackets and
//! question marks.

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob {
    /// The literals between the stars; one alone means equality.
    parts: Vec<String>,
}

impl Glob {
    pub(crate) fn new(pattern: &str) -> Self {
        Self { parts: pattern.split('*').map(str::to_owned).collect() }
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        let [first, middle @ .., last] = self.parts.as_slice() else {
            return self.parts.first().is_some_and(|only| only == text);
        };
        let Some(mut rest) = text.strip_prefix(first.as_str()).and_then(|rest| rest.strip_suffix(last.as_str())) else {
            return false;
        };
        for part in middle {
            let Some(at) = rest.find(part.as_str()) else { return false };
            rest = &rest[at + part.len()..];
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run_and_nothing_else_is_special() {
        let cases = [
            ("worker", "worker", true),
            ("worker", "worker-1", false),
            ("*", "", true),
            ("work*", "worker-1", true),
            ("*-1", "worker-1", true),
            ("w*k*1", "worker-1", true),
            ("a*a", "a", false),
            ("what?", "what?", true),
            ("what?", "whats", false),
            ("[a]*", "[a]bc", true),
            ("*ab*ab*", "abab", true),
            ("*ab*ab*", "aab", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(Glob::new(pattern).matches(text), expected, "{pattern} on {text}");
        }
    }
}
