//! Prints YAML byte for byte as libyaml's emitter does with B9's settings: width 80, indent 2,
//! Unicode allowed, block style, no document start.

use super::{Yaml, scalar::is_special};

/// Text continues on the next line at the first space after this column.
const WIDTH: usize = 80;
/// Columns per indentation level.
const INDENT: usize = 2;
/// Maximum bytes of a key that is on the same line as its value.
const SIMPLE_KEY_BYTES: usize = 128;

/// Prints the document, with a final newline.
pub(crate) fn write(document: &Yaml) -> String {
    let mut emitter = Emitter::default();
    emitter.node(document, Around::Root);
    emitter.indent = None;
    emitter.write_indent();
    if emitter.open_ended {
        emitter.indicator("...", true, false, false);
        emitter.write_indent();
    }
    emitter.text
}

/// Scalar styles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Single,
    Double,
    Literal,
}

/// The context of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Around {
    Root,
    Sequence,
    /// The value of a key, or a key too long to be on the line of its value.
    Mapping,
    SimpleKey,
}

#[derive(Debug)]
struct Emitter {
    text: String,
    column: usize,
    /// The indent of the current block; `None` at the top.
    indent: Option<usize>,
    /// Whether the last character was white space.
    whitespace: bool,
    /// Whether the line has only indentation and indicators so far.
    indention: bool,
    /// Whether a block scalar kept empty lines at its end.
    open_ended: bool,
}

impl Default for Emitter {
    fn default() -> Self {
        Self {
            text: String::new(),
            column: 0,
            indent: None,
            whitespace: true,
            indention: true,
            open_ended: false,
        }
    }
}

fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_blank(c: char) -> bool {
    c == ' ' || c == '\t' || c == '\0' || is_break(c)
}

/// Whether libyaml prints the character as is: no tab, nothing beyond U+FFFF.
fn is_printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='\x7e' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}')
        && c != '\u{feff}'
}

/// The styles that can represent a scalar.
#[derive(Debug, Clone, Copy)]
struct Analysis {
    multiline: bool,
    plain: bool,
    single: bool,
    block: bool,
}

impl Analysis {
    fn of(text: &str) -> Self {
        let mut it = Self { multiline: false, plain: true, single: true, block: true };
        if text.is_empty() {
            return Self { block: false, ..it };
        }
        let chars: Vec<char> = text.chars().collect();
        let mut indicators = text.starts_with("---") || text.starts_with("...");
        let mut special = false;
        let (mut space_then_break, mut break_then_space) = (false, false);
        for (index, &c) in chars.iter().enumerate() {
            let before = index.checked_sub(1).map(|index| chars[index]);
            let behind_blank = chars.get(index + 1).is_none_or(|next| is_blank(*next));
            indicators |= if index == 0 {
                "#,[]{}&*!|>'\"%@`".contains(c) || ("?:-".contains(c) && behind_blank)
            } else {
                (c == ':' && behind_blank) || (c == '#' && before.is_some_and(is_blank))
            };
            special |= !is_printable(c);
            it.multiline |= is_break(c);
            break_then_space |= c == ' ' && before.is_some_and(is_break);
            space_then_break |= is_break(c) && before == Some(' ');
        }
        let edge = |c: &char| *c == ' ' || is_break(*c);
        it.plain = !indicators
            && !it.multiline
            && !special
            && !chars.first().is_some_and(edge)
            && !chars.last().is_some_and(edge);
        let broken = space_then_break || special;
        it.single = !break_then_space && !broken;
        it.block = chars.last() != Some(&' ') && !broken;
        it
    }
}

/// The style that B9's library requests.
fn wanted(text: &str) -> Style {
    if text.contains('\n') {
        Style::Literal
    } else if is_special(text) {
        Style::Single
    } else {
        Style::Plain
    }
}

impl Emitter {
    fn put(&mut self, c: char) {
        self.text.push(c);
        self.column += 1;
    }

    fn put_break(&mut self, c: char) {
        self.text.push(c);
        self.column = 0;
    }

