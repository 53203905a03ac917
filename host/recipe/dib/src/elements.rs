//! Elements: finding them, and which ones a build consists of.
//!
//! The rules are those of diskimage-builder 3.43, with one difference: sets are
//! kept in the order of names, so that two runs agree.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::Read as _,
    path::{Path, PathBuf},
};

use rooted::{Dir, Error};

use crate::options::DibOptions;

/// Lists of names are some lines; a file over this is none.
const NAMES_MAX_BYTES: u64 = 1 << 20;

/// An element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Its name: the last part of its real path.
    pub name: String,
    /// Its directory, symbolic links resolved. It lies beneath [`Element::root`].
    pub path: PathBuf,
    /// The directory of the search path that it was found in, symbolic links resolved.
    /// Links of the element that stay beneath it may be read through.
    pub root: PathBuf,
    /// Which entry of the search path it was found in.
    pub search_index: usize,
    /// `element-provides`.
    pub provides: BTreeSet<String>,
    /// `element-deps`, in the order of the file.
    pub depends: Vec<String>,
    /// A list that is a link which leads out of [`Element::root`].
    pub leads_out: Option<LeadsOut>,
}

/// A link that leads out of a directory of the search path, so that it is not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeadsOut {
    /// The link.
    pub link: PathBuf,
    /// The directory of the search path.
    pub root: PathBuf,
}

impl Element {
    /// Opens its directory.
    pub(crate) fn open(&self) -> Result<Dir, Error> {
        self.root()?.directory(&self.below(""))
    }

    /// Opens the directory of the search path.
    pub(crate) fn root(&self) -> Result<Dir, Error> {
        Dir::open(&self.root)
    }

    /// A path of the element, seen from the directory of the search path.
    pub(crate) fn below(&self, path: &str) -> PathBuf {
        self.path.strip_prefix(&self.root).unwrap_or(&self.path).join(path)
    }

    /// Reads a text of the element, through links that stay beneath the directory of the
    /// search path; `None` when there is none. Gives its path too.
    pub(crate) fn text(&self, name: &str) -> Result<Option<(PathBuf, String)>, Error> {
        let root = self.root()?;
        let text = read_text(&root, &self.below(name))?;
        Ok(text.map(|text| (self.path.join(name), text)))
    }
}

/// Reads a small file, through links that stay beneath the directory; `None` when there is
/// none.
fn read_text(root: &Dir, path: &Path) -> Result<Option<String>, Error> {
    let found = match root.resolve(path) {
        Ok(found) => found,
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    let read = root.file(&found)?.take(NAMES_MAX_BYTES).read_to_string(&mut text);
    match read {
        Ok(_) => Ok(Some(text)),
        Err(source) => Err(Error::Io { action: "read", path: root.path().join(path), source }),
    }
}

/// What can be wrong with elements.
#[derive(Debug, thiserror::Error)]
pub enum ElementError {
    /// A directory of the search path is none.
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
    /// An element that nobody has.
    #[error("Element '{name}' not found")]
    Missing {
        /// Its name.
        name: String,
        /// The elements whose element-deps name it; none when the user did.
        needed_by: Vec<String>,
        /// Entries of the search path that are no directories.
        no_directories: Vec<PathBuf>,
        /// An element whose name is nearly the same.
        similar: Option<String>,
    },
    /// Two elements that provide the same.
    #[error("{what}: already provided by {}", python_list(by))]
    ProvidedTwice {
        /// What they provide.
        what: String,
        /// Who was first.
        by: Vec<String>,
        /// Who provides it too, and the element that depends on it, if one does.
        too: (String, Option<String>),
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
    /// Links to directories that lead out of the search path, by name.
    leading_out: BTreeMap<String, LeadsOut>,
    /// Elements that hide one of a later directory: `Element <a> overrides <b>`.
    pub warnings: Vec<String>,
    /// Entries of the search path that were passed over, as they are no directories.
    pub no_directories: Vec<PathBuf>,
}

impl Catalogue {
    /// Reads the directories of a search path; the first one wins.
    ///
    /// # Errors
    /// When a directory is none or cannot be read.
    pub fn load(paths: &[PathBuf]) -> Result<Self, ElementError> {
        let mut catalogue = Self::default();
        let mut seen = BTreeSet::new();
        for (search_index, path) in paths.iter().enumerate().rev() {
            if !path.is_dir() {
                return Err(ElementError::NotADirectory(path.clone()));
            }
            let root = Dir::open(path)?;
            // A directory that is in the search path twice does not override itself.
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

    /// The elements of a directory of the search path, seen from there: its directories,
    /// and links to directories that lie beneath it.
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
                    // A file, or a link to nothing.
                    _ => {}
                }
            }
        }
        found.sort();
        Ok(found)
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
        // Who named an element first, for those that the user did not.
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
    /// The error for an element that is not there, with everybody who wants it.
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
        // That counts once the element is wanted.
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

/// One name in a line; blanks around it and empty lines do not count.
fn names_of(text: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in text.lines().map(str::trim).filter(|name| !name.is_empty()) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
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
