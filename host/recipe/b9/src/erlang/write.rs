//! Prints Erlang terms in B9's layout.

use super::Term;
use crate::{
    layout::{Doc, Member},
    number::show_float,
};

/// Reserved words, which must be quoted as atoms.
const RESERVED: [&str; 28] = [
    "after", "and", "andalso", "band", "begin", "bnot", "bor", "bsl", "bsr", "bxor", "case",
    "catch", "cond", "div", "end", "fun", "if", "let", "maybe", "not", "of", "or", "orelse",
    "receive", "rem", "try", "when", "xor",
];

/// The term with its dot, without a final newline.
pub(crate) fn write(term: &Term) -> String {
    doc(term).between("", ".").render()
}

fn doc(term: &Term) -> Doc {
    match term {
        Term::String(text) => Doc::text(format!("\"{}\"", escaped(text, '"'))),
        Term::Float(number) => Doc::text(show_float(*number)),
        Term::Integer(number) => Doc::text(number.to_string()),
        Term::Atom(text) => Doc::text(atom(text)),
        Term::Char(c) => Doc::text(format!("${}", escaped(&c.to_string(), '\''))),
        Term::Binary(text) if text.is_empty() => Doc::text("<<>>"),
        Term::Binary(text) => Doc::text(format!("<<\"{}\">>", escaped(text, '"'))),
        Term::List(items) => bracketed(items, "[", "]"),
        Term::Tuple(items) => bracketed(items, "{", "}"),
    }
}

fn bracketed(items: &[Term], open: &str, close: &str) -> Doc {
    let last = items.len().saturating_sub(1);
    let members = items.iter().enumerate().map(|(index, item)| {
        Member::new(doc(item).between("", if index == last { "" } else { "," }))
    });
    Doc::Group(members.collect()).between(open, close)
}

fn atom(text: &str) -> String {
    let bare = text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '@' || c == '_')
        && !RESERVED.contains(&text);
    if bare { text.to_owned() } else { format!("'{}'", escaped(text, '\'')) }
}

fn escaped(text: &str, quote: char) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            ' '..='\x7e' => out.push(c),
            c => {
                let code = format!("\\x{{{:x}}}", u32::from(c));
                out.push_str(&code);
            }
        }
    }
    out
}
