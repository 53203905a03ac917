//! Parses YAML documents into trees, within limits.
//!
//! The front ends use dialects of YAML that differ in the meaning of plain words, in key equality
//! and in merging. This crate has their common part: it turns parser events into nodes with
//! positions, resolves anchors and aliases, and enforces limits, since recipes are untrusted.
//!
//! An alias is not copied here; it shares the node. It still counts as a copy, with all its text,
//! because a dialect makes one: a document is refused if its dialect could need more than
//! [`EXPANDED_MAX_BYTES`] of memory.

mod nearest;

use std::{collections::HashMap, fmt, rc::Rc};

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, StrInput};

pub use granit_parser::Tag;
pub use nearest::nearest;

/// Maximum size of a document in bytes. Real ones have a few kilobytes; a recipe with embedded
/// files has some hundred.
pub const TEXT_MAX_BYTES: usize = 16 << 20;

/// Maximum memory that a document may expand to through aliases, in bytes: four times the largest
/// text, and some hundred thousand nodes.
pub const EXPANDED_MAX_BYTES: usize = 64 << 20;

/// Memory charged for a node beside its text, in bytes: its position, its value, and its share of
/// the containing list, in the larger of the dialects.
const NODE_BYTES: usize = 128;

/// A position in the text, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// Number of the line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Why a document cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct YamlError {
    /// The position.
    pub at: Position,
    /// The message.
    pub message: String,
}

impl YamlError {
    /// An error at a position.
    #[must_use]
    pub fn new(at: Position, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }
}

/// A node. Cloning is cheap, as copies share their content.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its start; for an alias, the position of the alias.
    pub at: Position,
    /// Its tag, if it has one.
    pub tag: Option<Rc<Tag>>,
    /// The content of the node: a scalar, a list or a map.
    pub content: Rc<Content>,
    /// Whether it, or a node in it, defines an anchor; using an alias does not count.
    pub is_anchored: bool,
    /// The memory charged for it and everything below it, in bytes.
    weight: usize,
}

/// The content of a node.
#[derive(Debug)]
pub enum Content {
    /// A plain word or a quoted text.
    Scalar {
        /// The text, without quotes and escapes.
        text: String,
        /// Whether it is written without quotes.
        plain: bool,
    },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in text order. Keys may be any nodes, and may repeat.
    Map(Vec<(Node, Node)>),
}

/// Reads one document; `None` for an empty text.
///
/// # Errors
/// Fails if the text is not YAML, is more than one document, or exceeds the limits.
pub fn read(text: &str) -> Result<Option<Node>, YamlError> {
    let start = Position { line: 1, column: 1 };
    if text.len() > TEXT_MAX_BYTES {
        let message = format!("the text has more than {TEXT_MAX_BYTES} bytes");
        return Err(YamlError::new(start, message));
    }
    let mut options = Options::default();
    // Cargo features of another crate may have enabled comments.
    options.set_emit_comments(false);
    let mut builder = Builder {
        events: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        taken: 0,
    };
    let mut root = None;
    loop {
        let (event, span) = builder.next()?;
        match event {
            Event::StreamEnd => return Ok(root),
            Event::StreamStart | Event::DocumentEnd => {}
            Event::DocumentStart(..) if root.is_none() => {
                let (event, span) = builder.next()?;
                root = Some(builder.node(event, span)?);
            }
            Event::DocumentStart(..) => {
                return Err(YamlError::new(position(span), "a second document begins here"));
            }
            other => {
                return Err(YamlError::new(position(span), format!("unexpected {other:?}")));
            }
        }
    }
}

fn position(span: Span) -> Position {
    Position { line: span.start.line(), column: span.start.col() + 1 }
}

