//! From parser events to nodes: anchors, merge keys, tags, duplicate keys.

use std::{borrow::Cow, collections::HashMap};

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, StrInput, Tag};

use super::{
    Node, Position, Value,
    scalar::{self, Plain},
};

/// Nodes that a spec may expand to through aliases. Real specs have hundreds;
/// the limit stops documents that double with every line.
const NODES_MAX: usize = 1_000_000;

/// Why a document cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct YamlError {
    /// Where.
    pub at: Position,
    /// What.
    pub message: String,
    /// What may help.
    pub hint: Option<String>,
}

fn error(at: Position, message: impl Into<String>) -> YamlError {
    YamlError { at, message: message.into(), hint: None }
}

/// A document and what was odd about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The root; an empty file is null.
    pub root: Node,
    /// Keys that were given twice in one mapping: the key, and where again.
    pub duplicates: Vec<(String, Position)>,
}

/// Reads one document.
///
/// # Errors
/// When it is no YAML, has more than one document, or holds something that the
/// safe loader does not construct.
pub fn read(text: &str) -> Result<Document, YamlError> {
    let mut options = Options::default();
    // Another crate of the program may have turned them on for all.
    options.set_emit_comments(false);
    let mut builder = Builder {
        events: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        nodes: 0,
        duplicates: Vec::new(),
    };
    let mut root = None;
    loop {
        let (event, span) = builder.next()?;
        match event {
            Event::StreamEnd => break,
            Event::StreamStart | Event::DocumentEnd => {}
            Event::DocumentStart(..) if root.is_none() => {
                let (event, span) = builder.next()?;
                root = Some(builder.node(event, span)?.node()?);
            }
            Event::DocumentStart(..) => {
                return Err(error(position(span), "a second document begins here"));
            }
            other => return Err(error(position(span), format!("unexpected {other:?}"))),
        }
    }
    let root = root.unwrap_or(Node { at: Position { line: 1, column: 1 }, value: Value::Null });
    Ok(Document { root, duplicates: builder.duplicates })
}

fn position(span: Span) -> Position {
    Position { line: span.start.line(), column: span.start.col() + 1 }
}

struct Builder<'a> {
    events: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Item>,
    nodes: usize,
    duplicates: Vec<(String, Position)>,
}

/// A node, or a mark that only has a meaning as a key.
#[derive(Debug, Clone)]
struct Item {
    at: Position,
    plain: Plain,
    /// How many nodes it consists of.
    weight: usize,
}

impl Item {
    fn node(self) -> Result<Node, YamlError> {
        match self.plain {
            Plain::Value(value) => Ok(Node { at: self.at, value }),
            Plain::Merge => Err(error(self.at, "`<<` is only allowed as a key")),
            Plain::Default => Err(error(self.at, "a plain `=` has no value; put it in quotes")),
        }
    }
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), YamlError> {
        match self.events.next() {
            Some(Ok(next)) => Ok(next),
            Some(Err(fault)) => {
                let mark = fault.marker();
                let at = Position { line: mark.line(), column: mark.col() + 1 };
                Err(error(at, fault.info()))
            }
            None => Err(error(Position::default(), "the file ends too early")),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span) -> Result<Item, YamlError> {
        let at = position(span);
        let before = self.nodes;
        self.count(at, 1)?;
        let (anchor, plain) = match event {
            Event::Alias(id) => {
                let item = self
                    .anchors
                    .get(&id)
                    .cloned()
                    .ok_or_else(|| error(at, "an alias inside of what it stands for"))?;
                self.count(at, item.weight)?;
                return Ok(Item { at, ..item });
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = scalar_of(&text, style, tag.as_deref(), at)?;
                (anchor, plain)
            }
            Event::SequenceStart(_, anchor, tag) => {
                let items = self.sequence()?;
                (anchor, Plain::Value(collection(Value::List(items), tag.as_deref(), at)?))
            }
            Event::MappingStart(_, anchor, tag) => {
                let entries = self.mapping()?;
                (anchor, Plain::Value(collection(Value::Map(entries), tag.as_deref(), at)?))
            }
            other => return Err(error(at, format!("unexpected {other:?}"))),
        };
        let item = Item { at, plain, weight: self.nodes - before };
        if anchor != 0 {
            self.anchors.insert(anchor, item.clone());
        }
        Ok(item)
    }

    fn count(&mut self, at: Position, more: usize) -> Result<(), YamlError> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > NODES_MAX {
            return Err(error(at, format!("the aliases expand to more than {NODES_MAX} nodes")));
        }
        Ok(())
    }

    fn sequence(&mut self) -> Result<Vec<Node>, YamlError> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(items);
            }
            items.push(self.node(event, span)?.node()?);
        }
    }

    fn mapping(&mut self) -> Result<Vec<(Node, Node)>, YamlError> {
        let mut merged: Vec<(Node, Node)> = Vec::new();
        let mut own: Vec<(Node, Node)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let key = self.node(event, span)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span)?.node()?;
            if matches!(key.plain, Plain::Merge) {
                merged.extend(merge(value)?);
                continue;
            }
            let key = match key.plain {
                // As a key, the safe loader takes `=` for the text.
                Plain::Default => Node { at: key.at, value: Value::Text("=".into()) },
                _ => key.node()?,
            };
            if matches!(key.value, Value::List(_) | Value::Map(_)) {
                return Err(YamlError {
                    hint: Some("a template needs quotes: \"{{ name }}\"".into()),
                    ..error(key.at, format!("{} cannot be a key", key.value.kind()))
                });
            }
            own.push((key, value));
        }
        let mut entries: Vec<(Node, Node)> = Vec::new();
        for (key, value) in merged {
            set(&mut entries, key, value);
        }
        for (index, (key, _)) in own.iter().enumerate() {
            if own[..index].iter().any(|(other, _)| same_key(other, key)) {
                self.duplicates.push((key.repr(), key.at));
            }
        }
        for (key, value) in own {
            set(&mut entries, key, value);
        }
        Ok(entries)
    }
}

