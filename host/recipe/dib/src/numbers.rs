//! Parses numbers as diskimage-builder's tools do: sizes like awk, counts like bash and mkfs.

use crate::{block_device::whole, options::OptionError};

const KIB_PER_MIB: f64 = 1024.0;
const KIB_PER_GIB: f64 = 1_048_576.0;

/// The unit of a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// GiB, for `DIB_IMAGE_SIZE`.
    Gib,
    /// MiB, for `DIB_IMAGE_EXTRA_SIZE`.
    Mib,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Gib => "GiB",
            Self::Mib => "MiB",
        }
    }

    fn kib(self) -> f64 {
        match self {
            Self::Gib => KIB_PER_GIB,
            Self::Mib => KIB_PER_MIB,
        }
    }

    /// Whether the text behind a number names the unit that applies anyway.
    fn is_named_in(self, rest: &str) -> bool {
        let letter = &self.name()[..1];
        let rest = rest.to_ascii_uppercase();
        ["", letter, &format!("{letter}B"), &format!("{letter}IB")].contains(&rest.as_str())
    }
}

/// Parses a size as awk does in diskimage-builder: the number at the beginning of the first word
/// counts, the rest is ignored: `6GiB` is 6, `275G` is 275. Returns KiB, and a warning if the user
/// may have meant something else.
///
/// # Errors
/// Fails if there is no number above zero.
pub fn size(
    option: &'static str,
    value: &str,
    unit: Unit,
) -> Result<(u64, Option<String>), OptionError> {
    let invalid = || OptionError::Size { option, value: value.to_owned(), unit: unit.name() };
    let (number, rest) = leading_number(value).ok_or_else(invalid)?;
    let kib = whole((number * unit.kib()).floor()).filter(|kib| *kib > 0).ok_or_else(invalid)?;
    let warning = (!unit.is_named_in(rest.trim())).then(|| {
        let unit = unit.name();
        format!(
            "{option}: `{value}` is {number} {unit}: diskimage-builder reads the number, which counts \
             {unit}, and passes over what stands behind it"
        )
    });
    Ok((kib, warning))
}

/// Splits a text into the number at its beginning, as awk reads it, and the rest.
fn leading_number(text: &str) -> Option<(f64, &str)> {
    let text = text.trim_start();
    let digits = |from: usize| from + text[from..].bytes().take_while(u8::is_ascii_digit).count();
    let sign = usize::from(text.starts_with(['-', '+']));
    let mut end = digits(sign);
    let mut has_digits = end > sign;
    if text[end..].starts_with('.') {
        let fraction = digits(end + 1);
        has_digits |= fraction > end + 1;
        end = fraction;
    }
    if !has_digits {
        return None;
    }
    if text[end..].starts_with(['e', 'E']) {
        let exponent = end + 1 + usize::from(text[end + 1..].starts_with(['-', '+']));
        if digits(exponent) > exponent {
            end = digits(exponent);
        }
    }
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// Parses a count as bash and C do: decimal, `0x10` or `010`.
pub(crate) fn count(option: &'static str, value: &str) -> Result<u64, OptionError> {
    let digits = value.trim();
    let lower = digits.to_ascii_lowercase();
    let read = match lower.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None if lower.len() > 1 && lower.starts_with('0') => u64::from_str_radix(&lower, 8),
        None => lower.parse(),
    };
    let signed = digits.starts_with(['+', '-']) || lower.starts_with("0x+");
    match read {
        Ok(number) if !signed => Ok(number),
        _ => Err(OptionError::Number { option, value: value.to_owned() }),
    }
}

/// Checks a number of blocks for mkfs's `-E resize=`: a count with an optional unit. mkfs gets the
/// text unchanged.
///
/// # Errors
/// Fails if it is something else, or zero.
pub fn blocks(option: &'static str, value: &str) -> Result<(), OptionError> {
    let number = value.strip_suffix(['T', 't', 'G', 'g', 'M', 'm', 'K', 'k']).unwrap_or(value);
    match count(option, number) {
        Ok(1..) if number == number.trim() => Ok(()),
        _ => Err(OptionError::Blocks { option, value: value.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const SPELLINGS: [&str; 16] = [
        "6GiB", "8Gb", "275G", "2.5", ".5", "5.", "+3", "1e1", "2e", "1e-1G", "3 GB", "  4",
        "1.2.3", "0.3G", "7T", "012",
    ];

    #[test]
    fn sizes_are_those_of_awk() {
        for value in SPELLINGS {
            let awk = Command::new("awk")
                .args(["-v", "OFMT=%.17g", "{printf(\"%d\\n\", $1 * 1024 *1024)}"])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn();
            let Ok(mut awk) = awk else {
                println!("skipped: there is no awk");
                return;
            };
            let mut input = awk.stdin.take().unwrap();
            std::io::Write::write_all(&mut input, format!("{value}\n").as_bytes()).unwrap();
            drop(input);
            let output = awk.wait_with_output().unwrap().stdout;
            let expected = String::from_utf8(output).unwrap().trim().parse::<u64>().unwrap();
            assert_eq!(size("--image-size", value, Unit::Gib).unwrap().0, expected, "{value}");
        }
    }

    #[test]
    fn a_unit_that_does_not_count_is_told() {
        let warned = |value: &str, unit| size("DIB_IMAGE_SIZE", value, unit).unwrap().1.is_some();
        for fine in ["3", "3G", "3g", "3Gb", "3GiB", "3 GB"] {
            assert!(!warned(fine, Unit::Gib), "{fine}");
        }
        assert!(!warned("200MiB", Unit::Mib) && warned("1G", Unit::Mib));
        let warning = size("DIB_IMAGE_SIZE", "500M", Unit::Gib).unwrap().1.unwrap();
        assert!(warning.starts_with("DIB_IMAGE_SIZE: `500M` is 500 GiB"), "{warning}");
    }

    #[test]
    fn no_number_is_refused_with_the_option_and_its_unit() {
        for value in ["abc", "", "G", "0", "0.0G", "-1", ".", "inf", "nan"] {
            let message = size("--image-size", value, Unit::Gib).unwrap_err().to_string();
            assert_eq!(message, format!("--image-size: `{value}` is no number of GiB above zero"));
        }
    }

    #[test]
    fn counts_are_those_of_c() {
        for (text, number) in [("64", 64), ("0x40", 64), ("0100", 64), ("0", 0), (" 8 ", 8)] {
            assert_eq!(count("X", text), Ok(number), "{text}");
        }
        for bad in ["", "1.5", "-1", "+1", "08", "0x", "64M", "abc"] {
            assert!(count("X", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn blocks_may_have_a_unit() {
        for fine in ["274877906944", "1T", "0x100k", "512m"] {
            assert_eq!(blocks("--max-online-resize", fine), Ok(()), "{fine}");
        }
        for bad in ["0", "", "T", "1.5G", "1TB", " 1", "-1"] {
            assert!(blocks("--max-online-resize", bad).is_err(), "{bad}");
        }
    }
}
