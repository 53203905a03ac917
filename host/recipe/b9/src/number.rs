//! Exact numbers: integers of any size, decimal numbers with an exponent, and their form in B9, as
//! well as that of floats.

use std::cmp::Ordering;

/// Maximum digits of a number in a radix other than ten. Conversion takes quadratic time, and keys
/// of 16384 bits have this many digits.
const RADIX_DIGITS_MAX: usize = 4096;

/// Maximum exponent: the range of C's `int`, as in common libraries.
const EXPONENT_MAX: i64 = i32::MAX as i64;

/// A whole number of any size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Integer {
    negative: bool,
    /// The decimal digits, without leading zeros.
    digits: String,
}

impl Integer {
    /// Parses digits in a radix of 2 to 36.
    ///
    /// Returns `None` for no digits, for digits outside of the radix, or for more than 4096 digits
    /// in a radix other than ten.
    #[must_use]
    pub fn parse(negative: bool, digits: &str, radix: u32) -> Option<Self> {
        let plain = if radix == 10 {
            let ok = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            ok.then(|| digits.to_owned())?
        } else {
            if digits.is_empty() || digits.len() > RADIX_DIGITS_MAX {
                return None;
            }
            to_decimal(digits, radix)?
        };
        let trimmed = plain.trim_start_matches('0');
        let digits = if trimmed.is_empty() { "0" } else { trimmed };
        Some(Self { negative: negative && digits != "0", digits: digits.to_owned() })
    }

    /// Whether it is negative.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.negative
    }
}

impl std::fmt::Display for Integer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.negative { "-" } else { "" }, self.digits)
    }
}

impl Ord for Integer {
    fn cmp(&self, other: &Self) -> Ordering {
        let magnitude = |number: &Self| (number.digits.len(), number.digits.clone());
        match (self.negative, other.negative) {
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => magnitude(self).cmp(&magnitude(other)),
            (true, true) => magnitude(other).cmp(&magnitude(self)),
        }
    }
}

impl PartialOrd for Integer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Converts digits of a radix to decimal digits.
fn to_decimal(digits: &str, radix: u32) -> Option<String> {
    /// Each limb has nine decimal digits.
    const LIMB: u64 = 1_000_000_000;
    let mut limbs = vec![0_u64];
    for digit in digits.chars() {
        let mut carry = u64::from(digit.to_digit(radix)?);
        for limb in &mut limbs {
            let value = *limb * u64::from(radix) + carry;
            *limb = value % LIMB;
            carry = value / LIMB;
        }
        if carry > 0 {
            limbs.push(carry);
        }
    }
    Some(limbs.iter().rev().map(|limb| format!("{limb:09}")).collect())
}

/// A decimal number: an integer times a power of ten. Numbers with the same printed form are equal.
#[derive(Debug, Clone)]
pub struct Number {
    coefficient: Integer,
    exponent: i64,
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Number {}

impl Number {
    /// Parses what B9 accepts as a number in YAML: `0x` and hexadecimal digits, `0o` and octal
    /// ones, or `[+-]digits[.digits][e[+-]digits]`, where the digits after the point are optional.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        for (prefix, radix) in [("0x", 16), ("0o", 8)] {
            if let Some(digits) = text.strip_prefix(prefix) {
                return Some(Integer::parse(false, digits, radix)?.into());
            }
        }
        let Parts { negative, whole, fraction, exponent } = Parts::of(text)?;
        let shown: i64 = if exponent.is_empty() { 0 } else { exponent.parse().ok()? };
        let exponent = shown.checked_sub(i64::try_from(fraction.len()).ok()?)?;
        let coefficient = Integer::parse(negative, &format!("{whole}{fraction}"), 10)?;
        (exponent.abs() <= EXPONENT_MAX).then_some(Self { coefficient, exponent })
    }

    /// Whether a text has the syntax of a number, of any magnitude.
    #[must_use]
    pub fn looks_like(text: &str) -> bool {
        let radix = |prefix: &str, radix: u32| {
            text.strip_prefix(prefix).is_some_and(|digits| {
                !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix))
            })
        };
        radix("0x", 16) || radix("0o", 8) || Parts::of(text).is_some()
    }
}

impl From<Integer> for Number {
    fn from(coefficient: Integer) -> Self {
        Self { coefficient, exponent: 0 }
    }
}

impl From<i64> for Number {
    fn from(number: i64) -> Self {
        let digits = number.unsigned_abs().to_string();
        Self { coefficient: Integer { negative: number < 0, digits }, exponent: 0 }
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.exponent == 0 {
            return self.coefficient.fmt(f);
        }
        let Integer { negative, digits } = &self.coefficient;
        let length = i64::try_from(digits.len()).map_err(|_| std::fmt::Error)?;
        f.write_str(&generic(*negative, digits, self.exponent + length))
    }
}

