//! YAML for the recipes of this crate: ordered, untyped, and printed in messages as Python prints
//! it, because diskimage-builder's error messages contain such prints and users search for them.

use std::{collections::HashMap, fmt};

use yaml_tree::{Content, Node, Position};

/// Why a document cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} column {column}: {message}")]
pub(crate) struct YamlError {
    line: usize,
    column: usize,
    message: String,
}

/// A YAML value. Maps keep the order of the file, which determines the order of independent nodes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// An integer, with its original spelling.
    Int(i128, String),
    /// A float, with its original spelling.
    Float(f64, String),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

impl Value {
    /// Parses YAML as PyYAML does, with one difference: `no`, `on` and the like are text. Nothing
    /// in this grammar is a boolean, but it has names and labels.
    pub(crate) fn parse(text: &str) -> Result<Self, YamlError> {
        match yaml_tree::read(text)? {
            Some(node) => Self::of(&node),
            None => Ok(Self::Null),
        }
    }

    fn of(node: &Node) -> Result<Self, YamlError> {
        match &*node.content {
            Content::Scalar { text, plain: true } if node.tag.is_none() => Ok(plain(text)),
            Content::Scalar { text, .. } => Ok(Self::Text(text.clone())),
            Content::List(items) => {
                items.iter().map(Self::of).collect::<Result<_, _>>().map(Self::List)
            }
            Content::Map(entries) => mapping(entries).map(Self::Map),
        }
    }

    /// Python's `str()` of the value.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// The value in its original spelling, for a name, a label or a type that YAML reads as a
    /// number. The original fails on most of these.
    pub(crate) fn written(&self) -> String {
        match self {
            Self::Int(_, written) | Self::Float(_, written) => written.clone(),
            other => other.text(),
        }
    }

    pub(crate) fn as_map(&self) -> Option<&[(String, Value)]> {
        match self {
            Self::Map(entries) => Some(entries),
            _ => None,
        }
    }

    pub(crate) fn as_list(&self) -> Option<&[Value]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    #[cfg(test)]
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Int(value, _) => i64::try_from(*value).unwrap_or(i64::MAX).into(),
            Self::Float(value, _) => (*value).into(),
            Self::Text(value) => value.clone().into(),
            Self::List(items) => items.iter().map(Self::to_json).collect(),
            Self::Map(entries) => {
                entries.iter().map(|(key, value)| (key.clone(), value.to_json())).collect()
            }
        }
    }
}

/// Python's `repr()`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("None"),
            Self::Bool(true) => f.write_str("True"),
            Self::Bool(false) => f.write_str("False"),
            Self::Int(value, _) => write!(f, "{value}"),
            Self::Float(value, _) => write!(f, "{value:?}"),
            Self::Text(text) => write_text(f, text),
            Self::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Self::Map(entries) => {
                f.write_str("{")?;
                for (index, (key, value)) in entries.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { ", " })?;
                    write_text(f, key)?;
                    write!(f, ": {value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    write!(f, "{quote}")?;
    for character in text.chars() {
        match character {
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if c == quote => write!(f, "\\{c}")?,
            c if c.is_control() => write!(f, "\\x{:02x}", u32::from(c))?,
            c => write!(f, "{c}")?,
        }
    }
    write!(f, "{quote}")
}

impl From<yaml_tree::YamlError> for YamlError {
    fn from(error: yaml_tree::YamlError) -> Self {
        fault(error.at, error.message)
    }
}

fn fault(at: Position, message: impl Into<String>) -> YamlError {
    YamlError { line: at.line, column: at.column, message: message.into() }
}

/// Converts a mapping. The last value of a repeated key wins, at the position of the first, as in
/// Python.
fn mapping(nodes: &[(Node, Node)]) -> Result<Vec<(String, Value)>, YamlError> {
    let mut entries: Vec<(String, Value)> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for (key_node, node) in nodes {
        let key = Value::of(key_node)?;
        if matches!(key, Value::List(_) | Value::Map(_)) {
            return Err(fault(key_node.at, "a list or a map cannot be a key"));
        }
        let (key, value) = (key.text(), Value::of(node)?);
        if let Some(index) = known.get(&key) {
            entries[*index].1 = value;
            continue;
        }
        known.insert(key.clone(), entries.len());
        entries.push((key, value));
    }
    Ok(entries)
}

