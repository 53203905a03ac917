//! YAML as vmdb2 loads it: YAML 1.1 by the rules of `PyYAML`'s safe loader, with the position of
//! every node.
//!
//! A YAML 1.2 parser reads the syntax; [`scalar`] resolves plain words (`0755` is octal, `on` is
//! true, `12:30` is a number), because there the two versions differ.

mod build;
mod python;
mod scalar;

pub use build::{YamlError, read};

pub use yaml_tree::Position;

/// A value with its position.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The position at which the value starts.
    pub at: Position,
    /// The value.
    pub value: Value,
}

/// The Python object after loading.
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
    /// A type that no step accepts, with its name: a date, bytes, a set.
    Other(&'static str, String),
}

impl Value {
    /// The name of the value's type, for messages.
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
    /// The text of a string.
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
