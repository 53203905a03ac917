//! Tokens of Haskell, as `read` uses them.

use super::literal::{Escape, escape};
use crate::place::{Fault, Place};

/// A token; words are slices of the source text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// An identifier: a letter or `_`, and what may follow.
    Word(&'a str),
    /// A number literal.
    Number(&'a str),
    /// The value of a string literal.
    Text(String),
    /// A character literal.
    Char(char),
    /// A sequence of symbol characters.
    Symbol(&'a str),
    /// A bracket, a comma, `;` or a backtick.
    Special(char),
    /// The end of the text.
    End,
}

impl Token<'_> {
    /// A description for messages.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Word(word) => format!("`{}`", short(word)),
            Self::Number(number) => format!("the number {}", short(number)),
            Self::Text(text) => format!("the string \"{}\"", short(text)),
            Self::Char(c) => format!("the character '{c}'"),
            Self::Symbol(symbol) => format!("`{}`", short(symbol)),
            Self::Special(c) => format!("`{c}`"),
            Self::End => "the end of the file".into(),
        }
    }
}

/// The beginning of a text, on one line.
pub(super) fn short(text: &str) -> String {
    /// Length at which an excerpt stays recognizable.
    const SHOWN_CHARS: usize = 40;
    let mut shown: String =
        text.chars().take(SHOWN_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// Reads tokens one by one.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    file: u32,
    at: usize,
}

/// A token and its position.
#[derive(Debug, Clone)]
pub(super) struct Lexed<'a> {
    pub(super) token: Token<'a>,
    pub(super) at: u32,
    pub(super) end: u32,
}

fn is_symbol(c: char) -> bool {
    "!@#$%&*+./<=>?\\^|:-~".contains(c)
}

fn continues_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '\''
}

/// The length of the number literal at the beginning of a text.
fn number_length(text: &str) -> usize {
    let digits =
        |text: &str, radix: u32| text.find(|c: char| !c.is_digit(radix)).unwrap_or(text.len());
    for (prefix, radix) in [(["0x", "0X"], 16), (["0o", "0O"], 8)] {
        let rest = prefix.iter().find_map(|prefix| text.strip_prefix(prefix));
        if let Some(length) = rest.map(|rest| digits(rest, radix)).filter(|length| *length > 0) {
            return 2 + length;
        }
    }
    let mut length = digits(text, 10);
    if let Some(fraction) = text[length..].strip_prefix('.') {
        let more = digits(fraction, 10);
        length += if more > 0 { 1 + more } else { 0 };
    }
    if let Some(power) = text[length..].strip_prefix(['e', 'E']) {
        let sign = usize::from(power.starts_with(['-', '+']));
        let more = digits(&power[sign..], 10);
        length += if more > 0 { 1 + sign + more } else { 0 };
    }
    length
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str, file: u32) -> Self {
        Self { text, file, at: 0 }
    }

    pub(super) fn fault(&self, at: usize, message: impl Into<String>) -> Fault {
        Fault::new(Place { file: self.file, offset: offset(at) }, message)
    }

    /// The next token.
    ///
    /// # Errors
    /// Fails on an unterminated string, an invalid escape, and a character that begins no token.
    pub(super) fn next(&mut self) -> Result<Lexed<'a>, Fault> {
        let rest = &self.text[self.at..];
        self.at += rest.find(|c: char| !c.is_whitespace()).unwrap_or(rest.len());
        let at = self.at;
        let rest = &self.text[at..];
        let Some(first) = rest.chars().next() else {
            return Ok(Lexed { token: Token::End, at: offset(at), end: offset(at) });
        };
        let run =
            |belongs: fn(char) -> bool| rest.find(|c: char| !belongs(c)).unwrap_or(rest.len());
        let (token, length) = match first {
            '"' => return self.text_literal(),
            '\'' => return self.char_literal(),
            '(' | ')' | '[' | ']' | '{' | '}' | ',' | ';' | '`' => (Token::Special(first), 1),
            '0'..='9' => {
                let length = number_length(rest);
                (Token::Number(&rest[..length]), length)
            }
            c if is_symbol(c) => {
                let length = run(is_symbol);
                (Token::Symbol(&rest[..length]), length)
            }
            c if c.is_alphabetic() || c == '_' => {
                let length = run(continues_word);
                (Token::Word(&rest[..length]), length)
            }
            '\u{feff}' => {
                let fault = self.fault(at, "found a byte order mark");
                return Err(fault.hint("save the file as UTF-8 without a BOM"));
            }
            c => {
                let code = u32::from(c);
                return Err(self
                    .fault(at, format!("found the character U+{code:04X}, which begins nothing")));
            }
        };
        self.at += length;
        Ok(Lexed { token, at: offset(at), end: offset(self.at) })
    }

    fn text_literal(&mut self) -> Result<Lexed<'a>, Fault> {
        let start = self.at;
        let mut at = start + 1;
        let mut text = String::new();
        loop {
            let rest = &self.text[at..];
            let Some(special) = rest.find(['"', '\\']) else {
                let fault = self.fault(start, "the string that begins here does not end");
                return Err(fault.hint("a `\"` inside a string is written `\\\"`"));
            };
            text.push_str(&rest[..special]);
            at += special;
            if self.text[at..].starts_with('"') {
                self.at = at + 1;
                let token = Token::Text(text);
                return Ok(Lexed { token, at: offset(start), end: offset(self.at) });
            }
            match escape(&self.text[at..]).map_err(|message| self.escape_fault(at, message))? {
                Escape::Char(c, length) => {
                    text.push(c);
                    at += length;
                }
                Escape::Nothing(length) => at += length,
            }
        }
    }

    fn escape_fault(&self, at: usize, message: String) -> Fault {
        self.fault(at, format!("in a string: {message}")).hint("a backslash is written `\\\\`")
    }

    fn char_literal(&mut self) -> Result<Lexed<'a>, Fault> {
        let start = self.at;
        let rest = &self.text[start + 1..];
        let found = match rest.chars().next() {
            Some('\\') => {
                match escape(rest).map_err(|message| self.escape_fault(start + 1, message))? {
                    Escape::Char(c, length) => Some((c, length)),
                    Escape::Nothing(_) => None,
                }
            }
            Some('\'') | None => None,
            Some(c) => Some((c, c.len_utf8())),
        };
        match found {
            Some((c, length)) if rest[length..].starts_with('\'') => {
                self.at = start + 1 + length + 1;
                let token = Token::Char(c);
                Ok(Lexed { token, at: offset(start), end: offset(self.at) })
            }
            _ => {
                let fault =
                    self.fault(start, "found `'`, which begins a single character like 'a'");
                Err(fault.hint("strings are written with double quotes"))
            }
        }
    }
}

/// Converts an offset; texts are limited to [`super::FILE_BYTES_MAX`], so it always fits.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