/// Resolves a plain scalar like PyYAML's YAML 1.1 resolver: `010` is eight, `1_000` a thousand,
/// `1:30` ninety; a float with an exponent needs a point and a sign, so `8E00` stays text: it is a
/// partition type.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let written = || text.to_owned();
    match (float(text), integer(text)) {
        (Some(number), _) => Value::Float(number, written()),
        (None, Some(number)) => Value::Int(number, written()),
        (None, None) => Value::Text(written()),
    }
}

/// Splits off a sign; `true` means negative.
fn signed(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// Whether the text is 0 alone, or digits and underscores that begin with 1 to 9.
fn is_decimal(text: &str) -> bool {
    let mut bytes = text.bytes();
    text == "0"
        || (matches!(bytes.next(), Some(b'1'..=b'9'))
            && bytes.all(|byte| byte.is_ascii_digit() || byte == b'_'))
}

/// Whether the parts of a base-60 number behind the first are valid.
fn are_sixtieths<'a>(mut parts: impl Iterator<Item = &'a str>) -> bool {
    parts.all(|part| {
        part.len() <= 2
            && part.parse::<u8>().is_ok_and(|number| number < 60)
            && !part.starts_with('+')
    })
}

fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = signed(text);
    let radix = |digits: &str, radix: u32| {
        let plain: String = digits.chars().filter(|c| *c != '_').collect();
        let fine = !digits.is_empty() && digits.chars().all(|c| c == '_' || c.is_digit(radix));
        fine.then(|| i128::from_str_radix(&plain, radix).ok()).flatten()
    };
    let number = match digits.split_once(':') {
        Some((first, rest)) => {
            let fine = is_decimal(first) && first != "0" && are_sixtieths(rest.split(':'));
            let parts = fine.then(|| std::iter::once(first).chain(rest.split(':')))?;
            parts
                .map(|part| radix(part, 10))
                .try_fold(0_i128, |sum, part| sum.checked_mul(60)?.checked_add(part?))
        }
        None if digits.starts_with("0b") => radix(&digits[2..], 2),
        None if digits.starts_with("0x") => radix(&digits[2..], 16),
        None if digits.len() > 1 && digits.starts_with('0') => {
            radix(&digits[1..], 8).or_else(|| {
                // The original reads `0_` as zero.
                digits.bytes().all(|byte| matches!(byte, b'0' | b'_')).then_some(0)
            })
        }
        None if is_decimal(digits) => radix(digits, 10),
        None => None,
    }?;
    Some(if negative { -number } else { number })
}

fn float(text: &str) -> Option<f64> {
    let (negative, digits) = signed(text);
    let number = match digits {
        ".inf" | ".Inf" | ".INF" => f64::INFINITY,
        ".nan" | ".NaN" | ".NAN" if digits == text => f64::NAN,
        _ => {
            let (mantissa, exponent) = match digits.find(['e', 'E']) {
                Some(at) => (&digits[..at], Some(&digits[at + 1..])),
                None => (digits, None),
            };
            let (whole, fraction) = mantissa.split_once('.')?;
            let all = |text: &str, allowed: fn(u8) -> bool| text.bytes().all(allowed);
            let digit_or_gap = |byte: u8| byte.is_ascii_digit() || byte == b'_';
            let begins = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
            if !all(fraction, digit_or_gap) || exponent.is_some_and(|e| !is_exponent(e)) {
                return None;
            }
            let plain = |text: &str| text.replace('_', "");
            match whole.split_once(':') {
                Some((first, rest)) => {
                    let fine = begins(first) && all(first, digit_or_gap);
                    if !fine || exponent.is_some() || !are_sixtieths(rest.split(':')) {
                        return None;
                    }
                    let parts = std::iter::once(first).chain(rest.split(':'));
                    let mut whole = 0.0;
                    for part in parts {
                        whole = whole * 60.0 + plain(part).parse::<f64>().ok()?;
                    }
                    whole + format!("0.{}", plain(fraction)).parse::<f64>().ok()?
                }
                None if whole.is_empty() => {
                    // A sign directly before the point makes it text.
                    if !begins(fraction) || digits != text {
                        return None;
                    }
                    plain(digits).parse().ok()?
                }
                None if begins(whole) && all(whole, digit_or_gap) => plain(digits).parse().ok()?,
                None => return None,
            }
        }
    };
    Some(if negative { -number } else { number })
}

