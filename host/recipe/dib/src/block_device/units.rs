//! Parses sizes of the block-device layer: `GiB` is a power of 1024, `G` and `GB` are powers of
//! 1000.

use plan::{Percent, Size};

/// Why a size is invalid. Messages are those of diskimage-builder where it has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeFault {
    /// No number, or a number out of range.
    #[error("Invalid size unit spec [{0}]")]
    Invalid(String),
    /// Unknown unit.
    #[error("unit_str [{0}] not known")]
    UnknownUnit(String),
    /// An alignment below one sector.
    #[error("it is less than a sector of 512 bytes")]
    NoSector,
    /// A percentage outside of 0 to 100.
    #[error("it is not a percentage of 0 to 100")]
    NoPercentage,
}

/// A summary of the units, for messages.
pub(crate) const UNITS_IN_WORDS: &str = "TiB, GiB, MiB and KiB count by 1024; TB, GB, MB, KB and T, G, M, K by 1000; B and no unit are bytes";

/// Units, longest first as in diskimage-builder; no unit means bytes.
const UNITS: [(&str, u64); 14] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("K", 1_000),
    ("B", 1),
    ("", 1),
];

/// Alignments are counted in sectors of this size.
const SECTOR_BYTES: u64 = 512;

/// Maximum size: 2^53 bytes (8 PiB), the largest integer range that is exact in a double, as the
/// original computes in doubles.
const LARGEST_BYTES: f64 = 9_007_199_254_740_992.0;

/// An absolute size in bytes: a number with an optional fraction, at most one
/// blank, and a unit.
pub(crate) fn absolute(spec: &str) -> Result<u64, SizeFault> {
    let invalid = || SizeFault::Invalid(spec.to_owned());
    // Python's `$` matches before a last line feed, which block scalars have.
    let spec = spec.strip_suffix('\n').unwrap_or(spec);
    let digits = spec.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(spec.len());
    let (number, rest) = spec.split_at(digits);
    let unit = rest.strip_prefix(' ').unwrap_or(rest);
    if !unit.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(invalid());
    }
    let factor = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| *factor)
        .ok_or_else(|| SizeFault::UnknownUnit(unit.to_owned()))?;
    if number.is_empty() {
        return Ok(factor);
    }
    let count: f64 = number.parse().map_err(|_| invalid())?;
    #[expect(clippy::cast_precision_loss, reason = "the largest factor is 2^40")]
    let bytes = count * factor as f64;
    whole(bytes).ok_or_else(invalid)
}

/// Parses a partition alignment in bytes: whole sectors, at least one.
pub(crate) fn alignment(spec: &str) -> Result<u64, SizeFault> {
    let bytes = absolute(spec)? / SECTOR_BYTES * SECTOR_BYTES;
    if bytes == 0 { Err(SizeFault::NoSector) } else { Ok(bytes) }
}

/// Parses a disk's logical block size, in the spellings that losetup takes.
pub(crate) fn block_bytes(spec: &str) -> Option<u32> {
    match spec.to_ascii_lowercase().as_str() {
        "512" | "0x200" => Some(512),
        "4096" | "4k" | "4kib" | "0x1000" => Some(4096),
        _ => None,
    }
}

/// Parses a partition size: absolute, or a percentage of the remaining space.
pub(crate) fn relative(spec: &str) -> Result<Size, SizeFault> {
    let Some(percent) = spec.strip_suffix('%') else {
        return absolute(spec).map(Size::Bytes);
    };
    let number = python_float(percent).ok_or_else(|| SizeFault::Invalid(spec.to_owned()))?;
    Percent::new(number).map(Size::Percent).ok_or(SizeFault::NoPercentage)
}

/// Parses what Python's `float()` accepts: surrounding whitespace, and single underscores between
/// digits.
fn python_float(text: &str) -> Option<f64> {
    let text = text.trim();
    let digit = |at: Option<u8>| at.is_some_and(|byte| byte.is_ascii_digit());
    let bytes = text.as_bytes();
    let gaps = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'_');
    for (at, _) in gaps {
        let before = at.checked_sub(1).map(|before| bytes[before]);
        if !digit(before) || !digit(bytes.get(at + 1).copied()) {
            return None;
        }
    }
    text.replace('_', "").parse().ok()
}

/// The integer part of a number that is neither negative nor above [`LARGEST_BYTES`].
pub(crate) fn whole(number: f64) -> Option<u64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "cutting off the fraction is wanted, and the range is checked"
    )]
    (0.0..LARGEST_BYTES).contains(&number).then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_the_original() {
        let table = [
            ("20TiB", 20 << 40),
            ("1024KiB", 1_048_576),
            ("1.2TB", 1_200_000_000_000),
            ("2.4T", 2_400_000_000_000),
            ("40G", 40_000_000_000),
            ("512B", 512),
            ("364", 364),
            ("20 GiB", 20 << 30),
            (".5GiB", 1 << 29),
            ("GiB", 1 << 30),
            ("10GiB\n", 10 << 30),
            ("1500000000.0", 1_500_000_000),
        ];
        for (spec, bytes) in table {
            assert_eq!(absolute(spec).unwrap(), bytes, "{spec}");
        }
    }

    #[test]
    fn alignments_and_blocks() {
        assert_eq!(alignment("1000"), Ok(512));
        assert_eq!(alignment("4MiB"), Ok(4 << 20));
        assert_eq!(alignment("0"), Err(SizeFault::NoSector));
        for (spec, bytes) in
            [("512", Some(512)), ("4K", Some(4096)), ("4KiB", Some(4096)), ("1k", None)]
        {
            assert_eq!(block_bytes(spec), bytes, "{spec}");
        }
    }

    #[test]
    fn bad_sizes_are_named() {
        let message = |spec| absolute(spec).unwrap_err().to_string();
        assert_eq!(message("1.2.3G"), "Invalid size unit spec [1.2.3G]");
        assert_eq!(message("10%"), "Invalid size unit spec [10%]");
        assert_eq!(message("-1"), "Invalid size unit spec [-1]");
        assert_eq!(message("10 gib"), "unit_str [gib] not known");
    }

    #[test]
    fn percentages_are_doubles() {
        let percent = |number| Size::Percent(Percent::new(number).unwrap());
        assert_eq!(relative("100%").unwrap(), Size::Percent(Percent::ALL));
        assert_eq!(relative("33.3333%").unwrap(), percent(33.3333));
        assert_eq!(relative("1_0 %").unwrap(), percent(10.0));
        assert_eq!(relative(" 5e1%").unwrap(), percent(50.0));
        assert_eq!(relative("1__0%"), Err(SizeFault::Invalid("1__0%".into())));
        assert_eq!(relative("nan%"), Err(SizeFault::NoPercentage));
        assert_eq!(relative("8MiB").unwrap(), Size::Bytes(8 << 20));
        assert!(relative("101%").is_err());
        assert!(relative("-1%").is_err());
    }
}
