//! Finds elements and computes the set that a build uses.
//!
//! The rules are those of diskimage-builder 3.43, with one difference: sets are sorted by name, so
//! that two runs agree.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use rooted::{Dir, Error};

use crate::options::DibOptions;

/// Limit for lists of names such as element-deps, and for descriptions of disks. Real ones have a
/// few lines.
const NAMES_MAX_BYTES: u64 = 1 << 20;

/// An element of the search path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Its name: the last part of its real path.
    pub name: String,
    /// Its directory, with symbolic links resolved; always below [`Element::root`].
    pub path: PathBuf,
    /// The search path directory that contains it, with symbolic links resolved. Links in the
    /// element are followed while they stay below it.
    pub root: PathBuf,
    /// Index of the search path entry that contains it.
    pub search_index: usize,
    /// The content of `element-provides`.
    pub provides: BTreeSet<String>,
    /// The content of `element-deps`, in the order of the file.
    pub depends: Vec<String>,
    /// Set if one of its lists is a link that leads out of [`Element::root`].
    pub leads_out: Option<LeadsOut>,
}

/// A link that is not followed because it leads out of its search path directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeadsOut {
    /// The path of the link.
    pub link: PathBuf,
    /// The search path directory.
    pub root: PathBuf,
}

impl Element {
    /// Opens the directory of the element.
    pub(crate) fn open(&self) -> Result<Dir, Error> {
        self.root()?.directory(&self.below(""))
    }

    /// Opens the search path directory of the element.
    pub(crate) fn root(&self) -> Result<Dir, Error> {
        Dir::open(&self.root)
    }

    /// A path in the element, relative to the search path directory.
    pub(crate) fn below(&self, path: &str) -> PathBuf {
        self.path.strip_prefix(&self.root).unwrap_or(&self.path).join(path)
    }

    /// Reads a text file of the element, following links that stay below the search path directory.
    /// Returns its path too, or `None` if it does not exist.
    pub(crate) fn text(&self, name: &str) -> Result<Option<(PathBuf, String)>, Error> {
        let root = self.root()?;
        let text = read_text(&root, &self.below(name))?;
        Ok(text.map(|text| (self.path.join(name), text)))
    }
}

/// Reads a small file, following links that stay below the directory; `None` if it does not exist.
fn read_text(root: &Dir, path: &Path) -> Result<Option<String>, Error> {
    let found = match root.resolve(path) {
        Ok(found) => found,
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    let read = root.file(&found)?.take(NAMES_MAX_BYTES + 1).read_to_string(&mut text);
    let read = read.and_then(|bytes| match bytes as u64 > NAMES_MAX_BYTES {
        true => {
            let reason = format!("it is longer than {} MiB", NAMES_MAX_BYTES >> 20);
            Err(io::Error::new(io::ErrorKind::FileTooLarge, reason))
        }
        false => Ok(()),
    });
    match read {
        Ok(()) => Ok(Some(text)),
        Err(source) => Err(Error::Io { action: "read", path: root.path().join(path), source }),
    }
}

/// Why the elements of a build cannot be determined.
#[derive(Debug, thiserror::Error)]
pub enum ElementError {
    /// A search path entry is not a directory.
    #[error("ELEMENTS_PATH entry '{}' is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// An element, or a list in it, cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Error),
    /// An element, or a list in it, is a link that leads out of the search path.
    #[error(
        "`{}` is a link that leads out of `{}`, so it is not followed",
        .0.link.display(),
        .0.root.display()
    )]
    LeadsOut(LeadsOut),
    /// The search path has no such element.
    #[error("Element '{name}' not found")]
    Missing {
        /// The name of the missing element.
        name: String,
        /// The elements whose element-deps contain it; empty if the user requested it.
        needed_by: Vec<String>,
        /// Search path entries that are not directories.
        no_directories: Vec<PathBuf>,
        /// An element with a similar name.
        similar: Option<String>,
    },
    /// Two elements provide the same name.
    #[error("{what}: already provided by {}", python_list(by))]
    ProvidedTwice {
        /// The name that both provide.
        what: String,
        /// The elements that provide it first.
        by: Vec<String>,
        /// The second provider, and the element that depends on it, if any.
        too: (String, Option<String>),
    },
    /// Requested elements that another element already provides.
    #[error("The following elements are already provided by another element{}", provided(.0))]
    AlreadyProvided(Vec<(String, Vec<String>)>),
    /// No element provides an operating system.
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

/// All elements of the search path.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    elements: BTreeMap<String, Element>,
    /// Links to directories outside of the search path, by name.
    leading_out: BTreeMap<String, LeadsOut>,
    /// Warnings about elements that hide one of a later directory: `Element <a> overrides <b>`.
    pub warnings: Vec<String>,
    /// Search path entries that were skipped because they are not directories.
    pub no_directories: Vec<PathBuf>,
}

