//! YAML as the recipes of this crate need it: ordered, untyped, and printed in
//! messages the way Python prints it, because diskimage-builder's error texts
//! contain such prints and people search for them.

use std::{collections::HashMap, fmt};

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, StrInput};

/// Nodes that a configuration may expand to through aliases. Real ones have
/// dozens; the limit stops documents that double with every line.
const NODES_MAX: usize = 100_000;

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
        let mut options = Options::default();
        // Another crate of the program may have turned them on for all.
        options.set_emit_comments(false);
        let mut builder = Builder {
            events: Parser::new_from_str_with_options(text, options),
            anchors: HashMap::new(),
            nodes: 0,
        };
        let mut root = None;
        loop {
            let (event, span) = builder.next()?;
            match event {
                Event::StreamEnd => return Ok(root.unwrap_or(Self::Null)),
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) if root.is_none() => {
                    let (event, span) = builder.next()?;
                    root = Some(builder.value(event, span)?);
                }
                Event::DocumentStart(..) => return Err(fault(span, "a second document begins")),
                other => return Err(fault(span, format!("unexpected {other:?}"))),
            }
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

fn fault(span: Span, message: impl Into<String>) -> YamlError {
    let (line, column) = (span.start.line(), span.start.col() + 1);
    YamlError { line, column, message: message.into() }
}

/// From the parser's events to values.
struct Builder<'a> {
    events: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Value>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), YamlError> {
        match self.events.next() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => {
                let mark = error.marker();
                let (line, column) = (mark.line(), mark.col() + 1);
                Err(YamlError { line, column, message: error.info().to_owned() })
            }
            None => Err(YamlError { line: 0, column: 0, message: "it ends too early".into() }),
        }
    }

    fn value(&mut self, event: Event<'a>, span: Span) -> Result<Value, YamlError> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(fault(span, format!("it has more than {NODES_MAX} values")));
        }
        let (anchor, value) = match event {
            Event::Alias(id) => {
                let known = self.anchors.get(&id).cloned();
                let value =
                    known.ok_or_else(|| fault(span, "an alias inside of what it stands for"))?;
                // Copies count, so that aliases of aliases cannot fill memory.
                self.nodes = self.nodes.saturating_add(weight(&value));
                return Ok(value);
            }
            Event::Scalar(text, ScalarStyle::Plain, anchor, None) => (anchor, plain(&text)),
            Event::Scalar(text, _, anchor, _) => (anchor, Value::Text(text.into_owned())),
            Event::SequenceStart(_, anchor, _) => (anchor, Value::List(self.sequence()?)),
            Event::MappingStart(_, anchor, _) => (anchor, Value::Map(self.mapping()?)),
            other => return Err(fault(span, format!("unexpected {other:?}"))),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn sequence(&mut self) -> Result<Vec<Value>, YamlError> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(items);
            }
            items.push(self.value(event, span)?);
        }
    }

    /// Of a key that is given twice the last one counts, at the place of the
    /// first, as in Python.
    fn mapping(&mut self) -> Result<Vec<(String, Value)>, YamlError> {
        let mut entries: Vec<(String, Value)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(entries);
            }
            let key = self.value(event, span)?;
            if matches!(key, Value::List(_) | Value::Map(_)) {
                return Err(fault(span, "a list or a map cannot be a key"));
            }
            let (event, span) = self.next()?;
            let value = self.value(event, span)?;
            let key = key.text();
            match entries.iter_mut().find(|(known, _)| *known == key) {
                Some((_, old)) => *old = value,
                None => entries.push((key, value)),
            }
        }
    }
}

fn weight(value: &Value) -> usize {
    match value {
        Value::List(items) => items.iter().map(weight).sum::<usize>() + 1,
        Value::Map(entries) => entries.iter().map(|(_, value)| weight(value)).sum::<usize>() + 1,
        _ => 1,
    }
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
        let lists: String =
            (1..40).map(|n| format!("l{n}: &l{n} [*l{0}, *l{0}]\n", n - 1)).collect();
        let error = Value::parse(&format!("l0: &l0 x\n{lists}")).unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
    }
}