/// Python takes keys that compare equal for one: `1` and `true` too.
fn same_key(a: &Node, b: &Node) -> bool {
    let number = |node: &Node| match node.value {
        Value::Bool(truth) => Some(i64::from(truth)),
        Value::Int(number) => Some(number),
        _ => None,
    };
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a.value == b.value,
    }
}

fn set(entries: &mut Vec<(Node, Node)>, key: Node, value: Node) {
    match entries.iter_mut().find(|(other, _)| same_key(other, &key)) {
        Some((_, old)) => *old = value,
        None => entries.push((key, value)),
    }
}

/// The entries that a merge key adds; of a list, earlier mappings win.
fn merge(value: Node) -> Result<Vec<(Node, Node)>, YamlError> {
    match value.value {
        Value::Map(entries) => Ok(entries),
        Value::List(items) => {
            let mut entries = Vec::new();
            for item in items.into_iter().rev() {
                let Value::Map(more) = item.value else {
                    return Err(error(item.at, "only mappings can be merged"));
                };
                entries.extend(more);
            }
            Ok(entries)
        }
        _ => Err(error(value.at, "only mappings can be merged")),
    }
}

fn scalar_of(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
    at: Position,
) -> Result<Plain, YamlError> {
    let wrong = |reason: String| error(at, reason);
    let value = |value| Ok(Plain::Value(value));
    let Some(tag) = tag else {
        return if style == ScalarStyle::Plain {
            scalar::resolve(text).map_err(wrong)
        } else {
            value(Value::Text(text.to_owned()))
        };
    };
    match core_name(tag, "str").as_ref() {
        "str" => value(Value::Text(text.to_owned())),
        "null" => value(Value::Null),
        "bool" => match scalar::bool_of(&text.to_ascii_lowercase()) {
            Some(truth) => value(Value::Bool(truth)),
            None => Err(wrong(format!("`{text}` is no boolean"))),
        },
        "int" if scalar::is_int(text) => scalar::int(text).map_err(wrong).map(Plain::Value),
        "int" => Err(wrong(format!("`{text}` is no integer"))),
        "float" if scalar::is_float(text) || scalar::is_int(text) => {
            scalar::float(text).map_err(wrong).map(Plain::Value)
        }
        "float" => Err(wrong(format!("`{text}` is no float"))),
        "timestamp" => value(Value::Other("a date", text.to_owned())),
        "binary" => value(Value::Other("bytes", text.to_owned())),
        _ => Err(unknown_tag(tag, at)),
    }
}

