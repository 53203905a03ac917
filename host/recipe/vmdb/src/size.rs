//! Parses sizes and disk locations as vmdb2's tools do: qemu-img for images, parted for partitions,
//! LVM for volumes.

/// Sector size of parted and of partition tables.
pub(crate) const SECTOR_BYTES: u64 = 512;
/// parted's optimal alignment of partitions.
pub(crate) const ALIGN_BYTES: u64 = 1024 * 1024;
/// LVM's default extent size: volume sizes are rounded up to it.
const EXTENT_BYTES: u64 = 4 * 1024 * 1024;

/// Parses a number with an optional fraction as an integer of thousandths.
fn thousandths(text: &str) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let milli: u128 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    whole.checked_mul(1000)?.checked_add(milli)
}

/// Splits `1.5GiB` into number and unit.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim())
}

fn scaled(number: &str, unit: u64) -> Option<u64> {
    let milli = thousandths(number)?.checked_mul(u128::from(unit))?;
    u64::try_from(milli / 1000).ok()
}

fn power(base: u64, exponent: u32) -> u64 {
    base.pow(exponent)
}

/// Parses an image size like `qemu-img create`: suffixes are powers of 1024, no suffix means bytes,
/// and the result is rounded to whole sectors.
pub(crate) fn image_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text.trim());
    let unit = match unit {
        "" | "b" | "B" => 1,
        "k" | "K" => power(1024, 1),
        "M" | "m" => power(1024, 2),
        "G" | "g" => power(1024, 3),
        "T" | "t" => power(1024, 4),
        "P" | "p" => power(1024, 5),
        "E" | "e" => power(1024, 6),
        _ => return None,
    };
    let bytes = scaled(number, unit)?;
    bytes.checked_add(SECTOR_BYTES - 1).map(|bytes| bytes / SECTOR_BYTES * SECTOR_BYTES)
}

/// Parses the size of a logical volume like `lvcreate --size`: powers of 1024 in either case, MiB
/// without a unit, rounded up to extents.
pub(crate) fn volume_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text.trim());
    let unit = unit.to_ascii_lowercase();
    let unit = match unit.strip_suffix("ib").unwrap_or(&unit) {
        "b" => 1,
        "s" => SECTOR_BYTES,
        "k" => power(1024, 1),
        "" | "m" => power(1024, 2),
        "g" => power(1024, 3),
        "t" => power(1024, 4),
        "p" => power(1024, 5),
        "e" => power(1024, 6),
        _ => return None,
    };
    let bytes = scaled(number, unit)?;
    let extents = bytes.div_ceil(EXTENT_BYTES);
    extents.checked_mul(EXTENT_BYTES).filter(|bytes| *bytes > 0)
}

/// A location on a disk as parted reads it: the nominal sector, and the range around it that the
/// precision of the unit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    /// The nominal sector, within the disk.
    pub(crate) sector: u64,
    /// The first sector of the range.
    pub(crate) low: u64,
    /// The last sector of the range.
    pub(crate) high: u64,
    /// Whether the unit is `MiB`, `GiB` or `TiB`: as the end of a partition it means the sector
    /// before.
    pub(crate) is_border: bool,
}

/// Why a text is not a location on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoLocation {
    /// Not a number with a known unit.
    Form,
    /// Outside of the disk.
    Outside,
}

/// The units of locations, for messages.
pub(crate) const LOCATION_UNITS: &str = "a number with s (sectors), B, kB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB or %, \
     in megabytes without a unit, and negative from the end of the disk";

/// Parses `10MB`, `1GiB`, `50%`, `2048s`, `-1s`: the default unit is MB, and negative numbers count
/// from the end of the disk.
pub(crate) fn location(text: &str, disk_bytes: u64) -> Result<Location, NoLocation> {
    let (is_negative, body) = match text.trim().strip_prefix('-') {
        Some(body) => (true, body),
        None => (false, text.trim()),
    };
    let end = body.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(body.len());
    let (number, unit) = body.split_at(end);
    let (unit_bytes, is_exact, is_border) = unit_of(unit, disk_bytes).ok_or(NoLocation::Form)?;
    let sectors = i128::from(disk_bytes / SECTOR_BYTES);
    let distance = units_in_sectors(number, unit_bytes).ok_or(NoLocation::Form)?;
    let sector = if is_negative { sectors - distance } else { distance };
    // As in parted: half a unit to either side, and none for exact units.
    let radius = match is_exact {
        true => 0,
        false => i128::from((unit_bytes.div_ceil(SECTOR_BYTES) / 2).saturating_sub(1)),
    };
    let clipped = |sector: i128| sector.clamp(0, sectors - 1);
    let (low, high) = (clipped(sector - radius), clipped(sector + radius));
    if sectors == 0 || low - sector > radius || sector - high > radius {
        return Err(NoLocation::Outside);
    }
    let sector_of = |sector: i128| u64::try_from(clipped(sector)).unwrap_or_default();
    Ok(Location {
        sector: sector_of(sector),
        low: sector_of(low),
        high: sector_of(high),
        is_border,
    })
}

