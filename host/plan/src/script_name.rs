//! Names of scripts in a phase, by the rules of dib-run-parts of diskimage-builder 3.43: which
//! files are scripts, and in which order they run.

use std::cmp::Ordering;

/// Whether an executable file of this name is a script.
#[must_use]
pub fn is_script_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// Compares two scripts in the order in which they run. It is that of `LANG=C sort -n`: by leading
/// number, where a name without one counts as 0, then by bytes.
#[must_use]
pub fn compare_scripts(one: &str, other: &str) -> Ordering {
    let number = |name: &str| {
        let digits = name.bytes().take_while(u8::is_ascii_digit).count();
        name[..digits].parse::<u128>().unwrap_or(0)
    };
    number(one).cmp(&number(other)).then_with(|| one.cmp(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_sort_by_number_then_bytes() {
        let mut names =
            ["100-z", "50-b", "5-x", "50-a", "zz", "01-a", "1-b", "001-z", "99-x"].to_vec();
        names.sort_by(|a, b| compare_scripts(a, b));
        assert_eq!(names, ["zz", "001-z", "01-a", "1-b", "5-x", "50-a", "50-b", "99-x", "100-z"]);
    }

    #[test]
    fn names_are_dib_run_parts_names() {
        assert!(is_script_name("10-a_B"));
        assert!(!is_script_name("10-a.sh") && !is_script_name("10-a~") && !is_script_name(""));
    }
}
