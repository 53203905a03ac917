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

/// A place on a disk as parted reads it: a sector, and how far from it the
/// partition may be moved to be aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    /// The sector that was meant.
    pub(crate) sector: u64,
    /// How many sectors it may be off.
    pub(crate) radius: u64,
    /// Whether the unit is a power of two: then an end means the sector before.
    pub(crate) binary: bool,
}

/// Reads `10MB`, `1GiB`, `50%`, `2048s`, `-1s`: megabytes without a unit,
/// negative numbers from the end of the disk.
pub(crate) fn location(text: &str, disk_bytes: u64) -> Option<Location> {
    let text = text.trim();
    let (negative, body) = match text.strip_prefix('-') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let (number, unit) = split_unit(body);
    let sectors = disk_bytes / SECTOR_BYTES;
    let unit = unit.to_ascii_lowercase();
    let kilo = |letter: &str| "kmgtpe".find(letter).and_then(|at| u32::try_from(at + 1).ok());
    let (unit_bytes, binary) = match unit.as_str() {
        "" => (power(1000, 2), false),
        "s" => (SECTOR_BYTES, true),
        "b" => (1, true),
        // A percent is a hundredth of the disk, whole sectors of it.
        "%" => (disk_bytes / 100, false),
        _ => {
            let letter = unit.get(..1)?;
            match unit.get(1..)? {
                "" | "b" => (power(1000, kilo(letter)?), false),
                "i" | "ib" => (power(1024, kilo(letter)?), true),
                _ => return None,
            }
        }
    };
    let bytes = if unit == "%" {
        let milli = thousandths(number)?.checked_mul(u128::from(disk_bytes))?;
        u64::try_from(milli / 100_000).ok()?
    } else {
        scaled(number, unit_bytes)?
    };
    let sector = bytes / SECTOR_BYTES;
    let sector = if negative { sectors.checked_sub(sector)? } else { sector };
    // Measured with parted 3.5: half a unit to either side.
    let radius = if binary { 0 } else { unit_bytes / SECTOR_BYTES / 2 };
    // An exact end in sectors is that sector itself.
    let binary = binary && unit != "s" && unit != "b";
    Some(Location { sector, radius, binary })
}

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
        let at = |text| location(text, disk).map(|l| (l.sector, l.radius, l.binary));
        assert_eq!(at("10MiB"), Some((20480, 0, true)));
        assert_eq!(at("10M"), Some((19531, 976, false)));
        assert_eq!(at("10"), Some((19531, 976, false)));
        assert_eq!(at("2048s"), Some((2048, 0, false)));
        assert_eq!(at("-1s"), Some((2_097_151, 0, false)));
        assert_eq!(at("100%"), Some((2_097_152, 10485, false)));
        assert_eq!(at("1Gi"), Some((2_097_152, 0, true)));
        assert_eq!(at("ten"), None);
        assert_eq!(at("-2GiB"), None);
    }
}
