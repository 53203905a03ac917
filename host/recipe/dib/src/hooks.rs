//! Merges the hooks of all elements into one tree, and decides when each file becomes visible in
//! the guest.
//!
//! A file that becomes visible late can change without invalidating earlier stages, so each phase's
//! scripts are uploaded with that phase. Three rules make a file visible earlier:
//!
//! - The directory of every phase exists from the beginning, because scripts may write to it.
//! - Sub-directories of a phase (`install.d/x-source-install`) exist from extra-data.d on, where
//!   the install-types script links their content.
//! - If a script refers to the hooks tree (`TMP_HOOKS_PATH`, `in_target.d`) and to another phase's
//!   directory, that directory exists from the script's own phase on.
//!
//! The scripts of a phase become visible one by one, each right before it runs, so that a change in
//! one does not invalidate those before it. They are visible from the beginning of their phase if
//! one of its scripts refers to them, or to the phase's directory in the hooks tree, and so may
//! read scripts that follow. Other files in a phase's directory are visible from its beginning.

mod merge;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
};

use plan::{UploadEntry, compare_scripts, is_script_name};
use rooted::Error;

use crate::{
    elements::Element,
    environment::OUTPUT_VARIABLES,
    files::{Found, Tree, leads_to},
    phase::Phase,
};

/// Why the hooks of the elements cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] Error),
    /// Two elements have the same hook.
    #[error("There is a duplicated hook in your elements: {}", list(.0))]
    Duplicate(Vec<DuplicateHook>),
    /// The first line of a script ends with CR LF, so the kernel looks for an interpreter whose
    /// name ends with a carriage return.
    #[error("the first line of these scripts ends with CR LF, so no interpreter is found for them:{}", lines(.0))]
    LineEnds(Vec<std::path::PathBuf>),
}

fn lines(paths: &[std::path::PathBuf]) -> String {
    paths.iter().map(|path| format!("\n{}", path.display())).collect()
}

/// A hook that two elements have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuplicateHook {
    /// Its path, relative to the element.
    pub path: String,
    /// The elements.
    pub elements: [String; 2],
}

fn list(duplicates: &[DuplicateHook]) -> String {
    let lines: Vec<String> = duplicates
        .iter()
        .map(|hook| format!("{} in: {} {}", hook.path, hook.elements[0], hook.elements[1]))
        .collect();
    lines.join("\n")
}

/// When a file becomes visible: before the first phase, or with a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Visible {
    FromTheStart,
    From(Phase),
}

/// The script of install-types, in every diskimage-builder since 1.0. It mentions install.d but
/// reads only its sub-directories.
const INSTALL_TYPES: &str = "extra-data.d/99-enable-install-types";

/// The trees of all elements and the merged tree of their hooks.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    merged: Tree,
    /// The element of each merged file.
    owners: BTreeMap<String, String>,
    /// Each element's own tree, by element.
    trees: BTreeMap<String, Tree>,
    /// Directories that must be visible before their phase.
    early: BTreeMap<Phase, Visible>,
    /// Scripts that become visible right before they run.
    single: BTreeSet<String>,
    /// The [`OUTPUT_VARIABLES`] that files of the merged tree mention.
    named_variables: BTreeSet<&'static str>,
    /// Shell variables that files of the merged tree mention.
    pub(crate) mentioned: BTreeSet<String>,
    /// The `--exclude-script` names that matched a file.
    pub(crate) excluded: BTreeSet<String>,
    /// Warnings: dangling links, and files that are left out.
    pub(crate) warnings: Vec<String>,
}

/// A script that becomes visible right before it runs: its name, its element, and its file.
pub(crate) type SingleScript<'a> = (&'a str, &'a str, &'a Found);

