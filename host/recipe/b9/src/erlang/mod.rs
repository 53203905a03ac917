//! Erlang terms as B9 parses, merges and prints them.

mod merge;
mod read;
mod write;

pub(crate) use merge::merge;
pub(crate) use read::read;
pub(crate) use write::write;

use std::cmp::Ordering;

use crate::{
    haskell::{Shown, terms},
    number::Integer,
    place::Text,
};

/// A term. Terms are ordered by kind first, in the order of these variants.
#[derive(Debug, Clone, PartialEq)]
pub enum Term {
    /// A string.
    String(String),
    /// A float; always finite.
    Float(f64),
    /// An integer.
    Integer(Integer),
    /// An atom.
    Atom(String),
    /// A character.
    Char(char),
    /// A binary that is a string.
    Binary(String),
    /// A list.
    List(Vec<Term>),
    /// A tuple.
    Tuple(Vec<Term>),
}

impl Eq for Term {}

impl Term {
    fn kind(&self) -> u8 {
        match self {
            Self::String(_) => 0,
            Self::Float(_) => 1,
            Self::Integer(_) => 2,
            Self::Atom(_) => 3,
            Self::Char(_) => 4,
            Self::Binary(_) => 5,
            Self::List(_) => 6,
            Self::Tuple(_) => 7,
        }
    }
}

impl Ord for Term {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Float(a), Self::Float(b)) => a.total_cmp(b),
            (Self::Integer(a), Self::Integer(b)) => a.cmp(b),
            (Self::Char(a), Self::Char(b)) => a.cmp(b),
            (Self::String(a), Self::String(b))
            | (Self::Atom(a), Self::Atom(b))
            | (Self::Binary(a), Self::Binary(b)) => a.cmp(b),
            (Self::List(a), Self::List(b)) | (Self::Tuple(a), Self::Tuple(b)) => a.cmp(b),
            _ => self.kind().cmp(&other.kind()),
        }
    }
}

impl PartialOrd for Term {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

terms! {
    /// A term as written in B9's files.
    pub enum Spelled = "SimpleErlangTerm" {
        /// A string.
        String = "ErlString"(text: Text),
        /// A float.
        Float = "ErlFloat"(number: f64),
        /// An integer.
        Integer = "ErlNatural"(number: Integer),
        /// An atom.
        Atom = "ErlAtom"(text: Text),
        /// A character.
        Char = "ErlChar"(c: char),
        /// A binary that is a string.
        Binary = "ErlBinary"(text: Text),
        /// A list.
        List = "ErlList"(items: Vec<Spelled>),
        /// A tuple.
        Tuple = "ErlTuple"(items: Vec<Spelled>),
    }
}

impl From<Spelled> for Term {
    fn from(spelled: Spelled) -> Self {
        let all = |items: Vec<Spelled>| items.into_iter().map(Self::from).collect();
        match spelled {
            Spelled::String(text) => Self::String(text.text),
            Spelled::Float(number) => Self::Float(number),
            Spelled::Integer(number) => Self::Integer(number),
            Spelled::Atom(text) => Self::Atom(text.text),
            Spelled::Char(c) => Self::Char(c),
            Spelled::Binary(text) => Self::Binary(text.text),
            Spelled::List(items) => Self::List(all(items)),
            Spelled::Tuple(items) => Self::Tuple(all(items)),
        }
    }
}

impl crate::haskell::Term for Term {
    fn type_name() -> String {
        Spelled::type_name()
    }

    fn read(value: crate::haskell::Value<'_>) -> Result<Self, crate::place::Fault> {
        Spelled::read(value).map(Self::from)
    }

    fn shown(&self) -> Shown {
        let text = |text: &str| Shown::text(text);
        let (name, argument) = match self {
            Self::String(string) => ("ErlString", text(string)),
            Self::Float(number) => ("ErlFloat", number.shown()),
            Self::Integer(number) => ("ErlNatural", number.shown()),
            Self::Atom(atom) => ("ErlAtom", text(atom)),
            Self::Char(c) => ("ErlChar", Shown::char(*c)),
            Self::Binary(binary) => ("ErlBinary", text(binary)),
            Self::List(items) => ("ErlList", items.shown()),
            Self::Tuple(items) => ("ErlTuple", items.shown()),
        };
        Shown::Constructor(name, vec![argument])
    }
}
