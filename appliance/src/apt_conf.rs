//! The settings of the host's apt that affect access to its mirror: proxies, and whether expired
//! Release files are accepted.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Settings by full lower-case name, such as `acquire::http::proxy`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AptConf {
    settings: BTreeMap<String, String>,
}

impl AptConf {
    /// Reads the settings of the host. Unreadable files are skipped: apt's configuration is a
    /// convenience here, not a requirement.
    #[must_use]
    pub(crate) fn of_host() -> Self {
        let mut files: Vec<PathBuf> = fs::read_dir("/etc/apt/apt.conf.d")
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        files.sort();
        files.push(Path::new("/etc/apt/apt.conf").to_owned());
        let mut conf = Self::default();
        for file in files {
            if let Ok(text) = fs::read_to_string(file) {
                conf.read(&text);
            }
        }
        conf
    }

    /// Returns the proxy for a scheme, if one is configured. `DIRECT` means no proxy.
    #[must_use]
    pub(crate) fn proxy(&self, scheme: &str) -> Option<&str> {
        // apt uses the http proxy for https unless configured otherwise.
        let by_scheme = self.settings.get(&format!("acquire::{scheme}::proxy"));
        let value = by_scheme.or_else(|| self.settings.get("acquire::http::proxy"))?;
        let usable = !value.is_empty() && !value.eq_ignore_ascii_case("direct");
        usable.then_some(value.as_str())
    }

    /// Whether apt accepts expired Release files.
    #[must_use]
    pub(crate) fn takes_expired(&self) -> bool {
        self.settings.get("acquire::check-valid-until").is_some_and(|value| is_false(value))
    }

    /// Parses `Name::Name "value";` and `Name { Name "value"; };`.
    fn read(&mut self, text: &str) {
        let mut scopes: Vec<String> = Vec::new();
        let mut words: Vec<String> = Vec::new();
        for token in tokens(text) {
            match token {
                Token::Word(word) => words.push(word),
                Token::Open => scopes.push(std::mem::take(&mut words).join("::")),
                Token::End => {
                    if let [name, value] = words.as_slice() {
                        let mut path: Vec<&str> = scopes.iter().map(String::as_str).collect();
                        path.push(name);
                        let path = path.join("::").to_ascii_lowercase();
                        self.settings.insert(path, value.clone());
                    }
                    words.clear();
                }
                Token::Close => {
                    words.clear();
                    scopes.pop();
                }
            }
        }
    }
}

/// Whether apt interprets a value as "no".
#[must_use]
pub(crate) fn is_false(value: &str) -> bool {
    ["no", "false", "without", "off", "disable", "0"]
        .iter()
        .any(|word| value.trim().eq_ignore_ascii_case(word))
}

enum Token {
    Word(String),
    Open,
    Close,
    End,
}

/// Splits the text into tokens, without `//`, `#` and `/* */` comments.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let after = &rest[first.len_utf8()..];
        rest = if first == '#' || rest.starts_with("//") {
            rest.split_once('\n').map_or("", |(_, rest)| rest)
        } else if rest.starts_with("/*") {
            rest.split_once("*/").map_or("", |(_, rest)| rest)
        } else if first == '"' {
            let (word, rest) = after.split_once('"').unwrap_or((after, ""));
            tokens.push(Token::Word(word.to_owned()));
            rest
        } else if let Some(token) = punctuation(first) {
            tokens.push(token);
            after
        } else {
            let end = rest
                .find(|c: char| c.is_whitespace() || matches!(c, '"' | '{' | '}' | ';'))
                .unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            &rest[end..]
        }
        .trim_start();
    }
    tokens
}

fn punctuation(character: char) -> Option<Token> {
    Some(match character {
        '{' => Token::Open,
        '}' => Token::Close,
        ';' => Token::End,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> AptConf {
        let mut conf = AptConf::default();
        conf.read(text);
        conf
    }

    #[test]
    fn flat_and_nested_settings() {
        let flat = conf("// comment\nAcquire::HTTP::Proxy \"http://p.test:3128\"; # x\n");
        assert_eq!(flat.proxy("http"), Some("http://p.test:3128"));
        assert_eq!(flat.proxy("https"), Some("http://p.test:3128"));
        let nested = conf(
            "Acquire { http { Proxy \"http://p.test\"; }; https { Proxy \"DIRECT\"; }; };\nAcquire::Check-Valid-Until false;",
        );
        assert_eq!(nested.proxy("http"), Some("http://p.test"));
        assert_eq!(nested.proxy("https"), None);
        assert!(nested.takes_expired());
        assert!(!conf("/* Acquire::Check-Valid-Until \"no\"; */").takes_expired());
    }
}
