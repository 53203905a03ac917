//! Compares Debian version numbers as dpkg does (deb-version(7)).

use std::cmp::Ordering;

/// Compares two versions `[epoch:]upstream[-revision]`.
#[must_use]
pub(crate) fn compare(left: &str, right: &str) -> Ordering {
    let (left_epoch, left_upstream, left_revision) = split(left);
    let (right_epoch, right_upstream, right_revision) = split(right);
    left_epoch
        .cmp(&right_epoch)
        .then_with(|| compare_part(left_upstream, right_upstream))
        .then_with(|| compare_part(left_revision, right_revision))
}

/// Splits a version into epoch, upstream version and revision. A missing epoch is 0; a missing
/// revision is empty, which compares equal to `0`.
fn split(version: &str) -> (u64, &str, &str) {
    let (epoch, rest) = match version.split_once(':') {
        Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
        None => (0, version),
    };
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

/// Returns the sort weight of a character: `~` before the end of the string, the end before
/// letters, letters before everything else.
fn weight(byte: Option<u8>) -> i32 {
    match byte {
        None | Some(b'0'..=b'9') => 0,
        Some(b'~') => -1,
        Some(letter) if letter.is_ascii_alphabetic() => i32::from(letter),
        Some(other) => i32::from(other) + 256,
    }
}

/// Compares alternating runs of non-digits and digits.
fn compare_part(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left.as_bytes(), right.as_bytes());
    while !left.is_empty() || !right.is_empty() {
        loop {
            let text = |part: &[u8]| part.first().copied().filter(|byte| !byte.is_ascii_digit());
            let (a, b) = (text(left), text(right));
            if a.is_none() && b.is_none() {
                break;
            }
            match weight(a).cmp(&weight(b)) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
            left = &left[usize::from(a.is_some())..];
            right = &right[usize::from(b.is_some())..];
        }
        let (left_digits, left_rest) = digits(left);
        let (right_digits, right_rest) = digits(right);
        let order =
            left_digits.len().cmp(&right_digits.len()).then_with(|| left_digits.cmp(right_digits));
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
    Ordering::Equal
}

/// Splits off the leading number, without leading zeros. Numbers are compared as text, so a date of
/// 20 digits is supported.
fn digits(part: &[u8]) -> (&[u8], &[u8]) {
    let end = part.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let zeros = part[..end].iter().take_while(|byte| **byte == b'0').count();
    (&part[zeros..end], &part[end..])
}

/// The relation of a dependency to a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    /// The operator `<<`: strictly earlier.
    Earlier,
    /// The operator `<=`: earlier or equal.
    EarlierOrEqual,
    /// The operator `=`: exactly equal.
    Equal,
    /// The operator `>=`: later or equal.
    LaterOrEqual,
    /// The operator `>>`: strictly later.
    Later,
}

impl Relation {
    /// Parses an operator. The one-character forms are deprecated spellings of the inclusive ones.
    #[must_use]
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "<<" => Self::Earlier,
            "<=" | "<" => Self::EarlierOrEqual,
            "=" => Self::Equal,
            ">=" | ">" => Self::LaterOrEqual,
            ">>" => Self::Later,
            _ => return None,
        })
    }

    /// Whether `version` has this relation to `bound`.
    #[must_use]
    pub(crate) fn holds(self, version: &str, bound: &str) -> bool {
        let order = compare(version, bound);
        match self {
            Self::Earlier => order == Ordering::Less,
            Self::EarlierOrEqual => order != Ordering::Greater,
            Self::Equal => order == Ordering::Equal,
            Self::LaterOrEqual => order != Ordering::Less,
            Self::Later => order == Ordering::Greater,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_versions() {
        let ascending = [
            ("1.0~rc1", "1.0"),
            ("1.0~~", "1.0~"),
            ("1.0", "1.0a"),
            ("1.0a", "1.0+b"),
            ("1.9", "1.10"),
            ("2.36-9+deb12u9", "2.36-9+deb12u10"),
            ("9.9", "1:0.1"),
            ("1.0-1", "1.0-1+b1"),
            ("1.0-1~bpo12+1", "1.0-1"),
            ("6.1.9-1", "6.1.10-1"),
            ("1.0", "1.0-1"),
            ("0.5.12-2", "0.5.12-10"),
            ("20230101000000000000", "20230101000000000001"),
        ];
        for (left, right) in ascending {
            assert_eq!(compare(left, right), Ordering::Less, "{left} < {right}");
            assert_eq!(compare(right, left), Ordering::Greater, "{right} > {left}");
        }
        for (left, right) in [("1.0", "1.0-0"), ("0:1.0", "1.0"), ("1.00", "1.0"), ("", "")] {
            assert_eq!(compare(left, right), Ordering::Equal, "{left} = {right}");
        }
    }

    #[test]
    fn relations() {
        assert!(Relation::parse(">=").unwrap().holds("2", "2"));
        assert!(Relation::parse(">>").unwrap().holds("2", "2~"));
        assert!(!Relation::parse("<<").unwrap().holds("2", "2"));
        assert!(Relation::parse("~").is_none());
    }

    #[test]
    fn agrees_with_dpkg() {
        let versions =
            ["1", "1.0", "1:1", "1-1", "1~", "1a", "1+", "1.a-2", "1.0-1.1", "0", "1.01"];
        for left in versions {
            for right in versions {
                let status = std::process::Command::new("dpkg")
                    .args(["--compare-versions", left, "lt", right])
                    .status();
                let Ok(status) = status else {
                    println!("skipped: dpkg is not installed");
                    return;
                };
                assert_eq!(
                    status.success(),
                    compare(left, right) == Ordering::Less,
                    "{left} {right}"
                );
            }
        }
    }
}
