//! Terms to be printed: on one line as `show` does, or laid out as pretty-show does.

use super::literal;
use crate::layout::{Doc, Member};

/// An untyped term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shown {
    /// A literal in printed form.
    Literal {
        /// The characters.
        text: String,
        /// Whether it begins with a minus and so needs parentheses as an argument.
        negative: bool,
    },
    /// A constructor with arguments.
    Constructor(&'static str, Vec<Shown>),
    /// A constructor with one named field.
    Record(&'static str, &'static str, Box<Shown>),
    /// A list.
    List(Vec<Shown>),
    /// A tuple.
    Tuple(Vec<Shown>),
}

impl Shown {
    /// A string.
    pub(crate) fn text(text: &str) -> Self {
        Self::Literal { text: literal::show_text(text), negative: false }
    }

    /// A character.
    pub(crate) fn char(c: char) -> Self {
        Self::Literal { text: literal::show_char(c), negative: false }
    }

    /// A number.
    pub(crate) fn number(text: String) -> Self {
        let negative = text.starts_with('-');
        Self::Literal { text, negative }
    }

    /// Prints the term on one line, as Haskell's `show` does.
    pub(crate) fn one_line(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Literal { text, .. } => out.push_str(text),
            Self::Constructor(name, arguments) => {
                out.push_str(name);
                for argument in arguments {
                    out.push(' ');
                    let simple = argument.is_simple() && !matches!(argument, Self::Record(..));
                    out.push_str(if simple { "" } else { "(" });
                    argument.write(out);
                    out.push_str(if simple { "" } else { ")" });
                }
            }
            Self::Record(name, field, value) => {
                for part in [name, " {", field, " = "] {
                    out.push_str(part);
                }
                value.write(out);
                out.push('}');
            }
            Self::List(items) => Self::write_all(items, ['[', ']'], out),
            Self::Tuple(items) => Self::write_all(items, ['(', ')'], out),
        }
    }

    fn write_all(items: &[Self], brackets: [char; 2], out: &mut String) {
        out.push(brackets[0]);
        for (index, item) in items.iter().enumerate() {
            out.push_str(if index > 0 { "," } else { "" });
            item.write(out);
        }
        out.push(brackets[1]);
    }

    /// Whether it needs no parentheses as an argument.
    fn is_simple(&self) -> bool {
        match self {
            Self::Literal { negative, .. } => !negative,
            Self::Constructor(_, arguments) => arguments.is_empty(),
            Self::Record(..) | Self::List(_) | Self::Tuple(_) => true,
        }
    }

    /// Prints the term as `reformat` does, without a final newline.
    pub(crate) fn laid_out(&self) -> String {
        self.doc().render()
    }

    fn doc(&self) -> Doc {
        match self {
            Self::Literal { text, .. } => Doc::text(text),
            Self::Constructor(name, arguments) if arguments.is_empty() => Doc::text(*name),
            Self::Constructor(name, arguments) => {
                let arguments = arguments.iter().map(|argument| {
                    let doc = argument.doc();
                    Member::new(if argument.is_simple() { doc } else { doc.between("(", ")") })
                });
                Doc::Group(vec![
                    Member::new(Doc::text(*name)),
                    Member::indented(2, Doc::Group(arguments.collect())),
                ])
            }
            Self::Record(name, field, value) => {
                let field = Doc::Group(vec![
                    Member::new(Doc::text(format!("{field} ="))),
                    Member::indented(2, value.doc()),
                ]);
                let fields =
                    vec![Member::new(field.between("{ ", "")), Member::new(Doc::text("}"))];
                Doc::Group(vec![
                    Member::new(Doc::text(*name)),
                    Member::indented(2, Doc::Group(fields)),
                ])
            }
            Self::List(items) if items.is_empty() => Doc::text("[]"),
            Self::List(items) => Self::bracketed(items, "[ ", "]"),
            Self::Tuple(items) => Self::bracketed(items, "( ", ")"),
        }
    }

    fn bracketed(items: &[Self], open: &str, close: &str) -> Doc {
        let mut members: Vec<Member> = items
            .iter()
            .enumerate()
            .map(|(index, item)| {
                Member::new(item.doc().between(if index == 0 { open } else { ", " }, ""))
            })
            .collect();
        members.push(Member::new(Doc::text(close)));
        Doc::Group(members)
    }
}