impl Catalogue {
    /// Reads the directories of a search path; the first directory that has an element wins.
    ///
    /// # Errors
    /// Fails if an entry is not a directory or cannot be read.
    pub fn load(paths: &[PathBuf]) -> Result<Self, ElementError> {
        let mut catalogue = Self::default();
        let mut seen = BTreeSet::new();
        for (search_index, path) in paths.iter().enumerate().rev() {
            if !path.is_dir() {
                return Err(ElementError::NotADirectory(path.clone()));
            }
            let root = Dir::open(path)?;
            // A directory that occurs twice in the search path does not override itself.
            let again = !seen.insert(root.path().to_owned());
            for found in catalogue.directories(&root)? {
                let element = read_element(&root, &found, search_index)?;
                let hidden = catalogue.elements.get(&element.name);
                if let Some(hidden) = hidden.filter(|hidden| !again && hidden.path != element.path)
                {
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

    /// The element directories of a search path directory, relative to it: real directories, and
    /// links to directories below it.
    fn directories(&mut self, root: &Dir) -> Result<Vec<PathBuf>, ElementError> {
        let mut found = Vec::new();
        for name in root.names()? {
            let path = Path::new(&name);
            let metadata = root.metadata(path)?;
            if metadata.is_dir() {
                found.push(path.to_owned());
            } else if metadata.is_symlink() {
                match root.resolve(path) {
                    Ok(real) if root.metadata(&real)?.is_dir() && real != Path::new("") => {
                        found.push(real);
                    }
                    Err(Error::Outside { .. }) => {
                        let link = root.path().join(path);
                        let leads_out = LeadsOut { link, root: root.path().to_owned() };
                        self.leading_out.insert(name.to_string_lossy().into_owned(), leads_out);
                    }
                    // Neither files nor dangling links are elements.
                    _ => {}
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Looks up an element by name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Element> {
        self.elements.get(name)
    }

    /// The requested elements and their dependencies, without the names that an element provides,
    /// sorted by name.
    ///
    /// # Errors
    /// See [`ElementError`].
    pub fn expand(&self, requested: &[String]) -> Result<Vec<Element>, ElementError> {
        let mut chosen: BTreeSet<String> = requested.iter().cloned().collect();
        let mut queue: VecDeque<String> = requested.iter().cloned().collect();
        let mut provided_by: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut done: BTreeSet<String> = BTreeSet::new();
        // Names that no element has so far. A later element may provide them; the original fails or
        // succeeds depending on the random order of a set.
        let mut unknown: Vec<String> = Vec::new();
        // The first element that requested each name, for names that the user did not request.
        let mut wanted_by: BTreeMap<String, String> = BTreeMap::new();
        while let Some(name) = queue.pop_front() {
            if provided_by.contains_key(&name) || !done.insert(name.clone()) {
                continue;
            }
            let Some(element) = self.elements.get(&name) else {
                unknown.push(name);
                continue;
            };
            if let Some(leads_out) = &element.leads_out {
                return Err(ElementError::LeadsOut(leads_out.clone()));
            }
            for provide in &element.provides {
                if let Some(by) = provided_by.get(provide) {
                    let too = (name.clone(), wanted_by.get(&name).cloned());
                    let (what, by) = (provide.clone(), by.clone());
                    return Err(ElementError::ProvidedTwice { what, by, too });
                }
            }
            for provide in &element.provides {
                provided_by.insert(provide.clone(), vec![name.clone()]);
            }
            for dependency in &element.depends {
                if !requested.contains(dependency) {
                    wanted_by.entry(dependency.clone()).or_insert_with(|| name.clone());
                }
                if !chosen.contains(dependency) && !provided_by.contains_key(dependency) {
                    queue.push_back(dependency.clone());
                }
            }
            chosen.extend(element.depends.iter().cloned());
        }
        if let Some(name) = unknown.into_iter().find(|name| !provided_by.contains_key(name)) {
            return Err(match self.leading_out.get(&name) {
                Some(leads_out) => ElementError::LeadsOut(leads_out.clone()),
                None => self.missing(name, requested, &chosen),
            });
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

impl Catalogue {
    /// The error for a missing element, with all elements that need it.
    fn missing(
        &self,
        name: String,
        requested: &[String],
        chosen: &BTreeSet<String>,
    ) -> ElementError {
        let by_user = requested.contains(&name);
        let needed_by = chosen
            .iter()
            .filter(|other| {
                !by_user && self.elements.get(*other).is_some_and(|e| e.depends.contains(&name))
            })
            .cloned()
            .collect();
        let names: Vec<&str> = self.elements.keys().map(String::as_str).collect();
        let similar = yaml_tree::nearest(&name, &names).map(str::to_owned);
        ElementError::Missing {
            name,
            needed_by,
            no_directories: self.no_directories.clone(),
            similar,
        }
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

fn read_element(root: &Dir, below: &Path, search_index: usize) -> Result<Element, ElementError> {
    let name = below.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut leads_out = None;
    let mut names = |list: &str| match read_text(root, &below.join(list)) {
        Ok(text) => Ok(names_of(&text.unwrap_or_default())),
        // This becomes an error only if the element is used.
        Err(Error::Outside { root, path }) => {
            leads_out = Some(LeadsOut { link: root.join(path), root });
            Ok(Vec::new())
        }
        Err(error) => Err(ElementError::Unreadable(error)),
    };
    let provides = names("element-provides")?.into_iter().collect();
    let depends = names("element-deps")?;
    let (path, root) = (root.path().join(below), root.path().to_owned());
    Ok(Element { name, path, root, search_index, provides, depends, leads_out })
}

/// One name per line, trimmed; empty lines are skipped.
fn names_of(text: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in text.lines().map(str::trim).filter(|name| !name.is_empty()) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// The initial elements of a build: those that the user requested, the block-device element that
/// `vm` needs if none was requested, `base` unless it is skipped, and the ramdisk element.
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
