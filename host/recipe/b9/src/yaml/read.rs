//! Builds a document from parser events: anchors, merge keys, tags; the last of duplicate keys
//! wins.

use std::collections::{BTreeMap, HashMap};

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, StrInput, Tag};

use super::{Yaml, scalar};
use crate::place::Position;

/// Maximum nodes of a document after expanding aliases. Real ones have hundreds; the limit stops
/// documents that double with every line.
const NODES_MAX: usize = 1_000_000;

/// Maximum nesting of a document; each level uses stack.
const DEPTH_MAX: usize = 200;

/// Why a document cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {}, column {}: {message}", at.line, at.column)]
pub(crate) struct YamlError {
    /// The position, counted from 1.
    pub(crate) at: Position,
    /// The message.
    pub(crate) message: String,
}

fn error(at: Position, message: impl Into<String>) -> YamlError {
    YamlError { at, message: message.into() }
}

/// Parses a text of one document; an empty text is null.
///
/// # Errors
/// Fails if the text is not YAML, or has more than one document.
pub(crate) fn read(text: &str) -> Result<Yaml, YamlError> {
    let mut options = Options::default();
    // Cargo features of another crate may have enabled comments.
    options.set_emit_comments(false);
    let mut builder = Builder {
        text,
        events: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        nodes: 0,
        depth: 0,
    };
    let mut root = None;
    loop {
        let (event, at) = builder.next()?;
        match event {
            Event::StreamEnd => return Ok(root.map_or(Yaml::Null, |item: Item| item.value)),
            Event::DocumentStart(..) if root.is_some() => {
                return Err(error(at, "Multiple YAML documents encountered"));
            }
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
            event => root = Some(builder.node(event, at)?),
        }
    }
}

fn position(span: Span) -> Position {
    Position { line: span.start.line().max(1), column: span.start.col() + 1 }
}

struct Builder<'a> {
    text: &'a str,
    events: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Item>,
    nodes: usize,
    depth: usize,
}

