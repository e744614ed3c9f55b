//! Words that carry meaning, and how alike two sentences are.

use std::collections::HashMap;

/// Common English words, sorted. They say nothing about what a text is about.
const STOP_WORDS: &[&str] = &[
    "about", "above", "after", "again", "against", "all", "also", "and", "any", "are", "aren", "because", "been", "before", "being",
    "below", "between", "both", "but", "can", "cannot", "could", "did", "does", "doing", "don", "down", "during", "each", "else", "ever",
    "every", "few", "for", "from", "further", "had", "has", "have", "having", "her", "here", "hers", "him", "his", "how", "however",
    "into", "isn", "its", "itself", "just", "let", "like", "may", "might", "more", "most", "much", "must", "never", "nor", "not", "now",
    "off", "once", "one", "only", "onto", "other", "our", "out", "over", "own", "per", "same", "shall", "she", "should", "since", "some",
    "such", "than", "that", "the", "their", "them", "then", "there", "these", "they", "this", "those", "through", "thus", "too", "two",
    "under", "until", "upon", "use", "used", "very", "was", "were", "what", "when", "where", "which", "while", "who", "whose", "why",
    "will", "with", "within", "without", "would", "you", "your",
];

/// The distinct content words of a text, sorted: lower case, singular, without stop words and numbers.
pub(super) fn content_words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| word.len() >= 3 && word.chars().any(char::is_alphabetic))
        .map(|word| singular(word.to_lowercase()))
        .filter(|word| STOP_WORDS.binary_search(&word.as_str()).is_err())
        .collect();
    words.sort_unstable();
    words.dedup();
    words
}

fn singular(mut word: String) -> String {
    if word.len() > 4 && word.ends_with('s') && !word.ends_with("ss") && !word.ends_with("us") && !word.ends_with("is") {
        word.pop();
    }
    word
}

/// Two sets of words that say the same: equal for the most part, or one within the other.
pub(super) fn alike(a: &[String], b: &[String]) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    if short.is_empty() {
        return false;
    }
    let common = short.iter().filter(|word| long.binary_search(word).is_ok()).count();
    let union = short.len() + long.len() - common;
    common * 10 >= union * 7 || (short.len() >= 4 && common * 10 >= short.len() * 9)
}

/// Letters and digits only, in lower case: equal for texts that differ in form alone.
pub(super) fn normalized(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// In how many sentences each word occurs.
pub(super) fn frequencies<'a>(sentences: impl Iterator<Item = &'a [String]>) -> HashMap<&'a str, u32> {
    let mut counts = HashMap::new();
    for word in sentences.flatten() {
        *counts.entry(word.as_str()).or_insert(0) += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stop_words_are_sorted_for_the_search() {
        assert!(STOP_WORDS.is_sorted());
        assert_eq!(content_words("The workers hold 42 leases, and the Worker dies."), ["dies", "hold", "lease", "worker"]);
    }

    #[test]
    fn sentences_with_mostly_the_same_words_are_alike() {
        let words = content_words;
        assert!(alike(&words("A worker claims an instance under a lease."), &words("Under a lease, a worker claims an instance!")));
        assert!(alike(
            &words("a worker claims an instance under a lease"),
            &words("a worker claims each instance under its lease within ten seconds of time")
        ));
        assert!(!alike(&words("A worker claims an instance."), &words("A reducer folds outputs.")));
        assert!(!alike(&words(""), &words("")));
        assert_eq!(normalized("It's—Done."), "itsdone");
    }
}
