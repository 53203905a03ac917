//! Words that people mistype.

/// The known word that an unknown one was probably meant to be.
#[must_use]
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    /// What is longer is no slip of the finger, and would take long to compare.
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
