//! YAML as B9 parses, merges and prints it, with the Haskell library `yaml` 0.11 and libyaml.

mod merge;
mod read;
mod scalar;
mod write;

pub(crate) use merge::merge;
pub(crate) use read::read;
pub(crate) use write::write;

use std::collections::BTreeMap;

use crate::number::Number;

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Yaml {
    /// The null value.
    Null,
    /// A boolean.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Yaml>),
    /// Values by key, sorted by the code points of the keys.
    Map(BTreeMap<String, Yaml>),
}

/// The first line of a cloud-init document.
const CLOUD_CONFIG: &str = "#cloud-config\n";

/// A cloud-init document: its first line, an empty line, the YAML, and another empty line.
pub(crate) fn write_cloud_config(document: &Yaml) -> String {
    format!("{CLOUD_CONFIG}\n{}\n", write(document))
}

/// The text of a cloud-init document without its first line.
pub(crate) fn without_cloud_config_line(text: &str) -> &str {
    text.strip_prefix(CLOUD_CONFIG).unwrap_or(text)
}
