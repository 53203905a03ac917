//! Sizes as the block-device layer writes them: `GiB` counts by 1024, but `G`
//! and `GB` by 1000.

use super::BlockDeviceError;
use plan::Size;

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

/// Largest size accepted: 2^53 bytes (8 PiB) is exact in a double, which is
/// what the arithmetic of the original is done in.
const LARGEST_BYTES: f64 = 9_007_199_254_740_992.0;

/// An absolute size in bytes: a number with an optional fraction, at most one
/// blank, and a unit.
pub(crate) fn absolute(spec: &str) -> Result<u64, BlockDeviceError> {
    let invalid = || BlockDeviceError::InvalidSize(spec.to_owned());
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
        .ok_or_else(|| BlockDeviceError::UnknownUnit(unit.to_owned()))?;
    if number.is_empty() {
        return Ok(factor);
    }
    let count: f64 = number.parse().map_err(|_| invalid())?;
    #[expect(clippy::cast_precision_loss, reason = "the largest factor is 2^40")]
    let bytes = count * factor as f64;
    whole(bytes).ok_or_else(invalid)
}

/// A size of a partition: absolute, or a percentage of what is left.
pub(crate) fn relative(spec: &str) -> Result<Size, BlockDeviceError> {
    let Some(percent) = spec.strip_suffix('%') else {
        return absolute(spec).map(Size::Bytes);
    };
    let invalid = || BlockDeviceError::InvalidSize(spec.to_owned());
    let percent: f64 = percent.trim().parse().map_err(|_| invalid())?;
    let thousandths = whole((percent * 1000.0).round()).ok_or_else(invalid)?;
    u32::try_from(thousandths)
        .ok()
        .filter(|thousandths| *thousandths <= 100_000)
        .map(Size::MilliPercent)
        .ok_or_else(invalid)
}

/// The whole part of a number that is neither negative nor absurd.
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
        ];
        for (spec, bytes) in table {
            assert_eq!(absolute(spec).unwrap(), bytes, "{spec}");
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
    fn percentages_keep_three_places() {
        assert_eq!(relative("100%").unwrap(), Size::MilliPercent(100_000));
        assert_eq!(relative("33.3%").unwrap(), Size::MilliPercent(33_300));
        assert_eq!(relative("8MiB").unwrap(), Size::Bytes(8 << 20));
        assert!(relative("101%").is_err());
        assert!(relative("-1%").is_err());
    }
}