    /// Begins a line at the current indent, unless the current line is still there.
    fn write_indent(&mut self) {
        let indent = self.indent.unwrap_or(0);
        if !self.indention || self.column > indent || (self.column == indent && !self.whitespace) {
            self.put_break('\n');
        }
        while self.column < indent {
            self.put(' ');
        }
        self.whitespace = true;
        self.indention = true;
    }

    fn indicator(&mut self, text: &str, needs_space: bool, is_space: bool, is_indention: bool) {
        if needs_space && !self.whitespace {
            self.put(' ');
        }
        text.chars().for_each(|c| self.put(c));
        self.whitespace = is_space;
        self.indention &= is_indention;
    }

    fn node(&mut self, node: &Yaml, around: Around) {
        let plain = |emitter: &mut Self, text: &str| {
            emitter.scalar(text, Style::Plain, around);
        };
        match node {
            Yaml::Null => plain(self, "null"),
            Yaml::Bool(true) => plain(self, "true"),
            Yaml::Bool(false) => plain(self, "false"),
            Yaml::Number(number) => plain(self, &number.to_string()),
            Yaml::Text(text) => self.scalar(text, wanted(text), around),
            Yaml::List(items) if items.is_empty() => self.empty("[", "]"),
            Yaml::Map(entries) if entries.is_empty() => self.empty("{", "}"),
            Yaml::List(items) => {
                let outer = self.deeper(around == Around::Mapping && !self.indention);
                for item in items {
                    self.write_indent();
                    self.indicator("-", true, false, true);
                    self.node(item, Around::Sequence);
                }
                self.indent = outer;
            }
            Yaml::Map(entries) => {
                let outer = self.deeper(false);
                for (key, value) in entries {
                    self.entry(key, value);
                }
                self.indent = outer;
            }
        }
    }

    fn entry(&mut self, key: &str, value: &Yaml) {
        self.write_indent();
        if key.len() <= SIMPLE_KEY_BYTES && !Analysis::of(key).multiline {
            self.scalar(key, wanted(key), Around::SimpleKey);
            self.indicator(":", false, false, false);
        } else {
            self.indicator("?", true, false, true);
            self.scalar(key, wanted(key), Around::Mapping);
            self.write_indent();
            self.indicator(":", true, false, true);
        }
        self.node(value, Around::Mapping);
    }

    fn empty(&mut self, open: &str, close: &str) {
        self.indicator(open, true, true, false);
        self.indicator(close, false, false, false);
    }

    /// Increases the indent and returns the previous one.
    fn deeper(&mut self, indentless: bool) -> Option<usize> {
        let outer = self.indent;
        self.indent = match outer {
            None => Some(0),
            Some(indent) if indentless => Some(indent),
            Some(indent) => Some(indent + INDENT),
        };
        outer
    }

    fn scalar(&mut self, text: &str, wanted: Style, around: Around) {
        let analysis = Analysis::of(text);
        let is_key = around == Around::SimpleKey;
        let mut style = wanted;
        if is_key && analysis.multiline {
            style = Style::Double;
        }
        if style == Style::Plain && (!analysis.plain || (text.is_empty() && is_key)) {
            style = Style::Single;
        }
        if style == Style::Single && !analysis.single {
            style = Style::Double;
        }
        if style == Style::Literal && (!analysis.block || is_key) {
            style = Style::Double;
        }
        // The lines of a block scalar are indented deeper than their parent.
        let outer = self.indent;
        self.indent = Some(outer.map_or(INDENT, |indent| indent + INDENT));
        match style {
            Style::Plain => self.plain(text, !is_key),
            Style::Single => self.single(text, !is_key),
            Style::Double => self.double(text, !is_key),
            Style::Literal => self.literal(text),
        }
        self.indent = outer;
    }

    /// Writes a space, or a line break in its place.
    fn fold(&mut self, may: bool) -> bool {
        if may && self.column > WIDTH {
            self.write_indent();
            return true;
        }
        self.put(' ');
        false
    }

