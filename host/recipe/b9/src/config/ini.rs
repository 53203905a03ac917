//! INI files as the Haskell library `ConfigFile` reads them.

use std::collections::BTreeMap;

/// The section that provides keys missing in others.
const DEFAULT: &str = "DEFAULT";

/// Why a text is not an INI file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `{text}` is neither `[section]` nor `key: value`")]
pub struct IniError {
    /// The line number, from 1.
    pub line: usize,
    /// The text of the line.
    pub text: String,
}

/// A parsed INI file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Ini {
    /// Values by section and by lower-case key.
    sections: BTreeMap<String, BTreeMap<String, String>>,
}

fn is_comment(line: &str) -> bool {
    line.starts_with(['#', ';']) || line.trim().is_empty()
}

/// The name of the section that a line begins, if it does.
fn section_of(line: &str) -> Option<&str> {
    line.trim_end().strip_prefix('[')?.strip_suffix(']').map(str::trim)
}

impl Ini {
    pub(super) fn parse(text: &str) -> Result<Self, IniError> {
        let mut ini = Self::default();
        let mut section = DEFAULT.to_owned();
        let mut last: Option<String> = None;
        for (index, line) in text.lines().enumerate() {
            if is_comment(line) {
                continue;
            }
            if line.starts_with([' ', '\t'])
                && let Some(value) = last.as_ref().and_then(|key| ini.value_mut(&section, key))
            {
                value.push('\n');
                value.push_str(line.trim());
                continue;
            }
            if let Some(name) = section_of(line) {
                section = name.to_owned();
                ini.sections.entry(section.clone()).or_default();
                last = None;
                continue;
            }
            let Some((key, value)) = line.split_once([':', '=']) else {
                return Err(IniError { line: index + 1, text: line.trim().to_owned() });
            };
            let key = key.trim().to_ascii_lowercase();
            let values = ini.sections.entry(section.clone()).or_default();
            values.insert(key.clone(), value.trim().to_owned());
            last = Some(key);
        }
        Ok(ini)
    }

    fn value_mut(&mut self, section: &str, key: &str) -> Option<&mut String> {
        self.sections.get_mut(section)?.get_mut(key)
    }

    pub(super) fn sections(&self) -> impl Iterator<Item = &str> {
        self.sections.keys().map(String::as_str).filter(|name| *name != DEFAULT)
    }

    /// The value of a key in a section, or else in the default section.
    pub(super) fn get(&self, section: &str, key: &str) -> Option<&str> {
        let of = |section: &str| self.sections.get(section)?.get(key).map(String::as_str);
        of(section).or_else(|| of(DEFAULT))
    }
}

/// Replaces the section of a name, or appends it.
pub(super) fn with_section(text: &str, name: &str, section: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let start = lines.iter().position(|line| section_of(line) == Some(name));
    let mut tail = Vec::new();
    if let Some(start) = start {
        let behind = &lines[start + 1..];
        let length = behind.iter().position(|line| section_of(line).is_some());
        let end = length.map_or(lines.len(), |length| start + 1 + length);
        tail = lines.split_off(end);
        // Comments and empty lines before the next section belong to that section.
        let old = lines.split_off(start);
        let kept = old.iter().rev().take_while(|line| is_comment(line)).count();
        tail.splice(0..0, old[old.len() - kept..].iter().copied());
    }
    let mut made = lines.join("\n");
    if !made.is_empty() {
        made.push('\n');
        if !made.ends_with("\n\n") {
            made.push('\n');
        }
    }
    made.push_str(section);
    if !tail.is_empty() {
        made.push_str(&tail.join("\n"));
        made.push('\n');
    }
    made
}