/// The size of a unit in bytes, whether it is exact, and whether as an end it is a border.
fn unit_of(unit: &str, disk_bytes: u64) -> Option<(u64, bool, bool)> {
    let lower = unit.to_ascii_lowercase();
    Some(match lower.as_str() {
        "" => (power(1000, 2), false, false),
        "s" => (SECTOR_BYTES, true, false),
        "b" => (1, true, false),
        // One percent is a hundredth of the disk, in whole bytes.
        "%" => (disk_bytes / 100, false, false),
        _ => {
            let letter = lower.chars().next()?;
            let exponent = u32::try_from("kmgt".find(letter)? + 1).ok()?;
            match lower.get(1..)? {
                "" | "b" => (power(1000, exponent), false, false),
                "i" => (power(1024, exponent), true, false),
                // For parted, KiB is not a border unit.
                "ib" => (power(1024, exponent), true, exponent > 1 && unit.ends_with('B')),
                _ => return None,
            }
        }
    })
}

/// Converts a fractional number of units to whole sectors.
fn units_in_sectors(number: &str, unit_bytes: u64) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty()
        || digits.len() > NUMBER_DIGITS
        || !digits.bytes().all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let bytes = digits.parse::<i128>().ok()?.checked_mul(i128::from(unit_bytes))?;
    Some(bytes / scale / i128::from(SECTOR_BYTES))
}

/// Maximum digits of a number with its fraction, so that 128 bits hold it multiplied by any unit.
const NUMBER_DIGITS: usize = 18;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_sized_as_by_qemu_img() {
        for (text, bytes) in [
            ("4G", Some(4 << 30)),
            ("1.5M", Some(3 << 19)),
            ("1000", Some(1024)),
            ("100k", Some(102_400)),
            ("4GB", None),
            ("", None),
            ("-1G", None),
            ("99999999999E", None),
        ] {
            assert_eq!(image_bytes(text), bytes, "{text}");
        }
    }

    #[test]
    fn volumes_are_rounded_up_to_extents() {
        for (text, bytes) in [
            ("1G", Some(1 << 30)),
            ("1g", Some(1 << 30)),
            ("5", Some(8 << 20)),
            ("1GiB", Some(1 << 30)),
            ("50%VG", None),
            ("0", None),
        ] {
            assert_eq!(volume_bytes(text), bytes, "{text}");
        }
    }

    #[test]
    fn locations_are_read_as_by_parted() {
        let disk = 1 << 30;
        let at = |text| location(text, disk).map(|l| (l.sector, l.low, l.high, l.is_border));
        assert_eq!(at("10MiB"), Ok((20480, 20480, 20480, true)));
        assert_eq!(at("10mib"), Ok((20480, 20480, 20480, false)));
        assert_eq!(at("10Mi"), Ok((20480, 20480, 20480, false)));
        assert_eq!(at("10M"), Ok((19531, 18555, 20507, false)));
        assert_eq!(at("10"), Ok((19531, 18555, 20507, false)));
        assert_eq!(at(".5k"), Ok((0, 0, 0, false)));
        assert_eq!(at("2048s"), Ok((2048, 2048, 2048, false)));
        assert_eq!(at("-1s"), Ok((2_097_151, 2_097_151, 2_097_151, false)));
        assert_eq!(at("100%"), Ok((2_097_151, 2_086_666, 2_097_151, false)));
        for text in ["1Gi", "-2GiB", "-0s", "2G"] {
            assert_eq!(at(text), Err(NoLocation::Outside), "{text}");
        }
        for text in ["ten", "", "-", "1P", "1 MiB", "1.2.3M", "1e3M", "1MiBs"] {
            assert_eq!(at(text), Err(NoLocation::Form), "{text}");
        }
    }
}
