//! Variables in strings: `${name}` and `$name`; a dollar sign is written `$$`.

use crate::place::{Position, position};

/// What is wrong with a template. The first line of each is B9's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A dollar sign that begins no variable.
    #[error(
        "B9 internal error: Invalid template, error at row: {}, col: {} in: \"{}",
        at.line, at.column, crate::haskell::Shown::text(text).one_line()
    )]
    Syntax {
        /// Where in the text.
        at: Position,
        /// The text.
        text: String,
    },
    /// A variable that nothing binds.
    #[error("Invalid template parameter: {}.\nValid variables: {}", crate::haskell::Shown::text(name).one_line(), known.join(", "))]
    Unknown {
        /// Its name.
        name: String,
        /// All names that are bound, in order.
        known: Vec<String>,
    },
}

impl TemplateError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Syntax { .. } => {
                "a variable is written ${name}, with a small letter first; a dollar sign for the shell is written $$".into()
            }
            Self::Unknown { name, known } => {
                if let Some(braced) = known.iter().find(|known| name.starts_with(known.as_str())) {
                    format!("${{{braced}}} ends the name where it shall end; $$ is a dollar sign for the shell")
                } else if name.starts_with("arg_") {
                    "arguments stand behind `--` on the command line: arg_1, arg_2, …".into()
                } else {
                    "Let binds variables; a dollar sign for the shell is written $$".into()
                }
            }
        }
    }
}

/// A piece of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Variable(&'a str),
}

/// The template with the values of its variables.
///
/// # Errors
/// A dollar sign that begins no variable, a variable that is not bound.
pub(crate) fn substitute<'v>(
    template: &str,
    value: impl Fn(&str) -> Option<&'v str>,
    known: impl FnOnce() -> Vec<String>,
) -> Result<String, TemplateError> {
    let mut text = String::with_capacity(template.len());
    for piece in pieces(template)? {
        match piece {
            Piece::Text(part) => text.push_str(part),
            Piece::Variable(name) => match value(name) {
                Some(value) => text.push_str(value),
                None => {
                    return Err(TemplateError::Unknown { name: name.to_owned(), known: known() });
                }
            },
        }
    }
    Ok(text)
}

/// The first variable in braces, if the text could be a template: for warnings where
/// none is expected.
pub(crate) fn braced_variable(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let behind = &rest[at + 1..];
        if let Some((name, _)) = behind.strip_prefix('{').and_then(|inner| inner.split_once('}'))
            && name_length(name) == name.len()
            && !name.is_empty()
        {
            return Some(name);
        }
        rest = behind.strip_prefix('$').unwrap_or(behind);
    }
    None
}

fn pieces(template: &str) -> Result<Vec<Piece<'_>>, TemplateError> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while let Some(dollar) = template[at..].find('$') {
        pieces.push(Piece::Text(&template[at..at + dollar]));
        at += dollar;
        let behind = &template[at + 1..];
        if behind.starts_with('$') {
            pieces.push(Piece::Text("$"));
            at += 2;
            continue;
        }
        let braced = behind.strip_prefix('{');
        let name = braced.unwrap_or(behind);
        let length = name_length(name);
        let closed = braced.is_none() || name[length..].starts_with('}');
        if length == 0 || !closed {
            // As B9 counts: the brace, when no name follows it, else the dollar sign.
            let wrong = if braced.is_some() && length == 0 { at + 1 } else { at };
            let at = position(template, wrong);
            return Err(TemplateError::Syntax { at, text: template.to_owned() });
        }
        pieces.push(Piece::Variable(&name[..length]));
        at += 1 + length + if braced.is_some() { 2 } else { 0 };
    }
    pieces.push(Piece::Text(&template[at..]));
    Ok(pieces)
}

/// The length of the name that a text begins with.
fn name_length(text: &str) -> usize {
    if !text.starts_with(|c: char| c.is_lowercase() || c == '_') {
        return 0;
    }
    text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '\'')).unwrap_or(text.len())
}
