//! Resolves plain scalars of YAML 1.1 like `PyYAML`.

use super::Value;

/// The meaning of a plain scalar: a value, or one of two marks that only the loader uses.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Plain {
    /// A value.
    Value(Value),
    /// `<<`, the merge key.
    Merge,
    /// `=`, for which the safe loader has no constructor.
    Default,
}

/// Resolves a plain scalar.
///
/// # Errors
/// Fails if the text looks like a number that Python cannot construct.
pub(super) fn resolve(text: &str) -> Result<Plain, String> {
    let value = match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "<<" => return Ok(Plain::Merge),
        "=" => return Ok(Plain::Default),
        _ => {
            if let Some(truth) = bool_of(text) {
                Value::Bool(truth)
            } else if is_int(text) {
                int(text)?
            } else if is_float(text) {
                float(text)?
            } else if is_timestamp(text) {
                Value::Other("a date", text.to_owned())
            } else {
                Value::Text(text.to_owned())
            }
        }
    };
    Ok(Plain::Value(value))
}

/// The words for true and false, each in three spellings.
pub(super) fn bool_of(text: &str) -> Option<bool> {
    let lower = text.to_ascii_lowercase();
    let mut title = lower.clone();
    if let Some(first) = title.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    if text != lower && text != title && text != lower.to_ascii_uppercase() {
        return None;
    }
    match lower.as_str() {
        "yes" | "true" | "on" => Some(true),
        "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['-', '+']).unwrap_or(text)
}

fn all(text: &str, allowed: impl Fn(char) -> bool) -> bool {
    text.chars().all(allowed)
}

fn digits_or_underscores(text: &str) -> bool {
    all(text, |c| c.is_ascii_digit() || c == '_')
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// Whether the text is `[0-5]?[0-9]`, one digit of a sexagesimal number.
fn is_sixtieth(text: &str) -> bool {
    match text.as_bytes() {
        [one] => one.is_ascii_digit(),
        [ten, one] => (b'0'..=b'5').contains(ten) && one.is_ascii_digit(),
        _ => false,
    }
}

pub(super) fn is_int(text: &str) -> bool {
    let body = unsigned(text);
    if let Some(bits) = body.strip_prefix("0b") {
        return !bits.is_empty() && all(bits, |c| matches!(c, '0' | '1' | '_'));
    }
    if let Some(digits) = body.strip_prefix("0x") {
        return !digits.is_empty() && all(digits, |c| c.is_ascii_hexdigit() || c == '_');
    }
    if body == "0" {
        return true;
    }
    if let Some(digits) = body.strip_prefix('0') {
        return all(digits, |c| matches!(c, '0'..='7' | '_'));
    }
    let mut places = body.split(':');
    let first = places.next().unwrap_or("");
    starts_with_digit(first) && digits_or_underscores(first) && places.all(is_sixtieth)
}

fn is_exponent(text: &str) -> bool {
    text.strip_prefix(['e', 'E'])
        .and_then(|rest| rest.strip_prefix(['-', '+']))
        .is_some_and(|digits| !digits.is_empty() && all(digits, |c| c.is_ascii_digit()))
}

pub(super) fn is_float(text: &str) -> bool {
    let body = unsigned(text);
    if matches!(body, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let Some((whole, rest)) = body.split_once('.') else { return false };
    if whole.contains(':') {
        let mut places = whole.split(':');
        let first = places.next().unwrap_or("");
        return starts_with_digit(first)
            && digits_or_underscores(first)
            && places.all(is_sixtieth)
            && digits_or_underscores(rest);
    }
    let fraction = rest.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(rest.len());
    let (fraction, exponent) = rest.split_at(fraction);
    if !exponent.is_empty() && !is_exponent(exponent) {
        return false;
    }
    if whole.is_empty() {
        // No sign is allowed here, and a digit must follow the point.
        return body.len() == text.len() && starts_with_digit(fraction);
    }
    starts_with_digit(whole) && digits_or_underscores(whole)
}

fn is_timestamp(text: &str) -> bool {
    let number = |text: &str, least: usize, most: usize| {
        (least..=most).contains(&text.len()) && all(text, |c| c.is_ascii_digit())
    };
    let Some(date_end) = text.find(|c: char| !c.is_ascii_digit() && c != '-') else {
        let parts: Vec<&str> = text.split('-').collect();
        return matches!(parts[..], [y, m, d] if number(y, 4, 4) && number(m, 2, 2) && number(d, 2, 2));
    };
    let (date, rest) = text.split_at(date_end);
    let parts: Vec<&str> = date.split('-').collect();
    let dated =
        matches!(parts[..], [y, m, d] if number(y, 4, 4) && number(m, 1, 2) && number(d, 1, 2));
    let time = match rest.strip_prefix(['T', 't']) {
        Some(time) => time,
        None if rest.starts_with([' ', '\t']) => rest.trim_start_matches([' ', '\t']),
        None => return false,
    };
    let clock_end =
        time.find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.').unwrap_or(time.len());
    let (clock, zone) = time.split_at(clock_end);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let parts: Vec<&str> = clock.split(':').collect();
    let clocked =
        matches!(parts[..], [h, m, s] if number(h, 1, 2) && number(m, 2, 2) && number(s, 2, 2));
    let zone = zone.trim_start_matches([' ', '\t']);
    let zoned = match zone.strip_prefix(['-', '+']) {
        None => matches!(zone, "" | "Z"),
        Some(offset) => {
            let (hours, minutes) = offset.split_once(':').unwrap_or((offset, "00"));
            number(hours, 1, 2) && number(minutes, 2, 2)
        }
    };
    dated && clocked && zoned && all(fraction, |c| c.is_ascii_digit())
}

/// The value of a text that [`is_int`] accepts.
pub(super) fn int(text: &str) -> Result<Value, String> {
    let clean = text.replace('_', "");
    let negative = clean.starts_with('-');
    let body = unsigned(&clean);
    let parse = |digits: &str, radix| {
        if digits.is_empty() {
            return Err(format!("`{text}` is no number"));
        }
        Ok(i128::from_str_radix(digits, radix).ok())
    };
    let magnitude = if let Some(bits) = body.strip_prefix("0b") {
        parse(bits, 2)?
    } else if let Some(digits) = body.strip_prefix("0x") {
        parse(digits, 16)?
    } else if body.len() > 1 && body.starts_with('0') {
        parse(body, 8)?
    } else {
        body.split(':')
            .try_fold(0_i128, |sum, place| sum.checked_mul(60)?.checked_add(place.parse().ok()?))
    };
    let signed = magnitude.map(|number| if negative { -number } else { number });
    Ok(match signed.and_then(|number| i64::try_from(number).ok()) {
        Some(number) => Value::Int(number),
        None => Value::Other("an integer of more than 64 bits", text.to_owned()),
    })
}

/// The value of a text that [`is_float`] accepts.
pub(super) fn float(text: &str) -> Result<Value, String> {
    let clean = text.replace('_', "").to_ascii_lowercase();
    let sign = if clean.starts_with('-') { -1.0 } else { 1.0 };
    let body = unsigned(&clean);
    let magnitude = match body {
        ".inf" => f64::INFINITY,
        ".nan" => f64::NAN,
        _ => body
            .split(':')
            .try_fold(0.0, |sum, place| Some(sum * 60.0 + place.parse::<f64>().ok()?))
            .ok_or_else(|| format!("`{text}` is no number"))?,
    };
    Ok(Value::Float(sign * magnitude))
}