/// A node, its text if it is a plain scalar, and the number of nodes in it.
#[derive(Debug, Clone)]
struct Item {
    value: Yaml,
    scalar: Option<String>,
    weight: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Position), YamlError> {
        match self.events.next() {
            Some(Ok((event, span))) => Ok((event, position(span))),
            Some(Err(fault)) => {
                let mark = fault.marker();
                let at = Position { line: mark.line().max(1), column: mark.col() + 1 };
                match self.alias_at(at).filter(|_| fault.info().contains("unknown anchor")) {
                    Some(name) => Err(error(at, format!("Unknown alias `{name}`"))),
                    None => Err(error(at, fault.info())),
                }
            }
            None => Err(error(Position { line: 1, column: 1 }, "the document ends too early")),
        }
    }

    /// The name of the alias at a position.
    fn alias_at(&self, at: Position) -> Option<&'a str> {
        let line = self.text.split('\n').nth(at.line - 1)?;
        let (start, _) = line.char_indices().nth(at.column - 1)?;
        let name = line[start..].strip_prefix('*')?;
        let end = name.find(|c: char| c.is_whitespace() || ",[]{}".contains(c));
        Some(&name[..end.unwrap_or(name.len())])
    }

    fn node(&mut self, event: Event<'a>, at: Position) -> Result<Item, YamlError> {
        let before = self.nodes;
        self.count(at, 1)?;
        let (anchor, value, scalar) = match event {
            Event::Alias(id) => {
                let item = self.anchors.get(&id).cloned();
                let item =
                    item.ok_or_else(|| error(at, "an alias inside of what it stands for"))?;
                self.count(at, item.weight)?;
                return Ok(item);
            }
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, scalar_of(&text, style, tag.as_deref()), Some(text.into_owned()))
            }
            Event::SequenceStart(_, anchor, _) => (anchor, self.deeper(at, Self::sequence)?, None),
            Event::MappingStart(_, anchor, _) => (anchor, self.deeper(at, Self::mapping)?, None),
            other => return Err(error(at, format!("unexpected {other:?}"))),
        };
        let item = Item { value, scalar, weight: self.nodes - before };
        if anchor != 0 {
            self.anchors.insert(anchor, item.clone());
        }
        Ok(item)
    }

    fn deeper(
        &mut self,
        at: Position,
        read: fn(&mut Self) -> Result<Yaml, YamlError>,
    ) -> Result<Yaml, YamlError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(error(at, format!("more than {DEPTH_MAX} levels of lists and maps")));
        }
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn count(&mut self, at: Position, more: usize) -> Result<(), YamlError> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > NODES_MAX {
            return Err(error(at, format!("the aliases expand to more than {NODES_MAX} nodes")));
        }
        Ok(())
    }

    fn sequence(&mut self) -> Result<Yaml, YamlError> {
        let mut items = Vec::new();
        loop {
            let (event, at) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Yaml::List(items));
            }
            items.push(self.node(event, at)?.value);
        }
    }

    fn mapping(&mut self) -> Result<Yaml, YamlError> {
        let mut merged: BTreeMap<String, Yaml> = BTreeMap::new();
        let mut own: BTreeMap<String, Yaml> = BTreeMap::new();
        loop {
            let (event, at) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let is_alias = matches!(event, Event::Alias(_));
            let Some(key) = self.node(event, at)?.scalar else {
                let what = if is_alias {
                    "Non-string key alias"
                } else {
                    "Non-string keys are not supported"
                };
                return Err(error(at, what));
            };
            let (event, at) = self.next()?;
            let value = self.node(event, at)?.value;
            match (key.as_str(), value) {
                ("<<", Yaml::Map(more)) => add_missing(&mut merged, more),
                ("<<", Yaml::List(items)) => {
                    for item in items {
                        if let Yaml::Map(more) = item {
                            add_missing(&mut merged, more);
                        }
                    }
                }
                (_, value) => {
                    own.insert(key, value);
                }
            }
        }
        add_missing(&mut own, merged);
        Ok(Yaml::Map(own))
    }
}

fn add_missing(map: &mut BTreeMap<String, Yaml>, more: BTreeMap<String, Yaml>) {
    for (key, value) in more {
        map.entry(key).or_insert(value);
    }
}

/// Quoted scalars and those tagged `!!str` are strings; other tags are ignored.
fn scalar_of(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Yaml {
    let says_string = tag
        .and_then(|tag| tag.suffix_in_namespace("tag:yaml.org,2002:"))
        .is_some_and(|name| name == "str");
    if style == ScalarStyle::Plain && !says_string {
        scalar::resolve(text)
    } else {
        Yaml::Text(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_cannot_explode() {
        let mut text = "a0: &a0 [x]\n".to_owned();
        for level in 1..30 {
            let before = level - 1;
            let line = format!("a{level}: &a{level} [*a{before}, *a{before}, *a{before}]\n");
            text.push_str(&line);
        }
        let error = read(&text).unwrap_err().to_string();
        assert!(error.contains("more than 1000000 nodes"), "{error}");
    }

    #[test]
    fn documents_cannot_exhaust_the_stack() {
        for (open, close) in [("[", "]"), ("{a: ", "}"), ("- ", "")] {
            let deep = |levels: usize| format!("{}1{}", open.repeat(levels), close.repeat(levels));
            assert!(read(&deep(DEPTH_MAX)).is_ok(), "{open}");
            let error = read(&deep(20_000)).unwrap_err().to_string();
            assert!(
                error.contains("levels") || error.contains("depth") || error.contains("recursion"),
                "{error}"
            );
        }
    }

    #[test]
    fn places_are_counted_from_1() {
        let error = read("a: 1\nb: [1, 2\n").unwrap_err();
        assert!(error.at.line >= 2, "{error}");
    }
}
