//! Parses tokens to a tree: rows of words, brackets, lists and records. Words have no meaning at
//! this level.

use super::{
    NESTING_MAX,
    lexer::{Lexed, Lexer, Token, short},
};
use crate::place::Fault;

/// A row of atoms: a constructor with its arguments, or a single literal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expr<'a> {
    /// The atoms; at least one.
    pub(crate) atoms: Vec<Atom<'a>>,
    /// The end offset of the row.
    pub(crate) end: u32,
}

/// An atom: anything that can be an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Atom<'a> {
    pub(crate) kind: Kind<'a>,
    pub(crate) at: u32,
}

/// Kinds of atoms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    /// A word, probably a constructor.
    Word(&'a str),
    /// A number as written, and whether a minus precedes it.
    Number(bool, &'a str),
    /// A string literal.
    Text(String),
    /// A character literal.
    Char(char),
    /// A list.
    List(Vec<Expr<'a>>),
    /// Parentheses: around one row they group, around several they make a tuple.
    Group(Vec<Expr<'a>>),
    /// A constructor with named fields.
    Record(&'a str, Vec<(&'a str, Expr<'a>)>),
}

impl Kind<'_> {
    /// A description for messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Word(word) => format!("`{}`", short(word)),
            Self::Number(negative, number) => {
                format!("the number {}{}", if *negative { "-" } else { "" }, short(number))
            }
            Self::Text(text) => format!("the string \"{}\"", short(text)),
            Self::Char(c) => format!("the character '{c}'"),
            Self::List(_) => "a list".into(),
            Self::Group(parts) if parts.len() == 1 => "a value in parentheses".into(),
            Self::Group(parts) => format!("a tuple of {}", parts.len()),
            Self::Record(name, _) => format!("the record `{}`", short(name)),
        }
    }
}

/// Parses a text that consists of one row.
///
/// # Errors
/// Fails on invalid syntax, and on nesting beyond [`NESTING_MAX`].
pub(super) fn parse(text: &str, file: u32) -> Result<Expr<'_>, Fault> {
    let mut lexer = Lexer::new(text, file);
    let ahead = lexer.next()?;
    let mut parser = Parser { lexer, ahead, depth: 0 };
    let expr = parser.expr("a value")?;
    match &parser.ahead.token {
        Token::End => Ok(expr),
        _ => Err(parser.unexpected("the end of the file")),
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    ahead: Lexed<'a>,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn advance(&mut self) -> Result<Lexed<'a>, Fault> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.ahead, next))
    }

    fn is_special(&self, c: char) -> bool {
        self.ahead.token == Token::Special(c)
    }

    /// The fault that the current token does not belong here.
    fn unexpected(&self, expected: &str) -> Fault {
        let token = &self.ahead.token;
        let message = format!("found {} where {expected} was expected", token.describe());
        let fault = self.lexer.fault(self.ahead.at as usize, message);
        match hint(token) {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    }

    /// Parses atoms until another token comes; at least one.
    fn expr(&mut self, expected: &str) -> Result<Expr<'a>, Fault> {
        let mut atoms = Vec::new();
        let mut end = self.ahead.at;
        while let Some(atom) = self.atom(&mut end)? {
            atoms.push(atom);
        }
        if atoms.is_empty() {
            return Err(self.unexpected(expected));
        }
        Ok(Expr { atoms, end })
    }

    fn atom(&mut self, end: &mut u32) -> Result<Option<Atom<'a>>, Fault> {
        let at = self.ahead.at;
        let kind = match &self.ahead.token {
            Token::Special('(') => Kind::Group(self.nested(')', end)?),
            Token::Special('[') => Kind::List(self.nested(']', end)?),
            Token::Symbol("-") => {
                self.advance()?;
                let Token::Number(number) = self.ahead.token else {
                    return Err(self.unexpected("a number behind `-`"));
                };
                *end = self.advance()?.end;
                Kind::Number(true, number)
            }
            Token::Word(_) | Token::Number(_) | Token::Text(_) | Token::Char(_) => {
                let lexed = self.advance()?;
                *end = lexed.end;
                match lexed.token {
                    Token::Word(word) if self.is_special('{') => {
                        Kind::Record(word, self.fields(end)?)
                    }
                    Token::Word(word) => Kind::Word(word),
                    Token::Number(number) => Kind::Number(false, number),
                    Token::Text(text) => Kind::Text(text),
                    Token::Char(c) => Kind::Char(c),
                    Token::Symbol(_) | Token::Special(_) | Token::End => return Ok(None),
                }
            }
            _ => return Ok(None),
        };
        Ok(Some(Atom { kind, at }))
    }

    fn deeper(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > NESTING_MAX {
            let message = format!("more than {NESTING_MAX} brackets are open here");
            return Err(self.lexer.fault(self.ahead.at as usize, message));
        }
        Ok(())
    }

    /// Parses comma-separated rows up to a closing bracket.
    fn nested(&mut self, close: char, end: &mut u32) -> Result<Vec<Expr<'a>>, Fault> {
        self.deeper()?;
        let open = self.advance()?.at;
        let mut items = Vec::new();
        if !(close == ']' && self.is_special(']')) {
            loop {
                items.push(self.expr("a value")?);
                if !self.is_special(',') {
                    break;
                }
                self.advance()?;
            }
        }
        if !self.is_special(close) {
            let fault = self.unexpected(&format!("`,` or `{close}`"));
            if self.ahead.token == Token::End {
                let fault = self
                    .lexer
                    .fault(open as usize, format!("this bracket is not closed by `{close}`"));
                return Err(fault);
            }
            return Err(fault);
        }
        *end = self.advance()?.end;
        self.depth -= 1;
        Ok(items)
    }

    fn fields(&mut self, end: &mut u32) -> Result<Vec<(&'a str, Expr<'a>)>, Fault> {
        self.deeper()?;
        self.advance()?;
        let mut fields = Vec::new();
        loop {
            let Token::Word(name) = self.ahead.token else {
                return Err(self.unexpected("the name of a field"));
            };
            self.advance()?;
            if self.ahead.token != Token::Symbol("=") {
                return Err(self.unexpected("`=`"));
            }
            self.advance()?;
            fields.push((name, self.expr("the value of the field")?));
            if !self.is_special(',') {
                break;
            }
            self.advance()?;
        }
        if !self.is_special('}') {
            return Err(self.unexpected("`,` or `}`"));
        }
        *end = self.advance()?.end;
        self.depth -= 1;
        Ok(fields)
    }
}

/// A hint about what an unexpected token probably means.
fn hint(token: &Token<'_>) -> Option<&'static str> {
    match token {
        Token::Symbol(symbol) if symbol.starts_with("--") => {
            Some("B9's files have no comments: remove the line")
        }
        Token::Special('{') => {
            Some("B9's files have no comments, and braces only in `MkCloudConfigYaml {…}`")
        }
        Token::Symbol("$") => {
            Some("B9 reads values, not programs: put what follows the `$` in parentheses")
        }
        Token::Symbol("++" | "<>") => {
            Some("B9 reads values, not programs: write one string; it may span lines")
        }
        Token::Symbol("+") => Some("numbers have no `+`"),
        Token::Symbol(".") => Some("constructors are written without the name of a module"),
        Token::Special(';') => Some("items of a list are separated by commas"),
        Token::Special(']') => Some("no comma stands before `]`"),
        _ => None,
    }
}