fn collection(value: Value, tag: Option<&Tag>, at: Position) -> Result<Value, YamlError> {
    let Some(tag) = tag else { return Ok(value) };
    match (core_name(tag, "seq").as_ref(), &value) {
        ("map" | "seq", _) => Ok(value),
        ("set", Value::Map(_)) => Ok(Value::Other("a set", super::python::repr(&value))),
        ("omap" | "pairs", Value::List(_)) => Ok(value),
        _ => Err(unknown_tag(tag, at)),
    }
}

/// The name of a tag of YAML's own; a lone `!` means the type that the node has
/// without any tag.
fn core_name<'t>(tag: &'t Tag, lone: &'static str) -> Cow<'t, str> {
    let alone = tag.suffix().is_empty();
    tag.suffix_in_namespace("tag:yaml.org,2002:").unwrap_or(if alone { lone } else { "" }.into())
}

fn unknown_tag(tag: &Tag, at: Position) -> YamlError {
    error(at, format!("nothing is known of the tag `{}`", tag.original()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repr(text: &str) -> String {
        match read(text) {
            Ok(document) => document.root.repr(),
            Err(error) => format!("{} {error}", error.at),
        }
    }

    #[test]
    fn plain_scalars_follow_yaml_1_1() {
        for (text, meaning) in [
            ("0755", "493"),
            ("0o755", "'0o755'"),
            ("08", "'08'"),
            ("0x1F", "31"),
            ("-0b101", "-5"),
            ("1_000", "1000"),
            ("1:30", "90"),
            ("1:61", "'1:61'"),
            ("12:30:45", "45045"),
            ("1.5", "1.5"),
            ("1e3", "'1e3'"),
            ("1.0e+3", "1000.0"),
            (".5", "0.5"),
            ("-.inf", "-inf"),
            ("1:30.5", "90.5"),
            ("yes", "True"),
            ("Off", "False"),
            ("oN", "'oN'"),
            ("y", "'y'"),
            ("~", "None"),
            ("Null", "None"),
            ("4G", "'4G'"),
            ("100%", "'100%'"),
            ("2001-12-14", "2001-12-14"),
            ("'0755'", "'0755'"),
            ("!!str 0755", "'0755'"),
            ("!!int '0755'", "493"),
        ] {
            assert_eq!(repr(text), meaning, "{text}");
        }
    }

    #[test]
    fn anchors_merges_and_duplicates() {
        let text = "a: &x {k: 1, l: 2}\nb:\n  <<: *x\n  l: 3\nc: 1\nc: 2\n";
        let document = read(text).unwrap();
        assert_eq!(document.root.repr(), "{'a': {'k': 1, 'l': 2}, 'b': {'k': 1, 'l': 3}, 'c': 2}");
        assert_eq!(document.duplicates, [("'c'".to_owned(), Position { line: 6, column: 1 })]);
    }

    #[test]
    fn places_are_those_of_the_source() {
        let document = read("steps:\n  # comment\n  - mkimg: x\n    size: 4G\n").unwrap();
        let Value::List(steps) = &document.root.get("steps").unwrap().value else { panic!() };
        assert_eq!(steps[0].at, Position { line: 3, column: 5 });
        assert_eq!(steps[0].get("size").unwrap().at, Position { line: 4, column: 11 });
    }

    #[test]
    fn faults_have_a_place() {
        assert_eq!(repr("a: {{ b }}"), "1:5 a mapping cannot be a key");
        assert_eq!(repr("a: =\n"), "1:4 a plain `=` has no value; put it in quotes");
        assert_eq!(repr("--- 1\n--- 2\n"), "2:1 a second document begins here");
        assert_eq!(repr("a: !x 1"), "1:7 nothing is known of the tag `!x`");
        assert!(repr("a: [1").starts_with("1:"), "{}", repr("a: [1"));
        assert_eq!(repr(""), "None");
    }

    #[test]
    fn documents_cannot_explode() {
        let mut text = "a0: &a0 [x]\n".to_owned();
        for level in 1..30 {
            let before = level - 1;
            let line = format!("a{level}: &a{level} [*a{before}, *a{before}, *a{before}]\n");
            text.push_str(&line);
        }
        assert!(repr(&text).contains("more than 1000000 nodes"), "{}", repr(&text));
    }
}