impl Hooks {
    /// Reads and merges the elements, which must be sorted by name.
    pub(crate) fn merge(
        elements: &[Element],
        exclude_scripts: &[String],
    ) -> Result<Self, HookError> {
        let mut hooks = merge::merge(elements, exclude_scripts)?;
        hooks.check_line_ends()?;
        hooks.warn_of_large();
        let texts = hooks.texts();
        hooks.mentioned = texts.values().flat_map(|text| variables(text)).collect();
        hooks.find_early(&texts);
        hooks.find_single(&texts);
        let named = |name: &&str| texts.values().any(|text| text.contains(*name));
        hooks.named_variables = OUTPUT_VARIABLES.into_iter().filter(named).collect();
        Ok(hooks)
    }

    /// Refuses scripts with CR LF on the first line, which the kernel cannot start.
    fn check_line_ends(&self) -> Result<(), HookError> {
        let scripts = self.merged.iter().filter_map(|(path, found)| match found {
            Found::File { host, mode } if mode & 0o111 != 0 => {
                let (top, name) = path.as_str().split_once('/')?;
                let runs = Phase::of_directory(top).is_some() && is_script_name(name);
                runs.then_some(host)
            }
            _ => None,
        });
        let wrong: Vec<_> = scripts.filter(|host| first_line_is_windows(host)).cloned().collect();
        if wrong.is_empty() { Ok(()) } else { Err(HookError::LineEnds(wrong)) }
    }

    /// Warns about scripts that are too large to be searched for names of phases.
    fn warn_of_large(&mut self) {
        for (path, found) in &self.merged {
            if matches!(found, Found::File { host, .. } if is_large_script(host)) {
                self.warnings.push(format!(
                    "`{path}` of the element {} has more than {} MiB and is not searched for the \
                     names of phases: files of other phases that it reads may not be there yet",
                    self.owners[path.as_str()],
                    LARGEST_SCRIPT_BYTES >> 20
                ));
            }
        }
    }

    /// The contents of the files of the merged tree, without comments.
    fn texts(&self) -> BTreeMap<String, String> {
        let files = self.merged.iter().filter_map(|(path, found)| match found {
            Found::File { host, .. } => Some((path.as_str().to_owned(), script(host)?)),
            _ => None,
        });
        files.collect()
    }

    /// Finds scripts that use directories of other phases.
    fn find_early(&mut self, texts: &BTreeMap<String, String>) {
        let mut early: BTreeMap<Phase, Visible> = BTreeMap::new();
        for (path, text) in texts {
            if path == INSTALL_TYPES && self.owners[path] == "install-types" {
                continue;
            }
            let top = path.split('/').next().unwrap_or_default();
            let since = Phase::of_directory(top).map_or(Visible::FromTheStart, Visible::From);
            for phase in mentioned(text).into_iter().filter(|p| since <= Visible::From(*p)) {
                let at = early.entry(phase).or_insert(Visible::From(phase));
                *at = since.min(*at);
            }
        }
        self.early = early;
    }

    /// Finds scripts that no other script reads before they run.
    fn find_single(&mut self, texts: &BTreeMap<String, String>) {
        let named = |path: &str| {
            let (top, name) = path.split_once('/').unwrap_or_default();
            let of_phase = |(other, _): &(&String, &String)| {
                *other != path && other.strip_prefix(top).is_some_and(|rest| rest.starts_with('/'))
            };
            texts.iter().filter(of_phase).any(|(_, text)| text.contains(name))
        };
        let single = self.merged.iter().filter(|(path, found)| {
            let Some((top, name)) = path.as_str().split_once('/') else { return false };
            let Some(phase) = Phase::of_directory(top) else { return false };
            let runs = matches!(found, Found::File { mode, .. } if mode & 0o111 != 0);
            // If the element's directory is a link, its own tree has no such path.
            let own = self.owners.get(path.as_str()).and_then(|owner| self.trees.get(owner));
            let runs = runs && own.is_some_and(|tree| tree.contains_key(path.as_str()));
            runs && is_script_name(name)
                && !self.early.contains_key(&phase)
                && !named(path.as_str())
        });
        self.single = single.map(|(path, _)| path.as_str().to_owned()).collect();
    }

