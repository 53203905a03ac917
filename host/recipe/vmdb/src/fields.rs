//! Reads the keys of one step, each with its type, and reports the keys that no read asked for.

use crate::{
    complaint::nearest,
    yaml::{Node, Position, Value},
};

/// A fault in a key of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldFault {
    pub(crate) at: Position,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    /// Whether vmdb2 ignores the fault.
    pub(crate) lenient: bool,
}

/// The mapping of a step while it is read.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    step: &'a Node,
    asked: Vec<&'static str>,
    faults: Vec<FieldFault>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(step: &'a Node) -> Self {
        Self { step, asked: Vec::new(), faults: Vec::new() }
    }

    fn ask(&mut self, key: &'static str) -> Option<&'a Node> {
        self.asked.push(key);
        self.step.get(key)
    }

    pub(crate) fn fault(&mut self, key: &str, message: impl Into<String>, hint: Option<&str>) {
        self.faults.push(FieldFault {
            at: self.step.get(key).map_or(self.step.at, |node| node.at),
            message: message.into(),
            hint: hint.map(str::to_owned),
            lenient: false,
        });
    }

    fn wrong_type(&mut self, key: &str, node: &Node, expected: &str) {
        let hint = match node.value {
            Value::Int(_) | Value::Bool(_) | Value::Float(_) if expected == "a string" => {
                Some("put the value in quotes")
            }
            Value::Text(_) if expected != "a list" => Some("write the value without quotes"),
            _ => None,
        };
        let message = format!(
            "the key `{key}` is {} ({}), but must be {expected}",
            node.value.kind(),
            node.repr()
        );
        self.fault(key, message, hint);
    }

    fn missing(&mut self, key: &'static str) {
        self.fault("", format!("lacks the key `{key}`"), None);
    }

    /// A required string.
    pub(crate) fn text(&mut self, key: &'static str) -> String {
        match self.ask(key) {
            Some(Node { value: Value::Text(text), .. }) => text.clone(),
            Some(node) => {
                self.wrong_type(key, node, "a string");
                String::new()
            }
            None => {
                self.missing(key);
                String::new()
            }
        }
    }

    /// A required string that is not empty.
    pub(crate) fn word(&mut self, key: &'static str) -> String {
        let text = self.text(key);
        if text.is_empty() && matches!(self.step.get(key), Some(node) if node.text().is_some()) {
            self.fault(key, format!("the key `{key}` is empty"), None);
        }
        text
    }

    /// An optional string; an empty one counts as missing.
    pub(crate) fn optional(&mut self, key: &'static str) -> Option<String> {
        match self.ask(key) {
            Some(Node { value: Value::Text(text), .. }) => Some(text.clone()),
            Some(node) => {
                self.wrong_type(key, node, "a string");
                None
            }
            None => None,
        }
        .filter(|text| !text.is_empty())
    }

    /// The first non-empty value among several names of one key.
    pub(crate) fn alias(&mut self, keys: &[&'static str]) -> Option<String> {
        let values: Vec<Option<String>> = keys.iter().map(|key| self.optional(key)).collect();
        values.into_iter().flatten().next()
    }

    /// Like [`Self::alias`], but required.
    pub(crate) fn required_alias(&mut self, keys: &[&'static str]) -> String {
        let faults = self.faults.len();
        let value = self.alias(keys);
        if value.is_none() && self.faults.len() == faults {
            self.fault("", format!("lacks the key `{}`", keys[0]), None);
        }
        value.unwrap_or_default()
    }

    /// A string with a default.
    pub(crate) fn text_or(&mut self, key: &'static str, default: &str) -> String {
        match self.ask(key) {
            Some(Node { value: Value::Text(text), .. }) => text.clone(),
            Some(node) => {
                self.wrong_type(key, node, "a string");
                default.to_owned()
            }
            None => default.to_owned(),
        }
    }

    /// A boolean with a default.
    pub(crate) fn flag_or(&mut self, key: &'static str, default: bool) -> bool {
        match self.ask(key) {
            Some(Node { value: Value::Bool(truth), .. }) => *truth,
            Some(node) => {
                self.wrong_type(key, node, "true or false");
                default
            }
            None => default,
        }
    }

    /// A non-negative number with a default. As in Python, booleans are numbers.
    pub(crate) fn number_or(&mut self, key: &'static str, default: u32, max: u32) -> u32 {
        let number = match self.ask(key) {
            None => return default,
            Some(Node { value: Value::Int(number), .. }) => *number,
            Some(Node { value: Value::Bool(truth), .. }) => i64::from(*truth),
            Some(node) => {
                self.wrong_type(key, node, "an integer");
                return default;
            }
        };
        match u32::try_from(number) {
            Ok(number) if number <= max => number,
            _ => {
                self.fault(key, format!("the key `{key}` is {number}, out of 0 to {max}"), None);
                default
            }
        }
    }

    /// Permission bits with a default.
    pub(crate) fn mode_or(&mut self, key: &'static str, default: u32) -> u32 {
        self.number_or(key, default, 0o7777)
    }

    /// A list of strings with a default.
    pub(crate) fn list_or(&mut self, key: &'static str, default: &[&str]) -> Vec<String> {
        let items = match self.ask(key) {
            None => return default.iter().map(ToString::to_string).collect(),
            Some(Node { value: Value::List(items), .. }) => items,
            Some(node) => {
                self.wrong_type(key, node, "a list");
                return Vec::new();
            }
        };
        let mut words = Vec::new();
        for item in items {
            match item.text() {
                Some(text) => words.push(text.to_owned()),
                None => self.faults.push(FieldFault {
                    at: item.at,
                    message: format!(
                        "the list `{key}` holds {} ({}), but must hold strings",
                        item.value.kind(),
                        item.repr()
                    ),
                    hint: Some("put the value in quotes".into()),
                    lenient: false,
                }),
            }
        }
        words
    }

    /// An optional mapping.
    pub(crate) fn map(&mut self, key: &'static str) -> Option<&'a Node> {
        match self.ask(key) {
            Some(node) if matches!(node.value, Value::Map(_)) => Some(node),
            Some(node) => {
                self.wrong_type(key, node, "a mapping");
                None
            }
            None => None,
        }
    }

    /// The flags in the key `unless`, a name or a list of names: the step is skipped if all are
    /// set.
    pub(crate) fn unless(&mut self) -> Option<Vec<String>> {
        match self.ask("unless") {
            None => None,
            Some(Node { value: Value::Text(flag), .. }) => Some(vec![flag.clone()]),
            Some(Node { value: Value::List(_), .. }) => Some(self.list_or("unless", &[])),
            Some(node) => {
                self.wrong_type("unless", node, "a flag or a list of flags");
                None
            }
        }
    }

    /// The faults found, including keys that no read asked for.
    pub(crate) fn finish(mut self) -> Vec<FieldFault> {
        let Value::Map(entries) = &self.step.value else { return self.faults };
        for (key, _) in entries {
            let known = key.text().is_some_and(|text| self.asked.contains(&text));
            if known {
                continue;
            }
            let name = key.text().map_or_else(|| key.repr(), str::to_owned);
            let meant = nearest(&name, &self.asked);
            self.faults.push(FieldFault {
                at: key.at,
                message: format!("unknown key `{name}`"),
                hint: Some(match meant {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("the keys are {}", listed(&self.asked)),
                }),
                lenient: true,
            });
        }
        self.faults
    }

    /// The keys that were read.
    pub(crate) fn asked(&self) -> &[&'static str] {
        &self.asked
    }
}

/// Joins words as a list in prose.
pub(crate) fn listed(words: &[&str]) -> String {
    let mut seen: Vec<&str> = Vec::new();
    for word in words {
        if !seen.contains(word) {
            seen.push(word);
        }
    }
    seen.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
