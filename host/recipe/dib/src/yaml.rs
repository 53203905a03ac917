//! YAML as the recipes of this crate need it: ordered, untyped, and printed in
//! messages the way Python prints it, because diskimage-builder's error texts
//! contain such prints and people search for them.

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

/// A YAML value. Maps keep the order of the file: it decides the order of
/// nodes that do not depend on each other.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

impl Value {
    /// Reads YAML. `y`, `no` and the like are text: nothing in this grammar is a
    /// truth value, but there are names and labels.
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
            Self::Int(value) => (*value).into(),
            Self::Float(value) => (*value).into(),
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
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value:?}"),
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

/// Of a key that is given twice the last one counts, at the place of the first, as
/// in Python.
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

/// What a word without quotes is. Unlike in YAML 1.2, a number with an exponent
/// needs a point, as in Python's: `8E00` is the type of a partition.
fn plain(text: &str) -> Value {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_decimal = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let text_value = || Value::Text(text.to_owned());
    if let Some(hex) = digits.strip_prefix("0x").filter(|hex| !hex.is_empty()) {
        return i64::from_str_radix(hex, 16).map_or_else(|_| text_value(), Value::Int);
    }
    if is_decimal(digits) {
        return text.parse().map_or_else(|_| text_value(), Value::Int);
    }
    let is_float = digits.split_once('.').is_some_and(|(whole, fraction)| {
        is_decimal(whole) && fraction.bytes().all(|byte| byte.is_ascii_digit())
    });
    match text.parse() {
        Ok(float) if is_float => Value::Float(float),
        _ => text_value(),
    }
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
        assert_eq!(parse("8300"), Value::Int(8300));
        assert_eq!(parse("0x82"), Value::Int(0x82));
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
        // As much as is let through, in values of which nothing is shared.
        let much = format!("a: &x \"{}\"\nb: [{}]\n", "x".repeat(1 << 20), "*x, ".repeat(60));
        memory_bound::within(yaml_tree::EXPANDED_MAX_BYTES as u64 * 3 / 2, || {
            Value::parse(&much).unwrap()
        });
        // Keys in number are found by their hash.
        let keys: String = (0..100_000).map(|n| format!("k{n}: 1\n")).collect();
        assert_eq!(Value::parse(&keys).unwrap().as_map().unwrap().len(), 100_000);
    }
}
