//! The group printer, which lays out Haskell and Erlang terms.
//!
//! A document is text, a row of documents, or a group. Let I be the column where the text of the
//! current line begins, and S the number of characters after it so far. A group is printed flat if
//! S, its flat length and the text that must follow on the same line are at most min(100 - I, 67)
//! together; otherwise each member begins a line at column I + S plus its own indent. Outer groups
//! are decided before inner ones. This is the behaviour of Haskell's pretty printer with 100
//! columns and 1.5 ribbons per line.

/// Columns per line.
const LINE: usize = 100;
/// Characters per line without the indent: 100 / 1.5, rounded.
const RIBBON: usize = 67;

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Doc {
    /// Text without newlines.
    Text(String),
    /// Documents in sequence.
    Row(Vec<Doc>),
    /// Members on one line, or one per line.
    Group(Vec<Member>),
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    indent: usize,
    doc: Doc,
}

impl Member {
    pub(crate) fn new(doc: Doc) -> Self {
        Self { indent: 0, doc }
    }

    pub(crate) fn indented(indent: usize, doc: Doc) -> Self {
        Self { indent, doc }
    }
}

impl Doc {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Wraps the document in text directly before and after it.
    pub(crate) fn between(self, before: &str, behind: &str) -> Self {
        Self::Row(vec![Self::text(before), self, Self::text(behind)])
    }

    /// Renders the document.
    pub(crate) fn render(&self) -> String {
        let measured = Measured::of(self);
        let mut page = Page::default();
        page.put(&measured, 0);
        page.text
    }
}

/// A document with the flat length of each part, so that a decision needs no traversal.
struct Measured<'d> {
    flat: usize,
    kind: Kind<'d>,
}

enum Kind<'d> {
    Text(&'d str),
    Row(Vec<Measured<'d>>),
    Group(Vec<(usize, Measured<'d>)>),
}

impl<'d> Measured<'d> {
    fn of(doc: &'d Doc) -> Self {
        match doc {
            Doc::Text(text) => Self { flat: text.chars().count(), kind: Kind::Text(text) },
            Doc::Row(parts) => {
                let parts: Vec<Self> = parts.iter().map(Self::of).collect();
                Self { flat: parts.iter().map(|part| part.flat).sum(), kind: Kind::Row(parts) }
            }
            Doc::Group(members) => {
                let members: Vec<(usize, Self)> =
                    members.iter().map(|member| (member.indent, Self::of(&member.doc))).collect();
                let spaces = members.len().saturating_sub(1);
                let flat = members.iter().map(|(_, member)| member.flat).sum::<usize>() + spaces;
                Self { flat, kind: Kind::Group(members) }
            }
        }
    }
}

#[derive(Default)]
struct Page {
    text: String,
    /// I in the rule.
    indent: usize,
    /// S in the rule.
    set: usize,
}

impl Page {
    fn write(&mut self, text: &str, length: usize) {
        self.text.push_str(text);
        self.set += length;
    }

    /// Prints a document; `following` characters must fit behind it on its last line.
    fn put(&mut self, doc: &Measured<'_>, following: usize) {
        match &doc.kind {
            Kind::Text(text) => self.write(text, doc.flat),
            Kind::Row(parts) => {
                let mut behind: usize = parts.iter().map(|part| part.flat).sum();
                for part in parts {
                    behind -= part.flat;
                    self.put(part, behind + following);
                }
            }
            Kind::Group(members) => {
                let room = LINE.saturating_sub(self.indent).min(RIBBON);
                if self.set + doc.flat + following <= room {
                    return self.put_flat(doc);
                }
                let column = self.indent + self.set;
                for (index, (indent, member)) in members.iter().enumerate() {
                    if index > 0 {
                        self.indent = column + indent;
                        self.set = 0;
                        self.text.push('\n');
                        self.text.extend(std::iter::repeat_n(' ', self.indent));
                    }
                    let last = index + 1 == members.len();
                    self.put(member, if last { following } else { 0 });
                }
            }
        }
    }

    fn put_flat(&mut self, doc: &Measured<'_>) {
        match &doc.kind {
            Kind::Text(text) => self.write(text, doc.flat),
            Kind::Row(parts) => parts.iter().for_each(|part| self.put_flat(part)),
            Kind::Group(members) => {
                for (index, (_, member)) in members.iter().enumerate() {
                    if index > 0 {
                        self.write(" ", 1);
                    }
                    self.put_flat(member);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(texts: &[&str]) -> Doc {
        Doc::Group(texts.iter().map(|text| Member::new(Doc::text(*text))).collect())
    }

    #[test]
    fn a_group_is_flat_up_to_the_ribbon() {
        let (long, short) = ("x".repeat(33), "y".repeat(33));
        assert_eq!(words(&[&long, &short]).render(), format!("{long} {short}"));
        assert_eq!(words(&[&long, &short]).between("", ".").render(), format!("{long}\n{short}."));
    }

    #[test]
    fn members_begin_where_the_group_began() {
        let long = "x".repeat(70);
        let doc =
            Doc::Group(vec![Member::new(Doc::text(&*long)), Member::indented(2, Doc::text("y"))]);
        assert_eq!(doc.between("( ", " )").render(), format!("( {long}\n    y )"));
    }
}
