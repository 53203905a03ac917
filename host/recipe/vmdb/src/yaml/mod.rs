//! YAML as vmdb2's loader reads it: YAML 1.1 by the rules of `PyYAML`'s safe
//! loader, with the place of every node.
//!
//! The syntax is read by a YAML 1.2 parser; what a plain word means (`0755` is
//! octal, `on` is true, `12:30` is a number) is decided in [`scalar`], because
//! there the two versions differ.

mod build;
mod python;
mod scalar;

pub use build::{YamlError, read};

pub use yaml_tree::Position;

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub at: Position,
    /// What it is.
    pub value: Value,
}

/// What Python would hold after loading.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`.
    Null,
    /// `bool`.
    Bool(bool),
    /// `int`.
    Int(i64),
    /// `float`.
    Float(f64),
    /// `str`.
    Text(String),
    /// `list`.
    List(Vec<Node>),
    /// `dict`, in order of the keys' first appearance.
    Map(Vec<(Node, Node)>),
    /// A type that no step takes, with what it is: a date, bytes, a set.
    Other(&'static str, String),
}

impl Value {
    /// The value's type in words for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
            Self::Other(kind, _) => kind,
        }
    }
}

impl Node {
    /// The text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a key of a mapping.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => {
                entries.iter().find(|(name, _)| name.text() == Some(key)).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    /// The value as Python prints it with `repr`.
    #[must_use]
    pub fn repr(&self) -> String {
        python::repr(&self.value)
    }
}

/// Text as Python prints it with `repr`.
#[must_use]
pub fn repr_text(text: &str) -> String {
    python::repr_text(text)
}
