//! Elements: finding them, and which ones a build consists of.
//!
//! The rules are those of diskimage-builder 3.43, with one difference: sets are
//! kept in the order of names, so that two runs agree.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs, io,
    path::{Path, PathBuf},
};

use crate::options::DibOptions;

/// An element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Its name: the last part of its real path.
    pub name: String,
    /// Its directory, symbolic links resolved.
    pub path: PathBuf,
    /// Which entry of the search path it was found in.
    pub search_index: usize,
    /// `element-provides`.
    pub provides: BTreeSet<String>,
    /// `element-deps`, in the order of the file.
    pub depends: Vec<String>,
}

/// What can be wrong with elements.
#[derive(Debug, thiserror::Error)]
pub enum ElementError {
    /// A directory of the search path is none.
    #[error("ELEMENTS_PATH entry '{}' is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// An element, or a list in it, cannot be read.
    #[error("cannot read `{}`", path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An element that nobody has.
    #[error("Element '{0}' not found")]
    Missing(String),
    /// Two elements that provide the same.
    #[error("{what}: already provided by {}", python_list(by))]
    ProvidedTwice {
        /// What they provide.
        what: String,
        /// Who was first.
        by: Vec<String>,
    },
    /// Elements that were asked for although another one takes their place.
    #[error("The following elements are already provided by another element{}", provided(.0))]
    AlreadyProvided(Vec<(String, Vec<String>)>),
    /// No element brings an operating system.
    #[error("Please include an operating system element")]
    NoOperatingSystem,
}

fn python_list(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    format!("[{}]", names.join(", "))
}

fn provided(conflicts: &[(String, Vec<String>)]) -> String {
    conflicts
        .iter()
        .map(|(name, by)| format!("\n{name} : already provided by {}", python_list(by)))
        .collect()
}

/// Every element that the search path has.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    elements: BTreeMap<String, Element>,
    /// Elements that hide one of a later directory: `Element <a> overrides <b>`.
    pub warnings: Vec<String>,
}

impl Catalogue {
    /// Reads the directories of a search path; the first one wins.
    ///
    /// # Errors
    /// When a directory is none or cannot be read.
    pub fn load(paths: &[PathBuf]) -> Result<Self, ElementError> {
        let mut catalogue = Self::default();
        for (search_index, path) in paths.iter().enumerate().rev() {
            if !path.is_dir() {
                return Err(ElementError::NotADirectory(path.clone()));
            }
            for directory in directories(path)? {
                let element = read_element(&directory, search_index)?;
                if let Some(hidden) = catalogue.elements.get(&element.name) {
                    catalogue.warnings.push(format!(
                        "Element <{}> overrides <{}>",
                        element.path.display(),
                        hidden.path.display()
                    ));
                }
                catalogue.elements.insert(element.name.clone(), element);
            }
        }
        Ok(catalogue)
    }

    /// The element of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Element> {
        self.elements.get(name)
    }

    /// The requested elements and everything that they depend on, without the
    /// names that an element provides, in the order of names.
    ///
    /// # Errors
    /// As [`ElementError`] says.
    pub fn expand(&self, requested: &[String]) -> Result<Vec<Element>, ElementError> {
        let mut chosen: BTreeSet<String> = requested.iter().cloned().collect();
        let mut queue: VecDeque<String> = requested.iter().cloned().collect();
        let mut provided_by: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut done: BTreeSet<String> = BTreeSet::new();
        // Names that no element has yet. A later element may provide them: the
        // original fails or succeeds by the chance order of a set.
        let mut unknown: Vec<String> = Vec::new();
        while let Some(name) = queue.pop_front() {
            if provided_by.contains_key(&name) || !done.insert(name.clone()) {
                continue;
            }
            let Some(element) = self.elements.get(&name) else {
                unknown.push(name);
                continue;
            };
            for provide in &element.provides {
                if let Some(by) = provided_by.get(provide) {
                    return Err(ElementError::ProvidedTwice {
                        what: provide.clone(),
                        by: by.clone(),
                    });
                }
            }
            for provide in &element.provides {
                provided_by.insert(provide.clone(), vec![name.clone()]);
            }
            for dependency in &element.depends {
                if !chosen.contains(dependency) && !provided_by.contains_key(dependency) {
                    queue.push_back(dependency.clone());
                }
            }
            chosen.extend(element.depends.iter().cloned());
        }
        if let Some(name) = unknown.into_iter().find(|name| !provided_by.contains_key(name)) {
            return Err(ElementError::Missing(name));
        }
        check_conflicts(requested, &provided_by)?;
        if !provided_by.contains_key("operating-system") {
            return Err(ElementError::NoOperatingSystem);
        }
        Ok(chosen
            .iter()
            .filter(|name| !provided_by.contains_key(*name))
            .filter_map(|name| self.elements.get(name))
            .cloned()
            .collect())
    }
}

fn check_conflicts(
    requested: &[String],
    provided_by: &BTreeMap<String, Vec<String>>,
) -> Result<(), ElementError> {
    let requested: BTreeSet<&String> = requested.iter().collect();
    let conflicts: Vec<(String, Vec<String>)> = requested
        .into_iter()
        .filter_map(|name| provided_by.get(name).map(|by| (name.clone(), by.clone())))
        .collect();
    if conflicts.is_empty() { Ok(()) } else { Err(ElementError::AlreadyProvided(conflicts)) }
}

fn directories(path: &Path) -> Result<Vec<PathBuf>, ElementError> {
    let unreadable = |source| ElementError::Unreadable { path: path.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?.path();
        if entry.is_dir() {
            found.push(fs::canonicalize(&entry).map_err(unreadable)?);
        }
    }
    found.sort();
    Ok(found)
}

fn read_element(path: &Path, search_index: usize) -> Result<Element, ElementError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let provides = read_names(&path.join("element-provides"))?.into_iter().collect();
    let depends = read_names(&path.join("element-deps"))?;
    Ok(Element { name, path: path.to_owned(), search_index, provides, depends })
}

/// One name in a line; blanks around it and empty lines do not count.
fn read_names(path: &Path) -> Result<Vec<String>, ElementError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ElementError::Unreadable { path: path.to_owned(), source }),
    };
    let mut names: Vec<String> = Vec::new();
    for name in text.lines().map(str::trim).filter(|name| !name.is_empty()) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// The elements that a build starts from: what the user named, the block-device
/// element that `vm` needs when none was named, `base` unless it is skipped, and
/// the ramdisk element.
#[must_use]
pub fn requested(options: &DibOptions, arch: &str) -> Vec<String> {
    let mut elements = options.elements.clone();
    let has_vm = elements.iter().any(|name| name == "vm");
    if has_vm && !elements.iter().any(|name| name.starts_with("block-device-")) {
        let arm = matches!(arch, "arm64" | "aarch64");
        elements.push(if arm { "block-device-efi" } else { "block-device-mbr" }.to_owned());
    }
    if !options.skip_base {
        elements.insert(0, "base".to_owned());
    }
    if options.ramdisk {
        let ramdisk = options.ramdisk_element.as_deref().unwrap_or("ramdisk");
        elements.insert(0, ramdisk.to_owned());
    }
    elements
}

#[cfg(test)]
mod tests;