struct Builder<'a> {
    events: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    /// The memory charged for all nodes so far, in bytes.
    taken: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), YamlError> {
        match self.events.next() {
            Some(Ok(next)) => Ok(next),
            Some(Err(fault)) => {
                let mark = fault.marker();
                let at = Position { line: mark.line(), column: mark.col() + 1 };
                Err(YamlError::new(at, fault.info()))
            }
            None => Err(YamlError::new(Position::default(), "the file ends too early")),
        }
    }

    /// The depth of recursion is bounded by the parser's limit on nesting, 255.
    fn node(&mut self, event: Event<'a>, span: Span) -> Result<Node, YamlError> {
        let at = position(span);
        let before = self.taken;
        let anchors = self.anchors.len();
        let (anchor, tag, content) = match event {
            Event::Alias(id) => {
                let known =
                    self.anchors.get(&id).cloned().ok_or_else(|| {
                        YamlError::new(at, "an alias inside of what it stands for")
                    })?;
                self.take(at, known.weight)?;
                return Ok(Node { at, is_anchored: false, ..known });
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.take(at, NODE_BYTES + text.len())?;
                let plain = style == ScalarStyle::Plain;
                (anchor, tag, Content::Scalar { text: text.into_owned(), plain })
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.take(at, NODE_BYTES)?;
                (anchor, tag, Content::List(self.sequence()?))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.take(at, NODE_BYTES)?;
                (anchor, tag, Content::Map(self.mapping()?))
            }
            other => return Err(YamlError::new(at, format!("unexpected {other:?}"))),
        };
        let tag = tag.map(|tag| Rc::new(tag.into_owned()));
        let is_anchored = anchor != 0 || self.anchors.len() > anchors;
        let (content, weight) = (Rc::new(content), self.taken - before);
        let node = Node { at, tag, content, is_anchored, weight };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn take(&mut self, at: Position, bytes: usize) -> Result<(), YamlError> {
        self.taken = self.taken.saturating_add(bytes);
        if self.taken > EXPANDED_MAX_BYTES {
            let message = format!(
                "with its aliases the text expands to more than {EXPANDED_MAX_BYTES} bytes"
            );
            return Err(YamlError::new(at, message));
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
            items.push(self.node(event, span)?);
        }
    }

    fn mapping(&mut self) -> Result<Vec<(Node, Node)>, YamlError> {
        let mut entries = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(entries);
            }
            let key = self.node(event, span)?;
            let (event, span) = self.next()?;
            entries.push((key, self.node(event, span)?));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn complaint(text: &str) -> String {
        // The tree itself: nodes of the text, twice while lists grow.
        memory_bound::within(EXPANDED_MAX_BYTES as u64, || match read(text) {
            Ok(_) => "no complaint".into(),
            Err(error) => format!("{} {error}", error.at),
        })
    }

    #[test]
    fn places_tags_and_aliases() {
        let root = read("a: &x !t [1]\nb: *x\n").unwrap().unwrap();
        let Content::Map(entries) = &*root.content else { panic!("{root:?}") };
        let (first, again) = (&entries[0].1, &entries[1].1);
        assert_eq!(first.at, Position { line: 1, column: 10 });
        assert_eq!(again.at, Position { line: 2, column: 4 });
        assert!(Rc::ptr_eq(&first.content, &again.content));
        assert_eq!(again.tag.as_ref().unwrap().original(), "!t");
        assert!(read("# nothing\n").unwrap().is_none());
    }

    #[test]
    fn aliases_of_long_texts_and_of_aliases_are_counted() {
        let long = format!("a: &x \"{}\"\nb: [{}]\n", "x".repeat(1 << 20), "*x, ".repeat(1500));
        assert!(complaint(&long).contains("expands to more than 67108864 bytes"));
        let level = |n| format!("a{n}: &a{n} [*a{0}, *a{0}, *a{0}]\n", n - 1);
        let deep = "a0: &a0 [x]\n".to_owned() + &(1..40).map(level).collect::<String>();
        assert!(complaint(&deep).contains("expands to more than 67108864 bytes"));
        let endless = complaint("a: &x [*x]\n");
        assert!(endless.contains("an alias inside of what it stands for"), "{endless}");
    }

    #[test]
    fn depth_and_length_are_bounded() {
        assert!(complaint(&"[".repeat(60_000)).contains("recursion limit"));
        assert!(complaint(&"- ".repeat(60_000)).contains("recursion limit"));
        let nodes = format!("[{}]", "1, ".repeat(1 << 20));
        assert!(complaint(&nodes).contains("expands to more than"));
        assert!(complaint(&"x".repeat(TEXT_MAX_BYTES + 1)).contains("more than 16777216 bytes"));
    }

    #[test]
    fn faults_have_a_place() {
        assert_eq!(complaint("--- 1\n--- 2\n"), "2:1 a second document begins here");
        assert!(complaint("a: [1").starts_with("1:"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_tree_or_an_error(
            text in "([-?:,\\[\\]{}#&*!|>'\"% \n]|[a-c0]|&x |\\*x|- |: |<<){0,60}",
        ) {
            let _ = read(&text);
        }
    }
}
