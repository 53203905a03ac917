//! YAML as B9 reads, merges and writes it: that of the Haskell library `yaml` 0.11 with
//! libyaml below it.

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
    /// A truth.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Yaml>),
    /// Values by keys, in order of the keys' code points.
    Map(BTreeMap<String, Yaml>),
}

/// The line that begins a document for cloud-init.
const CLOUD_CONFIG: &str = "#cloud-config\n";

/// A document for cloud-init: its first line, an empty line, the document, and another
/// empty line.
pub(crate) fn write_cloud_config(document: &Yaml) -> String {
    format!("{CLOUD_CONFIG}\n{}\n", write(document))
}

/// The text of a document for cloud-init without its first line.
pub(crate) fn without_cloud_config_line(text: &str) -> &str {
    text.strip_prefix(CLOUD_CONFIG).unwrap_or(text)
}