/// Whether the text is a sign followed by digits.
fn is_exponent(text: &str) -> bool {
    text.strip_prefix(['+', '-'])
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> Value {
        Value::parse(yaml).unwrap()
    }

    #[test]
    fn keeps_order_and_types() {
        assert_eq!(
            parse("b: 1\na: [x, 'y', 2.5, true, ~, 10%]\n").to_string(),
            "{'b': 1, 'a': ['x', 'y', 2.5, True, None, '10%']}"
        );
    }

    #[test]
    fn prints_strings_as_python_does() {
        assert_eq!(Value::Text("it's".into()).to_string(), "\"it's\"");
        assert_eq!(Value::Text("a\\b\n".into()).to_string(), "'a\\\\b\\n'");
    }

    #[test]
    fn names_and_codes_stay_text() {
        for word in ["none", "EF00", "8E00", "40G", "100%", "root", "0x4100x", "y", "no"] {
            assert_eq!(parse(word), Value::Text(word.into()));
        }
        assert_eq!(parse("'8300'"), Value::Text("8300".into()));
        assert_eq!(parse("8300"), Value::Int(8300, "8300".into()));
        assert_eq!(parse("0x82"), Value::Int(0x82, "0x82".into()));
    }

    #[test]
    fn numbers_are_those_of_pyyaml() {
        let words = "0 1 -1 +1 010 -010 08 0o10 0_ 0_1 1_000 1_ _1 0x1F 0X1F 0x_f 0x 0b101 0b2 -0b1 1:30 \
                     1:60 01:30 1:3:5 -1:30 1.5 1. .5 -.5 +1.5 1_0.5_0 1e3 1.e3 1.0e3 1.0e+3 1.0E-3 .5e+1 \
                     .inf -.inf +.INF .nan -.nan . .. -.  1.2.3 1:30.5 1:30.5e+1 01.5 00 1__0 40G 8E00 EF00 \
                     10% 99999999999999999999 0x7fffffffffffffffffff";
        let script = "import sys, yaml\n\
                      for word in sys.argv[1:]: print(str(yaml.safe_load('[' + word + ']')[0]))";
        let python = std::process::Command::new("python3")
            .args(["-c", script])
            .args(words.split_whitespace())
            .output();
        let Some(output) = python.ok().filter(|output| output.status.success()) else {
            println!("skipped: there is no python3 with yaml");
            return;
        };
        let output = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.lines().count(), words.split_whitespace().count());
        for (word, expected) in words.split_whitespace().zip(output.lines()) {
            let ours = match plain(word) {
                Value::Float(number, _) if !number.is_finite() => number.to_string().to_lowercase(),
                other => other.text(),
            };
            assert_eq!(ours, expected, "{word}");
        }
    }

    #[test]
    fn what_is_written_is_kept() {
        for word in ["0700", "1_0", "1.50", "x", "0x0c"] {
            assert_eq!(parse(word).written(), word);
        }
    }

    #[test]
    fn anchors_and_faults() {
        assert_eq!(parse("a: &x [1]\nb: *x\n").to_string(), "{'a': [1], 'b': [1]}");
        assert_eq!(parse("a: 1\na: 2\n").to_string(), "{'a': 2}");
        let error = Value::parse("a: [1\nb: }").unwrap_err().to_string();
        assert!(error.starts_with("line 2 column"), "{error}");
    }

    #[test]
    fn documents_cannot_explode() {
        let lists: String =
            (1..40).map(|n| format!("l{n}: &l{n} [*l{0}, *l{0}]\n", n - 1)).collect();
        let long = format!("a: &x \"{}\"\nb: [{}]\n", "x".repeat(1 << 20), "*x, ".repeat(1500));
        for text in [format!("l0: &l0 x\n{lists}"), long] {
            let error = memory_bound::within(yaml_tree::EXPANDED_MAX_BYTES as u64, || {
                Value::parse(&text).unwrap_err()
            });
            assert!(error.to_string().contains("expands to more than"), "{error}");
        }
        // The largest document that is accepted, in values that share nothing.
        let much = format!("a: &x \"{}\"\nb: [{}]\n", "x".repeat(1 << 20), "*x, ".repeat(60));
        memory_bound::within(yaml_tree::EXPANDED_MAX_BYTES as u64 * 3 / 2, || {
            Value::parse(&much).unwrap()
        });
        // Mappings with many keys are searched by hash.
        let keys: String = (0..100_000).map(|n| format!("k{n}: 1\n")).collect();
        assert_eq!(Value::parse(&keys).unwrap().as_map().unwrap().len(), 100_000);
    }
}
