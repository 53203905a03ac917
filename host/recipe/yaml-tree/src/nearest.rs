//! Suggestions for mistyped words.

/// The known word that an unknown one probably means.
#[must_use]
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    /// Longer words are not typing mistakes, and would be slow to compare.
    const WORD_CHARS: usize = 100;
    if word.chars().count() > WORD_CHARS {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace(['-', '_'], "");
    let word = plain(word);
    known
        .iter()
        .map(|candidate| (strsim::osa_distance(&word, &plain(candidate)), *candidate))
        .filter(|(distance, candidate)| *distance <= 1.max(candidate.len() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found() {
        let known = ["size", "start", "end", "part-tag", "fs-type"];
        assert_eq!(nearest("strat", &known), Some("start"));
        assert_eq!(nearest("part_tag", &known), Some("part-tag"));
        assert_eq!(nearest("fstype", &known), Some("fs-type"));
        assert_eq!(nearest("colour", &known), None);
    }
}