    /// The scripts of a phase that become visible right before they run, in running order.
    pub(crate) fn single_scripts(&self, phase: Phase) -> Vec<SingleScript<'_>> {
        let prefix = format!("{}/", phase.directory());
        let mut scripts: Vec<SingleScript<'_>> = self
            .single
            .iter()
            .filter_map(|path| {
                let name = path.strip_prefix(&prefix)?;
                Some((name, self.owners[path].as_str(), &self.merged[path.as_str()]))
            })
            .collect();
        scripts.sort_by(|a, b| compare_scripts(a.0, b.0));
        scripts
    }

    fn visible(&self, path: &str, found: &Found, tree: &Tree) -> Visible {
        let mut parts = path.split('/');
        let top = parts.next().unwrap_or_default();
        let Some(phase) = Phase::of_directory(top) else { return Visible::FromTheStart };
        let Some(second) = parts.next() else { return Visible::FromTheStart };
        let own = Visible::From(phase);
        let is_directory = matches!(found, Found::Directory { .. })
            || matches!(leads_to(tree, &format!("{top}/{second}")), Some(Found::Directory { .. }));
        let own = if is_directory { own.min(Visible::From(Phase::ExtraData)) } else { own };
        self.early.get(&phase).map_or(own, |early| own.min(*early))
    }

    /// The part of the merged tree that becomes visible at `visible`.
    pub(crate) fn part(&self, visible: Visible) -> Result<Vec<UploadEntry>, Error> {
        let files = self.merged.iter().filter(|(path, found)| {
            let path = path.as_str();
            !self.single.contains(path) && self.visible(path, found, &self.merged) == visible
        });
        inputs::entries(files)
    }

    /// The part of an element's own tree that becomes visible at `visible`.
    pub(crate) fn element_part(
        &self,
        element: &str,
        visible: Visible,
    ) -> Result<Vec<UploadEntry>, Error> {
        let Some(tree) = self.trees.get(element) else { return Ok(Vec::new()) };
        let files = tree.iter().filter(|(path, found)| {
            let path = path.as_str();
            !self.single.contains(path) && self.visible(path, found, tree) == visible
        });
        inputs::entries(files)
    }

    /// The [`OUTPUT_VARIABLES`] that scripts mention.
    pub(crate) fn named_variables(&self) -> &BTreeSet<&'static str> {
        &self.named_variables
    }

    /// The names of the files in all hook directories.
    pub(crate) fn script_names(&self) -> Vec<&str> {
        let files =
            self.merged.iter().filter(|(_, found)| !matches!(found, Found::Directory { .. }));
        files.filter_map(|(path, _)| Some(path.as_str().rsplit_once('/')?.1)).collect()
    }

    /// Variables that files in environment.d set to a literal value: file, name and value. Like a
    /// value of the user, such a value may be the path of a host file.
    pub(crate) fn assignments(&self) -> Vec<(String, String, String)> {
        let mut found = Vec::new();
        for (path, file) in &self.merged {
            let Found::File { host, .. } = file else { continue };
            if !path.as_str().starts_with("environment.d/") {
                continue;
            }
            for (name, value) in script(host).iter().flat_map(|text| assigned(text)) {
                found.push((
                    format!("{path} of the element {}", self.owners[path.as_str()]),
                    name,
                    value,
                ));
            }
        }
        found
    }

    /// Whether any element has a directory for the phase.
    pub(crate) fn has_phase(&self, phase: Phase) -> bool {
        self.merged.contains_key(phase.directory())
    }

    /// The element of each script of a phase, for messages. Scripts in sub-directories are listed
    /// by base name, since scripts may link them into the phase later. Files of environment.d are
    /// listed by path.
    pub(crate) fn origins(&self, phase: Phase) -> BTreeMap<String, String> {
        let prefix = format!("{}/", phase.directory());
        let mut origins = BTreeMap::new();
        let mut ambiguous = BTreeSet::new();
        for (path, owner) in &self.owners {
            let Some(rest) = path.strip_prefix(&prefix) else { continue };
            if matches!(self.merged[path.as_str()], Found::Directory { .. }) {
                continue;
            }
            let name = rest.rsplit('/').next().unwrap_or(rest).to_owned();
            if rest.contains('/') && origins.contains_key(&name) {
                ambiguous.insert(name);
            } else {
                origins.insert(name, owner.clone());
            }
        }
        origins.retain(|name, _| !ambiguous.contains(name));
        // Every phase sources environment.d, whose files are listed by path.
        let environment = self.owners.iter().filter(|(path, _)| path.starts_with("environment.d/"));
        origins.extend(environment.map(|(path, owner)| (path.clone(), owner.clone())));
        origins
    }
}

