//! The values of options, parsed into types of their own.
//!
//! Error messages that virt-dib also has are worded as there, typographic quotes included, because
//! scripts match on them. All other messages follow vbuild's own style.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use machine::{DriveFormat, accel::Accel};

/// Maximum absolute value of an integer: 2^30, as in virt-dib. No option needs more.
const INTEGER_MAX: i64 = 1 << 30;
/// Minimum memory in MiB: libguestfs refuses less for its appliance, and so does vbuild.
const MEMSIZE_MIN_MIB: i64 = 256;
/// Maximum number of processors; both backends are tested up to this number.
const SMP_MAX: i64 = 16;
/// Maximum size in bytes, 2^60 (1 EiB). It is beyond any real disk, and far below the values at
/// which arithmetic on sizes overflows.
const SIZE_MAX_BYTES: f64 = 1_152_921_504_606_846_976.0;
/// Size of a sector in bytes; disks consist of whole sectors.
const SECTOR_BYTES: u64 = 512;

/// The error for a value that an option does not accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InvalidValue(String);

pub(super) fn invalid(text: impl Into<String>) -> InvalidValue {
    InvalidValue(text.into())
}

/// Parses an integer in C notation: decimal, `0x10` or `010`.
fn integer(text: &str) -> Result<i64, InvalidValue> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = match lower.strip_prefix("0x") {
        Some(hex) => (hex, 16),
        None if lower.len() > 1 && lower.starts_with('0') => (&lower[1..], 8),
        None => (&lower[..], 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(invalid(format!("‘{text}’ is not a numeric value.")));
    }
    match i64::from_str_radix(digits, radix) {
        Ok(value) if value <= INTEGER_MAX => Ok(if negative { -value } else { value }),
        _ => Err(invalid(format!("‘{text}’: integer out of range"))),
    }
}

fn unsigned(
    text: &str,
    at_least: u32,
    complaint: impl Fn(i64) -> String,
) -> Result<u32, InvalidValue> {
    let value = integer(text)?;
    match u32::try_from(value) {
        Ok(fine) if fine >= at_least => Ok(fine),
        _ => Err(invalid(complaint(value))),
    }
}

/// Parses the value of `--debug N`.
///
/// # Errors
/// Fails for a value that is not a number, or is negative.
pub(crate) fn debug_level(text: &str) -> Result<u32, InvalidValue> {
    unsigned(text, 0, |_| "--debug parameter must be >= 0".into())
}

/// Parses the value of `--memsize MIB`.
///
/// # Errors
/// Fails for a value that is not a number, or is too small for the appliance.
pub(crate) fn memsize(text: &str) -> Result<u32, InvalidValue> {
    unsigned(text, u32::try_from(MEMSIZE_MIN_MIB).expect("a small constant"), |_| {
        format!("too small value for memsize (must be at least {MEMSIZE_MIN_MIB})")
    })
}

/// Parses the value of `--smp N`.
///
/// # Errors
/// Fails for a value that is not a number from 1 to 16.
pub(crate) fn smp(text: &str) -> Result<u8, InvalidValue> {
    let value = integer(text)?;
    match u8::try_from(value) {
        Ok(fine) if fine >= 1 && value <= SMP_MAX => Ok(fine),
        _ => Err(invalid(format!("invalid smp parameter: {value} (1 to {SMP_MAX} are possible)"))),
    }
}

/// Parses a whole number above zero, such as a number of MiB, seconds or blocks.
///
/// # Errors
/// Fails for a value that is not a number, or is below 1.
pub(crate) fn positive(text: &str) -> Result<u32, InvalidValue> {
    unsigned(text, 1, |value| format!("`{value}` must be at least 1"))
}

/// The maximum age of a result; `None` permits any age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Age(pub(crate) Option<Duration>);

/// Parses an age: a number with one of the units `s`, `m`, `h`, `d` and `w`; `0`; or `never` for
/// results that are never too old.
///
/// # Errors
/// Fails for any other value.
pub(crate) fn age(text: &str) -> Result<Age, InvalidValue> {
    if text == "never" {
        return Ok(Age(None));
    }
    let wrong = || invalid(format!("`{text}` is no age such as 12h, 7d or `never`"));
    let (at, unit) = text.char_indices().last().ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        'w' => 7 * 24 * 3600,
        '0' if text == "0" => return Ok(Age(Some(Duration::ZERO))),
        _ => return Err(wrong()),
    };
    let number: u64 = text[..at].parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(seconds).ok_or_else(wrong)?;
    Ok(Age(Some(Duration::from_secs(seconds))))
}

