//! As much of Markdown and of a shell as the documents need.

use std::fs;

use muster_tests::checkout;

/// The text of a document of the checkout.
pub(crate) fn document(name: &str) -> anyhow::Result<String> {
    Ok(fs::read_to_string(checkout().join(name))?)
}

/// The lines of the fenced blocks of a kind (`sh`), block by block; continued lines are joined.
pub(crate) fn blocks(text: &str, kind: &str) -> Vec<String> {
    let (mut blocks, mut open) = (Vec::new(), None::<String>);
    for line in text.lines() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(of)) => open = Some(if of.trim() == kind { String::new() } else { "\0".to_owned() }),
            (Some(_), Some(_)) => blocks.extend(open.take().filter(|block| !block.starts_with('\0'))),
            (Some(block), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// What stands between backquotes outside of fenced blocks.
pub(crate) fn quoted(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    // A quotation may go over the end of a line.
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    for (index, part) in prose.split('`').enumerate() {
        if index % 2 == 1 {
            found.push(part.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    found
}

/// The commands of a shell text, as words: split at line ends, `&&`, `&` and `|`; comments are left out.
pub(crate) fn shell(text: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut quote = None::<char>;
    let mut comment = false;
    for c in text.chars().chain(['\n']) {
        match (quote, c) {
            (None, '\n') => comment = false,
            _ if comment => continue,
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => {
                word.get_or_insert_default().push(c);
                continue;
            }
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
                continue;
            }
            (None, '#') if word.is_none() => {
                comment = true;
                continue;
            }
            (None, c) if !c.is_whitespace() && !matches!(c, '&' | '|' | ';') => {
                word.get_or_insert_default().push(c);
                continue;
            }
            (None, _) => {}
        }
        if quote.is_none() && (c.is_whitespace() || matches!(c, '&' | '|' | ';')) {
            words.extend(word.take());
            if matches!(c, '\n' | '&' | '|' | ';') && !words.is_empty() {
                commands.push(std::mem::take(&mut words));
            }
        }
    }
    commands
}

/// The arguments of a command if it is `muster`, whatever variables stand before it.
pub(crate) fn arguments_of_muster(words: &[String]) -> Option<&[String]> {
    let is_variable = |word: &&String| {
        word.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_') && !name.is_empty())
    };
    let rest = &words[words.iter().take_while(is_variable).count()..];
    rest.split_first().filter(|(program, _)| *program == "muster").map(|(_, arguments)| arguments)
}

#[test]
fn the_shell_of_the_documents_is_understood() {
    let text = "A=1 muster run 'a b' --x=\"c d\" # no | more\n\nmuster api & muster worker && make x | head";
    let commands = shell(text);
    assert_eq!(commands.len(), 5, "{commands:?}");
    assert_eq!(arguments_of_muster(&commands[0]), Some(&["run".to_owned(), "a b".to_owned(), "--x=c d".to_owned()][..]));
    assert_eq!(arguments_of_muster(&commands[3]), None);
    assert_eq!(blocks("x\n```sh\na\nb\n```\n```toml\nc\n```\n", "sh"), ["a\nb\n"]);
    assert_eq!(quoted("a `b` c `d\ne`\n```\n`f`\n```"), ["b", "d e"]);
}