    fn plain(&mut self, text: &str, folds: bool) {
        if !self.whitespace && !text.is_empty() {
            self.put(' ');
        }
        let mut chars = text.chars().peekable();
        let mut after_space = false;
        while let Some(c) = chars.next() {
            if c == ' ' {
                self.fold(folds && !after_space && chars.peek() != Some(&' '));
                after_space = true;
            } else {
                self.put(c);
                self.indention = false;
                after_space = false;
            }
        }
        self.whitespace = false;
        self.indention = false;
    }

    fn single(&mut self, text: &str, folds: bool) {
        self.indicator("'", true, false, false);
        let mut chars = text.chars().peekable();
        let (mut first, mut after_space, mut after_break) = (true, false, false);
        while let Some(c) = chars.next() {
            if c == ' ' {
                let inside = !first && chars.peek().is_some_and(|next| *next != ' ');
                self.fold(folds && !after_space && inside);
                after_space = true;
            } else if is_break(c) {
                if !after_break && c == '\n' {
                    self.put_break('\n');
                }
                self.put_break(c);
                self.indention = true;
                after_break = true;
            } else {
                if after_break {
                    self.write_indent();
                }
                if c == '\'' {
                    self.put('\'');
                }
                self.put(c);
                self.indention = false;
                (after_space, after_break) = (false, false);
            }
            first = false;
        }
        if after_break {
            self.write_indent();
        }
        self.indicator("'", false, false, false);
        self.whitespace = false;
        self.indention = false;
    }

    fn double(&mut self, text: &str, folds: bool) {
        self.indicator("\"", true, false, false);
        let mut chars = text.chars().peekable();
        let (mut first, mut after_space) = (true, false);
        while let Some(c) = chars.next() {
            if !is_printable(c) || is_break(c) || c == '"' || c == '\\' {
                escape(c).chars().for_each(|c| self.put(c));
                after_space = false;
            } else if c == ' ' {
                let inside = !first && chars.peek().is_some();
                if self.fold(folds && !after_space && inside) && chars.peek() == Some(&' ') {
                    self.put('\\');
                }
                after_space = true;
            } else {
                self.put(c);
                after_space = false;
            }
            first = false;
        }
        self.indicator("\"", false, false, false);
        self.whitespace = false;
        self.indention = false;
    }

    fn literal(&mut self, text: &str) {
        self.indicator("|", true, false, false);
        if text.starts_with(|c| c == ' ' || is_break(c)) {
            self.indicator(&INDENT.to_string(), false, false, false);
        }
        let mut behind = text.chars().rev();
        self.open_ended = false;
        match (behind.next().map(is_break), behind.next().map(is_break)) {
            (Some(true), Some(false)) => {}
            (Some(true), _) => {
                self.open_ended = true;
                self.indicator("+", false, false, false);
            }
            _ => self.indicator("-", false, false, false),
        }
        self.put_break('\n');
        self.indention = true;
        self.whitespace = true;
        let mut after_break = true;
        for c in text.chars() {
            if is_break(c) {
                self.put_break(c);
                self.indention = true;
                after_break = true;
            } else {
                if after_break {
                    self.write_indent();
                }
                self.put(c);
                self.indention = false;
                after_break = false;
            }
        }
    }
}

/// The escape of a character in a double-quoted scalar.
fn escape(c: char) -> String {
    let short = match c {
        '\0' => '0',
        '\x07' => 'a',
        '\x08' => 'b',
        '\t' => 't',
        '\n' => 'n',
        '\x0b' => 'v',
        '\x0c' => 'f',
        '\r' => 'r',
        '\x1b' => 'e',
        '"' => '"',
        '\\' => '\\',
        '\u{85}' => 'N',
        '\u{a0}' => '_',
        '\u{2028}' => 'L',
        '\u{2029}' => 'P',
        _ => {
            let code = u32::from(c);
            return match code {
                0..=0xff => format!("\\x{code:02X}"),
                0x100..=0xffff => format!("\\u{code:04X}"),
                _ => format!("\\U{code:08X}"),
            };
        }
    };
    format!("\\{short}")
}
