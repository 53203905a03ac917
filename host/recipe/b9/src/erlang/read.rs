//! Parses B9's Erlang grammar, a subset of Erlang: no maps, funs, variables or improper lists, and
//! white space only where B9 allows it. As an extension, comments are accepted wherever white space
//! is.

use super::Term;
use crate::{number::Integer, place::Position};

/// Maximum nesting of terms; each level uses stack.
const DEPTH_MAX: usize = 400;

/// Why a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("(line {}, column {}):\n{message}", at.line, at.column)]
pub(crate) struct ErlangError {
    /// The position, counted from 1; a tab advances to the next multiple of eight.
    pub(crate) at: Position,
    /// The message.
    pub(crate) message: String,
}

/// A parsed term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Read {
    /// The term.
    pub(crate) term: Term,
    /// Whether anything but white space and comments follows its dot.
    pub(crate) more: bool,
}

/// Parses the first term of a file.
///
/// # Errors
/// Fails on text outside of the grammar.
pub(crate) fn read(text: &str) -> Result<Read, ErlangError> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    reader.white();
    let term = reader.term()?;
    reader.expect(".")?;
    reader.white();
    Ok(Read { term, more: reader.at < text.len() })
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

type Outcome<T> = Result<T, ErlangError>;

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn fail<T>(&self, message: impl Into<String>) -> Outcome<T> {
        let mut at = Position { line: 1, column: 1 };
        for c in self.text[..self.at].chars() {
            match c {
                '\n' => at = Position { line: at.line + 1, column: 1 },
                '\t' => at.column += 8 - (at.column - 1) % 8,
                _ => at.column += 1,
            }
        }
        Err(ErlangError { at, message: message.into() })
    }

    fn unexpected<T>(&self, expecting: &str) -> Outcome<T> {
        let found = match self.peek() {
            Some(c) => crate::haskell::Shown::text(&c.to_string()).one_line(),
            None => "end of input".into(),
        };
        self.fail(format!("unexpected {found}\nexpecting {expecting}"))
    }

    fn white(&mut self) {
        loop {
            let rest = self.rest();
            self.at += rest.len() - rest.trim_start().len();
            if !self.rest().starts_with('%') {
                return;
            }
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    /// Consumes a token, or reports where the text differs.
    fn expect(&mut self, token: &str) -> Outcome<()> {
        for c in token.chars() {
            if self.peek() != Some(c) {
                return self.unexpected(&format!("\"{token}\""));
            }
            self.at += c.len_utf8();
        }
        Ok(())
    }

    fn digits(&mut self, radix: u32) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|c: char| !c.is_digit(radix)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn term(&mut self) -> Outcome<Term> {
        match self.peek() {
            Some('\'') => Ok(Term::Atom(self.quoted('\'')?)),
            Some('"') => Ok(Term::String(self.quoted('"')?)),
            Some('$') => {
                self.at += 1;
                Ok(Term::Char(self.char()?))
            }
            Some('[') => Ok(Term::List(self.items("[", "]")?)),
            Some('{') => Ok(Term::Tuple(self.items("{", "}")?)),
            Some('<') => self.binary(),
            Some('0'..='9' | '+' | '-' | '.') => self.number(),
            Some(c) if c.is_lowercase() => {
                let rest = self.rest();
                let belongs = |c: char| c.is_alphanumeric() || c == '@' || c == '_';
                let length = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
                self.at += length;
                Ok(Term::Atom(rest[..length].to_owned()))
            }
            _ => self.unexpected("an Erlang term"),
        }
    }

    fn char(&mut self) -> Outcome<char> {
        match self.peek() {
            Some('\\') => self.escape(),
            Some(c) => {
                self.at += c.len_utf8();
                Ok(c)
            }
            None => self.unexpected("a character"),
        }
    }

    fn quoted(&mut self, quote: char) -> Outcome<String> {
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.peek() {
                Some(c) if c == quote => {
                    self.at += 1;
                    return Ok(text);
                }
                _ => text.push(self.char()?),
            }
        }
    }

    fn binary(&mut self) -> Outcome<Term> {
        self.expect("<<")?;
        self.white();
        let text = if self.peek() == Some('"') { self.quoted('"')? } else { String::new() };
        self.expect(">>")?;
        self.white();
        Ok(Term::Binary(text))
    }

    fn items(&mut self, open: &str, close: &str) -> Outcome<Vec<Term>> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.fail(format!("more than {DEPTH_MAX} brackets are open here"));
        }
        self.expect(open)?;
        self.white();
        let mut items = Vec::new();
        while !self.take(close) {
            items.push(self.term()?);
            self.white();
            if !self.take(",") {
                self.expect(close)?;
                break;
            }
            self.white();
        }
        self.white();
        self.depth -= 1;
        Ok(items)
    }

    fn number(&mut self) -> Outcome<Term> {
        let start = self.at;
        let negative = self.rest().starts_with('-');
        self.at += usize::from(self.rest().starts_with(['-', '+']));
        let whole = self.digits(10);
        let behind_point = self
            .rest()
            .strip_prefix('.')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if behind_point {
            if whole.is_empty() {
                return self.unexpected("a digit before the point");
            }
            return self.float(start);
        }
        let Some(radix) = self.radix(whole) else {
            return match Integer::parse(negative, whole, 10) {
                Some(number) => Ok(Term::Integer(number)),
                None => self.unexpected("a digit"),
            };
        };
        self.at += 1;
        let digits = self.digits(radix);
        match Integer::parse(negative, digits, radix) {
            Some(number) => Ok(Term::Integer(number)),
            None if digits.is_empty() => self.unexpected(&format!("a digit of radix {radix}")),
            None => self.fail("the number has too many digits"),
        }
    }

    /// The radix given by the digits before a `#`.
    fn radix(&self, digits: &str) -> Option<u32> {
        let radix: u32 = digits.parse().ok()?;
        (self.rest().starts_with('#') && (2..=36).contains(&radix)).then_some(radix)
    }

    /// Parses a float whose sign and integer digits are consumed already.
    fn float(&mut self, start: usize) -> Outcome<Term> {
        self.at += 1;
        self.digits(10);
        let mantissa_end = self.at;
        if self.rest().starts_with(['e', 'E']) {
            self.at += 1;
            self.at += usize::from(self.rest().starts_with(['-', '+']));
            if self.digits(10).is_empty() {
                self.at = mantissa_end;
            }
        }
        let text = self.text[start..self.at].trim_start_matches('+');
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Term::Float(number)),
            _ => self.fail(format!("the number {text} is too large")),
        }
    }

    fn escape(&mut self) -> Outcome<char> {
        self.at += 1;
        let Some(c) = self.peek() else { return self.unexpected("an escape") };
        let simple = match c {
            'b' => Some('\x08'),
            'd' => Some('\x7f'),
            'e' => Some('\x1b'),
            'f' => Some('\x0c'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            's' => Some(' '),
            't' => Some('\t'),
            'v' => Some('\x0b'),
            '\\' | '"' | '\'' => Some(c),
            _ => None,
        };
        if let Some(c) = simple {
            self.at += 1;
            return Ok(c);
        }
        match c {
            '0'..='7' => {
                let rest = self.rest();
                let length = rest.bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
                self.at += length;
                self.code(&rest[..length], 8)
            }
            '^' => {
                self.at += 1;
                let letter = self.peek().filter(char::is_ascii_alphabetic);
                let Some(letter) = letter else { return self.unexpected("a letter") };
                self.at += 1;
                Ok(char::from(u8::try_from(letter.to_ascii_uppercase()).unwrap_or(b'@') - b'@'))
            }
            'x' => self.hexadecimal(),
            _ => self.unexpected("an escape"),
        }
    }

    fn hexadecimal(&mut self) -> Outcome<char> {
        self.at += 1;
        if self.take("{") {
            let digits = self.digits(16);
            if digits.is_empty() {
                return self.unexpected("a hexadecimal digit");
            }
            let c = self.code(digits, 16)?;
            self.expect("}")?;
            return Ok(c);
        }
        let rest = self.rest();
        let length = rest.bytes().take(2).take_while(u8::is_ascii_hexdigit).count();
        self.at += length;
        if length < 2 {
            return self.unexpected("a hexadecimal digit");
        }
        self.code(&rest[..length], 16)
    }

    fn code(&self, digits: &str, radix: u32) -> Outcome<char> {
        let code = u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
        match code {
            Some(c) => Ok(c),
            None => self.fail(format!("there is no character with the number {digits}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_white_space() {
        let text = "% one\n[a, % two\n b].\n% three\n";
        let found = read(text).unwrap();
        assert_eq!(super::super::write(&found.term), "[a, b].");
        assert!(!found.more);
    }

    #[test]
    fn what_follows_is_noticed() {
        assert!(read("a. b.").unwrap().more);
    }

    #[test]
    fn terms_cannot_exhaust_the_stack() {
        let deep = |levels: usize| format!("{}{}.", "[".repeat(levels), "]".repeat(levels));
        assert!(read(&deep(DEPTH_MAX)).is_ok());
        let error = read(&deep(1_000_000)).unwrap_err();
        assert!(error.message.contains("more than 400 brackets"), "{error}");
    }
}
