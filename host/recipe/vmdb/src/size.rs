//! Sizes and places on a disk, as the tools of vmdb2 read them: qemu-img for
//! images, parted for partitions, LVM for volumes.

/// A sector of parted and of the tables.
pub(crate) const SECTOR_BYTES: u64 = 512;
/// What parted aligns partitions to, when it may.
pub(crate) const ALIGN_BYTES: u64 = 1024 * 1024;
/// LVM's default extent: sizes are rounded up to it.
const EXTENT_BYTES: u64 = 4 * 1024 * 1024;

/// A number with an optional fraction, as a whole number of thousandths.
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

/// The size of an image as `qemu-img create` takes it: suffixes are powers of
/// 1024, no suffix is bytes, and the result is whole sectors.
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

/// The size of a logical volume as `lvcreate --size` takes it: powers of 1024
/// whatever the capitals, MiB without a unit, rounded up to extents.
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

/// A place on a disk as parted reads it: the sector that was meant, and the range around
/// it that the unit leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    /// The sector, within the disk.
    pub(crate) sector: u64,
    /// The first sector that may be meant.
    pub(crate) low: u64,
    /// The last one.
    pub(crate) high: u64,
    /// Whether the unit is written `MiB`, `GiB` or `TiB`: as an end it means the sector before.
    pub(crate) is_border: bool,
}

/// Why a text is no place on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoLocation {
    /// No number with a unit that is known.
    Form,
    /// Behind the end of the disk, or before its beginning.
    Outside,
}

/// The units of places, for messages.
pub(crate) const LOCATION_UNITS: &str = "a number with s (sectors), B, kB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB or %, \
     in megabytes without a unit, and negative from the end of the disk";

/// Reads `10MB`, `1GiB`, `50%`, `2048s`, `-1s`: megabytes without a unit,
/// negative numbers from the end of the disk.
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
    // As parted has it: half a unit to either side, but nothing around exact units.
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

/// The bytes of a unit, whether it leaves nothing open, and whether as an end it is a border.
fn unit_of(unit: &str, disk_bytes: u64) -> Option<(u64, bool, bool)> {
    let lower = unit.to_ascii_lowercase();
    Some(match lower.as_str() {
        "" => (power(1000, 2), false, false),
        "s" => (SECTOR_BYTES, true, false),
        "b" => (1, true, false),
        // A percent is a hundredth of the disk, in whole bytes.
        "%" => (disk_bytes / 100, false, false),
        _ => {
            let letter = lower.chars().next()?;
            let exponent = u32::try_from("kmgt".find(letter)? + 1).ok()?;
            match lower.get(1..)? {
                "" | "b" => (power(1000, exponent), false, false),
                "i" => (power(1024, exponent), true, false),
                // parted does not count KiB among them.
                "ib" => (power(1024, exponent), true, exponent > 1 && unit.ends_with('B')),
                _ => return None,
            }
        }
    })
}

/// A number of units, with a fraction, in whole sectors.
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

/// Digits of a number with its fraction: what 128 bits hold, multiplied with any unit.
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
