//! Expands variables in strings: `${name}` and `$name`; a dollar sign is written `$$`.

use crate::place::{Position, position};

/// Why a template is invalid. The first line of each message is B9's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A dollar sign does not begin a variable.
    #[error(
        "B9 internal error: Invalid template, error at row: {}, col: {} in: \"{}",
        at.line, at.column, crate::haskell::Shown::text(text).one_line()
    )]
    Syntax {
        /// The position in the text.
        at: Position,
        /// The text.
        text: String,
    },
    /// The variable is not bound.
    #[error("Invalid template parameter: {}.\nValid variables: {}", crate::haskell::Shown::text(name).one_line(), known.join(", "))]
    Unknown {
        /// The name of the unbound variable.
        name: String,
        /// The names of all bound variables, sorted.
        known: Vec<String>,
    },
}

impl TemplateError {
    /// A hint for the user.
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

/// Replaces the variables of a template by their values.
///
/// # Errors
/// Fails on a dollar sign that begins no variable, and on an unbound variable.
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

/// The first variable in braces, if the text could be a template: for warnings in places where none
/// is expanded.
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
            // B9 counts the column of the brace if no name follows it, else that of the dollar
            // sign.
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

/// The length of the variable name at the start of a text.
fn name_length(text: &str) -> usize {
    if !text.starts_with(|c: char| c.is_lowercase() || c == '_') {
        return 0;
    }
    text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '\'')).unwrap_or(text.len())
}