/// Largest file that is searched for names of phases.
const LARGEST_SCRIPT_BYTES: u64 = 1 << 20;

/// The content of a file, without comments.
fn script(host: &std::path::Path) -> Option<String> {
    let mut bytes = Vec::new();
    let file = rooted::open_file(host).ok()?;
    file.take(LARGEST_SCRIPT_BYTES + 1).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 > LARGEST_SCRIPT_BYTES {
        return None;
    }
    Some(without_comments(&String::from_utf8_lossy(&bytes)))
}

/// Whether a file is a script of which [`script`] gives nothing, because it is too large.
fn is_large_script(host: &std::path::Path) -> bool {
    let mut first = [0; 2];
    let Ok(mut file) = rooted::open_file(host) else { return false };
    file.metadata().is_ok_and(|metadata| metadata.len() > LARGEST_SCRIPT_BYTES)
        && file.read_exact(&mut first).is_ok()
        && &first == b"#!"
}

/// Length of the first line that is checked: the kernel reads 256 bytes.
const FIRST_LINE_BYTES: u64 = 256;

fn first_line_is_windows(host: &std::path::Path) -> bool {
    let mut bytes = Vec::new();
    let Ok(file) = rooted::open_file(host) else { return false };
    let read = file.take(FIRST_LINE_BYTES).read_to_end(&mut bytes);
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    read.is_ok() && line.len() < bytes.len() && line.starts_with(b"#!") && line.ends_with(b"\r")
}

/// Finds `NAME=value` and `export NAME=${NAME:-value}` where the value contains no expansion.
fn assigned(text: &str) -> Vec<(String, String)> {
    let one = |line: &str| {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let (name, value) = line.split_once('=')?;
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(fine) {
            return None;
        }
        let unquoted = |text: &str| text.trim_matches(['"', '\'']).to_owned();
        let value = unquoted(value);
        let default = value.strip_prefix(&format!("${{{name}:-"));
        let default = default.and_then(|rest| rest.strip_suffix('}'));
        let value = default.map_or(value.clone(), unquoted);
        (!value.contains(['$', '`'])).then(|| (name.to_owned(), value))
    };
    text.lines().filter_map(one).collect()
}

/// The names behind `$` and `${`.
fn variables(text: &str) -> BTreeSet<String> {
    let names = text.split('$').skip(1).filter_map(|rest| {
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        let rest = rest.strip_prefix(['!', '#']).unwrap_or(rest);
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let name = &rest[..end];
        (!name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())).then_some(name)
    });
    names.map(str::to_owned).collect()
}

fn without_comments(text: &str) -> String {
    let is_comment = |line: &&str| line.trim_start().starts_with('#');
    text.lines().filter(|line| !is_comment(line)).collect::<Vec<_>>().join("\n")
}

/// The phases whose directories a script mentions, if it uses the hooks tree.
fn mentioned(text: &str) -> Vec<Phase> {
    if !text.contains("TMP_HOOKS_PATH") && !text.contains("in_target.d") {
        return Vec::new();
    }
    let names = |directory: &str| {
        text.match_indices(directory).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        })
    };
    Phase::ALL.into_iter().filter(|phase| names(phase.directory())).collect()
}

#[cfg(test)]
mod tests;