/// A size in bytes, in the syntax of virt-dib's `--size`: a number, which may have a fraction, and
/// one of the units `b`, `K`, `M` and `G`. It is rounded up to whole sectors, as QEMU rounds the
/// file that virt-dib creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(pub(crate) u64);

impl FromStr for ByteSize {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let unparsable = || {
            invalid(format!(
                "{text}: cannot parse size field (a number and one of b, K, M, G: `5G`)"
            ))
        };
        let (number, unit) = match text.char_indices().last() {
            Some((at, 'b')) => (&text[..at], 1.0),
            Some((at, 'K')) => (&text[..at], 1024.0),
            Some((at, 'M')) => (&text[..at], 1024.0 * 1024.0),
            Some((at, 'G')) => (&text[..at], 1024.0 * 1024.0 * 1024.0),
            _ => return Err(unparsable()),
        };
        if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return Err(unparsable());
        }
        // Uses doubles, as virt-dib does, so that a fraction gives the same number of bytes.
        let bytes = number.parse::<f64>().map_err(|_| unparsable())? * unit;
        if bytes > SIZE_MAX_BYTES {
            return Err(invalid(format!("{text}: the size is more than any file can have")));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "cutting off the fraction is wanted, and the range is checked"
        )]
        let bytes = bytes as u64;
        if bytes == 0 {
            return Err(invalid(format!("{text}: the size must not be zero")));
        }
        Ok(Self(bytes.next_multiple_of(SECTOR_BYTES)))
    }
}

/// Checks the value of disk-image-create's `--image-size N`, in GiB. The text is kept, because
/// scripts see it.
///
/// # Errors
/// Fails for a value that does not begin with a number above zero.
pub(crate) fn image_size(text: &str) -> Result<String, InvalidValue> {
    of_dib(text, dib::size("--image-size", text, dib::Unit::Gib))
}

/// Checks the value of disk-image-create's `--image-extra-size N`, in MiB, and keeps the text.
///
/// # Errors
/// Fails for a value that does not begin with a number above zero.
pub(crate) fn image_extra_size(text: &str) -> Result<String, InvalidValue> {
    of_dib(text, dib::size("--image-extra-size", text, dib::Unit::Mib))
}

/// Checks the value of `--max-online-resize N`, and keeps the text.
///
/// # Errors
/// Fails for a value that is not a number of blocks.
pub(crate) fn max_online_resize(text: &str) -> Result<String, InvalidValue> {
    of_dib(text, dib::blocks("--max-online-resize", text))
}

fn of_dib<T>(text: &str, read: Result<T, dib::OptionError>) -> Result<String, InvalidValue> {
    read.map(|_| text.to_owned()).map_err(|error| invalid(error.to_string()))
}

/// A variable for the scripts: `NAME=VALUE`, or `NAME` for the value in vbuild's own environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EnvVar {
    /// A variable with its value in vbuild's own environment; it is skipped if it is not set there.
    FromHost(String),
    /// A variable with this value, which may be empty.
    Set(String, String),
}

impl FromStr for EnvVar {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let name = text.split('=').next().unwrap_or_default();
        let well_formed = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.bytes().next().is_none_or(|b| b.is_ascii_digit());
        if !well_formed {
            return Err(invalid(format!(
                "invalid variable name ‘{name}’ in --envvar: a name is letters, digits and `_`, and does not start with a digit"
            )));
        }
        Ok(match text.split_once('=') {
            Some((name, value)) => Self::Set(name.into(), value.into()),
            None => Self::FromHost(text.into()),
        })
    }
}

/// Splits lists at their commas, trims the items, and drops empty ones.
pub(crate) fn comma_list<'a>(values: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let items = values.into_iter().flat_map(|value| value.split(','));
    items.map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// The channel for machine-readable output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MachineReadable {
    /// `--machine-readable` without a channel: standard output.
    Plain,
    /// `file:PATH`: a file.
    File(PathBuf),
    /// `stream:stdout`: standard output.
    Stdout,
    /// `stream:stderr`: standard error.
    Stderr,
    /// `fd:N`: a descriptor that vbuild was started with.
    Fd(i32),
}

