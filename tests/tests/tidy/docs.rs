//! House rules for doc comments: each is readable alone, as an editor shows it.

use super::{none, sources::files};

/// Whether a doc comment consists of one word, such as `Why.` or `It.`; code and links in
/// backquotes are allowed.
fn is_one_word(text: &str) -> bool {
    let word = text.strip_suffix('.').unwrap_or_default();
    !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || matches!(c, '\'' | '-'))
}

#[test]
fn a_doc_comment_is_more_than_one_word() {
    let mut complaints = Vec::new();
    for (path, text) in files() {
        let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
        let doc = |index: usize| lines.get(index)?.strip_prefix("/// ");
        for (index, line) in lines.iter().enumerate() {
            let Some(text) = line.strip_prefix("/// ") else { continue };
            let is_alone = index.checked_sub(1).is_none_or(|before| doc(before).is_none())
                && doc(index + 1).is_none();
            if is_alone && is_one_word(text) {
                complaints.push(format!("{path}:{}: the doc comment is `{text}`", index + 1));
            }
        }
    }
    none(&complaints);
}

#[test]
fn one_word_is_seen() {
    assert!(["It.", "Why.", "SHA-256.", "VMware's."].into_iter().all(is_one_word));
    assert!(!["`/dev/null`.", "The cause.", "Docker"].into_iter().any(is_one_word));
}