/// The parts of a decimal number literal.
struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    exponent: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let negative = text.starts_with('-');
        let body = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (mantissa, exponent) = match body.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, Some(exponent)),
            None => (body, None),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let power = exponent.map(|text| text.strip_prefix(['-', '+']).unwrap_or(text));
        let ok = !whole.is_empty()
            && digits(whole)
            && digits(fraction)
            && power.is_none_or(|text| !text.is_empty() && digits(text));
        ok.then_some(Self { negative, whole, fraction, exponent: exponent.unwrap_or("") })
    }
}

/// A float as Haskell prints it: the fewest digits that identify it, with a point, and with an
/// exponent from 10^7 up and below 0.1.
#[must_use]
pub(crate) fn show_float(float: f64) -> String {
    let text = format!("{:e}", float.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits = mantissa.replace('.', "");
    let exponent: i64 = exponent.parse().unwrap_or(0);
    generic(float.is_sign_negative(), &digits, exponent + 1)
}

/// Prints 0.DIGITS times ten to the power of `point`.
fn generic(negative: bool, digits: &str, point: i64) -> String {
    /// With more zeros than this on either side of the digits, an exponent is used.
    const FIXED: std::ops::RangeInclusive<i64> = 0..=7;
    let sign = if negative { "-" } else { "" };
    let leading = digits.len() - digits.trim_start_matches('0').len();
    let point = point - i64::try_from(leading).unwrap_or(0);
    let digits = digits.trim_matches('0');
    if digits.is_empty() {
        return format!("{sign}0.0");
    }
    let or_zero = |text: &str| if text.is_empty() { "0".to_owned() } else { text.to_owned() };
    if !FIXED.contains(&point) {
        return format!("{sign}{}.{}e{}", &digits[..1], or_zero(&digits[1..]), point - 1);
    }
    let whole = usize::try_from(point).unwrap_or(0);
    let padded = format!("{digits:0<whole$}");
    format!("{sign}{}.{}", or_zero(&padded[..whole]), or_zero(&padded[whole..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_any_size_and_radix() {
        let show = |digits, radix| Integer::parse(false, digits, radix).map(|n| n.to_string());
        assert_eq!(show("ff", 16).as_deref(), Some("255"));
        assert_eq!(
            show("ffffffffffffffffffffffffffffffff", 16).as_deref(),
            Some("340282366920938463463374607431768211455")
        );
        assert_eq!(show("000", 10).as_deref(), Some("0"));
        assert_eq!(show("12", 2), None);
        assert_eq!(show(&"1".repeat(RADIX_DIGITS_MAX + 1), 16), None);
        let order = ["-10", "-9", "0", "2", "10", "100"];
        let numbers: Vec<Integer> = order
            .iter()
            .map(|n| Integer::parse(n.starts_with('-'), n.trim_start_matches('-'), 10).unwrap())
            .collect();
        assert!(numbers.is_sorted());
    }

    #[test]
    fn numbers_are_exact() {
        for (text, shown) in [
            ("0x1f", "31"),
            ("+7", "7"),
            ("007", "7"),
            ("1.0", "1.0"),
            ("1e3", "1000.0"),
            ("2.50", "2.5"),
            ("-0.0", "0.0"),
            ("5.", "5"),
            ("0.25", "0.25"),
            ("0.05", "5.0e-2"),
            ("9999999.0", "9999999.0"),
            ("10000000.0", "1.0e7"),
            ("1E+2000000", "1.0e2000000"),
            ("1.0e1", "10"),
        ] {
            assert_eq!(Number::parse(text).unwrap().to_string(), shown, "{text}");
        }
        for text in ["", ".5", "1_0", "1e", "0x", "0xg", "-0x1", "1e99999999999", "1.2.3", "e1"] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
        assert!(Number::looks_like("1e99999999999") && !Number::looks_like("1e"));
    }

    #[test]
    fn floats_are_shown_as_haskell_does() {
        for (float, shown) in [
            (1500.0, "1500.0"),
            (2.5e-3, "2.5e-3"),
            (12_345_678.9, "1.23456789e7"),
            (0.1, "0.1"),
            (1e7, "1.0e7"),
            (-150.0, "-150.0"),
            (0.0, "0.0"),
            (5e-324, "5.0e-324"),
        ] {
            assert_eq!(show_float(float), shown);
        }
    }
}
