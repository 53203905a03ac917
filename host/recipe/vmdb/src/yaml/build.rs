//! Builds values from the tree of a document: merge keys, tags, duplicate keys.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet, hash_map::Entry},
};

use yaml_tree::{Content, Tag};

use super::{
    Node, Position, Value,
    scalar::{self, Plain},
};

/// Why a document cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct YamlError {
    /// The position.
    pub at: Position,
    /// The message.
    pub message: String,
    /// A hint for the user.
    pub hint: Option<String>,
}

fn error(at: Position, message: impl Into<String>) -> YamlError {
    YamlError { at, message: message.into(), hint: None }
}

/// A document with the oddities found in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The root; null for an empty file.
    pub root: Node,
    /// Duplicate keys: the key, and the position of its second occurrence.
    pub duplicates: Vec<(String, Position)>,
    /// Positions of the top-level keys whose values contain an anchor.
    pub anchored: Vec<Position>,
}

/// Reads one document.
///
/// # Errors
/// Fails if the text is not YAML, has more than one document, or contains something that the safe
/// loader does not construct.
pub fn read(text: &str) -> Result<Document, YamlError> {
    let mut builder = Builder::default();
    let mut anchored = Vec::new();
    let root = match yaml_tree::read(text)? {
        Some(tree) => {
            if let Content::Map(entries) = &*tree.content {
                let named = entries.iter().filter(|(_, value)| value.is_anchored);
                anchored.extend(named.map(|(key, _)| key.at));
            }
            builder.item(&tree)?.node()?
        }
        None => Node { at: Position { line: 1, column: 1 }, value: Value::Null },
    };
    Ok(Document { root, duplicates: builder.duplicates, anchored })
}

impl From<yaml_tree::YamlError> for YamlError {
    fn from(fault: yaml_tree::YamlError) -> Self {
        error(fault.at, fault.message)
    }
}

#[derive(Default)]
struct Builder {
    duplicates: Vec<(String, Position)>,
}

/// A node, or a mark that has a meaning only as a key.
#[derive(Debug)]
struct Item {
    at: Position,
    plain: Plain,
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

impl Builder {
    fn item(&mut self, tree: &yaml_tree::Node) -> Result<Item, YamlError> {
        let (at, tag) = (tree.at, tree.tag.as_deref());
        let plain = match &*tree.content {
            Content::Scalar { text, plain } => scalar_of(text, *plain, tag, at)?,
            Content::List(items) => {
                let items =
                    items.iter().map(|item| self.item(item)?.node()).collect::<Result<_, _>>();
                Plain::Value(collection(Value::List(items?), tag, at)?)
            }
            Content::Map(entries) => {
                Plain::Value(collection(Value::Map(self.mapping(entries)?), tag, at)?)
            }
        };
        Ok(Item { at, plain })
    }

    fn mapping(
        &mut self,
        entries: &[(yaml_tree::Node, yaml_tree::Node)],
    ) -> Result<Vec<(Node, Node)>, YamlError> {
        let mut merged: Vec<(Node, Node)> = Vec::new();
        let mut own: Vec<(Node, Node)> = Vec::new();
        for (key, value) in entries {
            let key = self.item(key)?;
            let value = self.item(value)?.node()?;
            if matches!(key.plain, Plain::Merge) {
                merged.extend(merge(value)?);
                continue;
            }
            let key = match key.plain {
                // As a key, the safe loader reads `=` as text.
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
        let mut entries = Entries::default();
        for (key, value) in merged {
            entries.set(key, value);
        }
        let mut seen = HashSet::new();
        for (key, _) in &own {
            if !seen.insert(Identity::of(key)) {
                self.duplicates.push((key.repr(), key.at));
            }
        }
        for (key, value) in own {
            entries.set(key, value);
        }
        Ok(entries.all)
    }
}

/// The identity of a key: Python treats keys that compare equal as one key, `1` and `true` too.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Identity {
    Number(i64),
    Float(u64),
    Text(String),
    Other(&'static str, String),
}

impl Identity {
    fn of(key: &Node) -> Self {
        match &key.value {
            Value::Bool(truth) => Self::Number(i64::from(*truth)),
            Value::Int(number) => Self::Number(*number),
            // Positive and negative zero are equal.
            Value::Float(number) => Self::Float((number + 0.0).to_bits()),
            Value::Text(text) => Self::Text(text.clone()),
            Value::Other(kind, text) => Self::Other(kind, text.clone()),
            // Lists and mappings cannot be keys.
            other => Self::Other(other.kind(), String::new()),
        }
    }
}

/// A mapping under construction.
#[derive(Default)]
struct Entries {
    all: Vec<(Node, Node)>,
    places: HashMap<Identity, usize>,
}

impl Entries {
    /// Sets a key. If the key is repeated the last value wins, at the position of the first.
    fn set(&mut self, key: Node, value: Node) {
        match self.places.entry(Identity::of(&key)) {
            Entry::Occupied(place) => self.all[*place.get()].1 = value,
            Entry::Vacant(place) => {
                place.insert(self.all.len());
                self.all.push((key, value));
            }
        }
    }
}

/// The entries that a merge key adds; in a list, earlier mappings win.
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

fn scalar_of(text: &str, plain: bool, tag: Option<&Tag>, at: Position) -> Result<Plain, YamlError> {
    let wrong = |reason: String| error(at, reason);
    let value = |value| Ok(Plain::Value(value));
    let Some(tag) = tag else {
        return if plain {
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
            None => Err(wrong(format!("`{text}` is not a boolean"))),
        },
        "int" if scalar::is_int(text) => scalar::int(text).map_err(wrong).map(Plain::Value),
        "int" => Err(wrong(format!("`{text}` is not an integer"))),
        "float" if scalar::is_float(text) || scalar::is_int(text) => {
            scalar::float(text).map_err(wrong).map(Plain::Value)
        }
        "float" => Err(wrong(format!("`{text}` is not a float"))),
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

/// The name of a tag of YAML itself; a lone `!` means the type that the node has without a tag.
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
        let long = format!("a: &x \"{}\"\nb: [{}]\n", "x".repeat(1 << 20), "*x, ".repeat(1500));
        for text in [text, long] {
            let said = memory_bound::within(yaml_tree::EXPANDED_MAX_BYTES as u64, || repr(&text));
            assert!(said.contains("expands to more than 67108864 bytes"), "{said}");
        }
        // The largest document that is accepted.
        let much = format!("a: &x [{}]\nb: [{}]\n", "1,".repeat(4000), "*x, ".repeat(100));
        memory_bound::within(yaml_tree::EXPANDED_MAX_BYTES as u64, || read(&much).unwrap());
        let keys: String = (0..100_000).map(|n| format!("k{n}: 1\n")).collect();
        let document = read(&keys).unwrap();
        assert!(document.duplicates.is_empty() && document.root.get("k99999").is_some());
    }
}
