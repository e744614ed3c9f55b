//! Small helpers for the text of faults: pointers, quotations, nearest names.

/// The pointer of a member: `~`, `/` are escaped (RFC 6901). A NUL is replaced, because no answer and no row may carry one.
pub(crate) fn member(at: &str, key: &str) -> String {
    format!("{at}/{}", key.replace('~', "~0").replace('/', "~1").replace('\0', "\u{FFFD}"))
}

/// What a person gave, in back quotes: control characters escaped, cut after 80 characters.
pub(crate) fn quoted(given: &str) -> String {
    const SHOWN: usize = 80;
    let mut shown: String = given.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if given.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// Names in back quotes, or `none`.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(quoted).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The known name that `given` was probably meant to be.
pub(crate) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer than any known name: nothing is near, and the comparison would cost for nothing.
    if given.len() > 64 {
        return None;
    }
    let folded = given.to_lowercase().replace('-', "_");
    let allowed = (folded.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|name| (distance(&folded, &name.to_lowercase().replace('-', "_")), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, name)| name)
}

/// Edits (insert, delete, replace, swap of two neighbours) between two names, row by row.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let mut least = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]));
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_far_ones_are_not() {
        let known = ["models", "tools", "max_steps", "limits"];
        assert_eq!(nearest("model", known), Some("models"));
        assert_eq!(nearest("modles", ["mode", "models"]), Some("models"));
        assert_eq!(nearest("max-step", known), Some("max_steps"));
        assert_eq!(nearest("Tools", known), Some("tools"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest(&"m".repeat(100), known), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn quotations_are_short_and_carry_no_control_characters() {
        assert_eq!(quoted("a\0b"), "`a\\0b`");
        assert_eq!(quoted(&"x".repeat(81)), format!("`{}…`", "x".repeat(80)));
        assert_eq!(member("/a", "b/~\0"), "/a/b~1~0\u{FFFD}");
    }
}
