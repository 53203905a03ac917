//! Character and string literals: escapes, and their form when Haskell prints them.

/// The names of control characters, by code point; 127 is `DEL`.
const ASCII_NAMES: [&str; 33] = [
    "NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "HT", "LF", "VT", "FF", "CR",
    "SO", "SI", "DLE", "DC1", "DC2", "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM", "SUB", "ESC",
    "FS", "GS", "RS", "US", "SP",
];

/// The meaning of a backslash escape, and its length in bytes including the backslash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    /// A character.
    Char(char, usize),
    /// No character: `\&`, or a gap.
    Nothing(usize),
}

/// Parses the escape at the start of `text`, which begins with a backslash.
///
/// # Errors
/// Fails with the reason as text.
pub(super) fn escape(text: &str) -> Result<Escape, String> {
    let body = &text[1..];
    let Some(first) = body.chars().next() else { return Err("a lone `\\`".into()) };
    let simple = match first {
        'a' => Some('\x07'),
        'b' => Some('\x08'),
        'f' => Some('\x0c'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        'v' => Some('\x0b'),
        '\\' | '"' | '\'' => Some(first),
        _ => None,
    };
    if let Some(c) = simple {
        return Ok(Escape::Char(c, 2));
    }
    match first {
        '&' => Ok(Escape::Nothing(2)),
        '^' => match body[1..].chars().next() {
            Some(c @ '@'..='_') => Ok(Escape::Char(control(c), 3)),
            _ => Err("`\\^` takes one of `@`, `A` to `Z`, `[`, `\\`, `]`, `^` and `_`".into()),
        },
        '0'..='9' => number(body, 0, 10),
        'x' | 'X' => number(body, 1, 16),
        'o' | 'O' => number(body, 1, 8),
        _ if first.is_whitespace() => gap(body),
        _ => named(body).ok_or_else(|| format!("`\\{first}` is not an escape sequence")),
    }
}

fn control(letter: char) -> char {
    char::from(u8::try_from(u32::from(letter) - 64).unwrap_or(0))
}

fn number(body: &str, skip: usize, radix: u32) -> Result<Escape, String> {
    let digits = &body[skip..];
    let length = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    if length == 0 {
        return Err(format!("`\\{}` lacks its digits", &body[..skip]));
    }
    let code = u32::from_str_radix(&digits[..length], radix).ok().filter(|code| *code <= 0x10_ffff);
    let Some(code) = code else {
        return Err("a code point beyond 1114111, the last one".into());
    };
    match char::from_u32(code) {
        Some(c) => Ok(Escape::Char(c, 1 + skip + length)),
        None => Err(format!("code point {code} is half of a surrogate pair, no character")),
    }
}

fn gap(body: &str) -> Result<Escape, String> {
    let length = body.find(|c: char| !c.is_whitespace()).unwrap_or(body.len());
    if body[length..].starts_with('\\') {
        return Ok(Escape::Nothing(length + 2));
    }
    Err("white space behind `\\` must end with another `\\`".into())
}

/// The longest control character name at the start of the text: `SOH` before `SO`.
fn named(body: &str) -> Option<Escape> {
    let found = ASCII_NAMES
        .iter()
        .enumerate()
        .map(|(code, name)| (u8::try_from(code).unwrap_or(0), *name))
        .chain([(127, "DEL")])
        .filter(|(_, name)| body.starts_with(name))
        .max_by_key(|(_, name)| name.len())?;
    Some(Escape::Char(char::from(found.0), 1 + found.1.len()))
}

/// A string as Haskell prints it, with quotes.
pub(super) fn show_text(text: &str) -> String {
    let mut shown = String::with_capacity(text.len() + 2);
    shown.push('"');
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '"' {
            shown.push_str("\\\"");
            continue;
        }
        let numeric = push_char(&mut shown, c);
        match chars.peek() {
            Some(next) if numeric && next.is_ascii_digit() => shown.push_str("\\&"),
            Some('H') if c == '\x0e' => shown.push_str("\\&"),
            _ => {}
        }
    }
    shown.push('"');
    shown
}

/// A character as Haskell prints it, with quotes.
pub(super) fn show_char(c: char) -> String {
    let mut shown = "'".to_owned();
    if c == '\'' {
        shown.push_str("\\'");
    } else {
        push_char(&mut shown, c);
    }
    shown.push('\'');
    shown
}

/// Appends a character. Returns whether it is a numeric escape, which a digit after it would
/// extend.
fn push_char(shown: &mut String, c: char) -> bool {
    let name = match c {
        '\x07' => "a",
        '\x08' => "b",
        '\t' => "t",
        '\n' => "n",
        '\x0b' => "v",
        '\x0c' => "f",
        '\r' => "r",
        '\\' => "\\",
        '\x7f' => "DEL",
        '\0'..='\x1f' => ASCII_NAMES[c as usize],
        ' '..='\x7e' => {
            shown.push(c);
            return false;
        }
        _ => {
            shown.push('\\');
            shown.push_str(&u32::from(c).to_string());
            return true;
        }
    };
    shown.push('\\');
    shown.push_str(name);
    false
}