impl FromStr for MachineReadable {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() {
            return Ok(Self::Plain);
        }
        let Some((kind, target)) = text.split_once(':') else {
            return Err(invalid(format!("invalid format string for --machine-readable: {text}")));
        };
        match (kind, target) {
            ("file", path) if !path.is_empty() => Ok(Self::File(path.into())),
            ("stream", "stdout") => Ok(Self::Stdout),
            ("stream", "stderr") => Ok(Self::Stderr),
            ("stream", other) => {
                Err(invalid(format!("invalid output stream for --machine-readable: {other}")))
            }
            ("fd", number) => match number.parse::<i32>() {
                Ok(fd) if fd >= 0 => Ok(Self::Fd(fd)),
                _ => Err(invalid(format!("invalid output fd for --machine-readable: {number}"))),
            },
            _ => Err(invalid(format!("invalid output for --machine-readable: {text}"))),
        }
    }
}

/// The certificates that the guest trusts in addition to its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CaBundle {
    /// The certificates that the host trusts.
    Host,
    /// The certificates in a PEM file.
    File(PathBuf),
}

/// Parses the value of `--ca-bundle FILE|host`.
pub(crate) fn ca_bundle(text: &str) -> Result<CaBundle, InvalidValue> {
    Ok(if text == "host" { CaBundle::Host } else { CaBundle::File(text.into()) })
}

/// Returns the parser for `--accel KIND`.
pub(crate) fn accel() -> impl TypedValueParser<Value = Accel> {
    choice(&[
        (Accel::Auto, "auto", "The best that works"),
        (Accel::Kvm, "kvm", "Hardware virtualisation, or fail"),
        (Accel::Tcg, "tcg", "Translation by QEMU"),
    ])
}

/// Returns the parser for `--drive-format FORMAT`, and for the format of an image to boot.
pub(crate) fn drive_format() -> impl TypedValueParser<Value = DriveFormat> {
    choice(&[
        (DriveFormat::Raw, "raw", "The file is the disk"),
        (DriveFormat::Qcow2, "qcow2", "A qcow2 file"),
    ])
}

/// Returns a parser for one of several words, each with its value and its line of help.
fn choice<T: Copy + Send + Sync + 'static>(
    all: &'static [(T, &'static str, &'static str)],
) -> impl TypedValueParser<Value = T> {
    let words = all.iter().map(|(_, word, help)| PossibleValue::new(word).help(help));
    PossibleValuesParser::new(words).map(|word| {
        let found = all.iter().find(|(_, known, _)| *known == word);
        found.map(|(value, ..)| *value).expect("the parser takes these words only")
    })
}

/// Checks a value of `--allow-host`, a host that scripts may reach, and keeps the text.
pub(crate) fn allow_host(text: &str) -> Result<String, InvalidValue> {
    let rule: Result<egress::Rule, _> = text.parse();
    rule.map(|_| text.to_owned()).map_err(|error| invalid(error.to_string()))
}

/// A directory or file of the host that scripts may read: `HOST[:GUEST]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    /// The path on the host.
    pub(crate) host: PathBuf,
    /// The path in the guest; `None` means the host's absolute path.
    pub(crate) guest: Option<String>,
}

impl Share {
    /// Returns the guest's path: the given one, or else the host's path, resolved in `here`.
    pub(crate) fn guest(&self, here: &Path) -> String {
        let own = || {
            let path = std::path::absolute(here.join(&self.host));
            path.unwrap_or_else(|_| self.host.clone()).display().to_string()
        };
        self.guest.clone().unwrap_or_else(own)
    }
}

impl FromStr for Share {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let (host, guest) = match text.rsplit_once(':') {
            Some((host, guest)) => (host, Some(guest.to_owned())),
            None => (text, None),
        };
        if host.is_empty() {
            return Err(invalid(format!("`{text}` names no path of the host")));
        }
        if guest.as_deref().is_some_and(|path| !path.starts_with('/')) {
            return Err(invalid(format!("the guest's path in `{text}` must be absolute")));
        }
        Ok(Self { host: host.into(), guest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(text: &str) -> Result<u64, String> {
        text.parse::<ByteSize>().map(|size| size.0).map_err(|error| error.to_string())
    }

    #[test]
    fn sizes_are_those_of_virt_dib() {
        let table = [
            ("10b", 512),
            ("1024b", 1024),
            ("8K", 8192),
            ("512M", 512 << 20),
            ("1.5G", 3 << 29),
            (".5G", 1 << 29),
            ("5.G", 5 << 30),
            // What is no whole sector is rounded up to one.
            ("0.1G", 107_374_592),
            ("1.2G", 1_288_490_496),
            ("2.1G", 2_254_858_240),
        ];
        for (text, bytes) in table {
            assert_eq!(size(text), Ok(bytes), "for `{text}`");
        }
        for bad in ["10", "1T", "1k", "1.2.3G", ".G", "G", "", "-1G", "1 G", "1e3G", "infG", "1é"]
        {
            let message = size(bad).unwrap_err();
            assert!(message.starts_with(&format!("{bad}: cannot parse size field")), "{message}");
            assert!(message.contains("b, K, M, G"), "{message}");
        }
        assert_eq!(size("0G"), Err("0G: the size must not be zero".into()));
        assert!(size("99999999999999999999G").unwrap_err().contains("more than any file"));
    }

    #[test]
    fn image_sizes_are_awks() {
        for fine in ["2.5", "6GiB", "8Gb", "275G"] {
            assert_eq!(image_size(fine), Ok(fine.into()));
        }
        assert!(image_size("0").is_err() && image_size("abc").is_err());
        assert_eq!(image_extra_size("0.5MiB"), Ok("0.5MiB".into()));
        assert!(max_online_resize("0").is_err());
    }

    #[test]
    fn integers_are_c_integers() {
        assert_eq!(integer("16"), Ok(16));
        assert_eq!(integer("0x10"), Ok(16));
        assert_eq!(integer("010"), Ok(8));
        assert_eq!(integer("0"), Ok(0));
        assert_eq!(integer("-1"), Ok(-1));
        assert_eq!(integer("abc").unwrap_err().0, "‘abc’ is not a numeric value.");
        assert_eq!(integer("09").unwrap_err().0, "‘09’ is not a numeric value.");
        assert!(integer("2147483648").unwrap_err().0.contains("out of range"));
        assert!(integer("99999999999999999999").unwrap_err().0.contains("out of range"));
    }

    #[test]
    fn bounds_of_numbers() {
        assert_eq!(debug_level("-1").unwrap_err().0, "--debug parameter must be >= 0");
        assert!(memsize("255").unwrap_err().0.contains("at least 256"));
        assert_eq!(memsize("256"), Ok(256));
        assert!(smp("0").unwrap_err().0.starts_with("invalid smp parameter: 0"));
        assert_eq!(smp("16"), Ok(16));
        assert!(smp("17").is_err());
        assert!(positive("0").is_err());
    }

    #[test]
    fn variables() {
        assert_eq!("A".parse(), Ok(EnvVar::FromHost("A".into())));
        assert_eq!("A=".parse(), Ok(EnvVar::Set("A".into(), String::new())));
        assert_eq!("A=b=c".parse(), Ok(EnvVar::Set("A".into(), "b=c".into())));
        for bad in ["=x", "", "1A=x", "a-b", "a b=1"] {
            assert!(bad.parse::<EnvVar>().is_err(), "for `{bad}`");
        }
    }

    #[test]
    fn channels() {
        assert_eq!("file:/x:y".parse(), Ok(MachineReadable::File("/x:y".into())));
        assert_eq!("fd:3".parse(), Ok(MachineReadable::Fd(3)));
        let text = |value: &str| value.parse::<MachineReadable>().unwrap_err().0;
        assert_eq!(text("foo"), "invalid format string for --machine-readable: foo");
        assert_eq!(text("stream:x"), "invalid output stream for --machine-readable: x");
        assert_eq!(text("fd:x"), "invalid output fd for --machine-readable: x");
        assert_eq!(text("bogus:x"), "invalid output for --machine-readable: bogus:x");
    }

    #[test]
    fn shares() {
        assert_eq!("/a".parse(), Ok(Share { host: "/a".into(), guest: None }));
        assert_eq!("a:/b".parse(), Ok(Share { host: "a".into(), guest: Some("/b".into()) }));
        assert!("a:b".parse::<Share>().is_err());
        assert!(":/b".parse::<Share>().is_err());
    }
}
