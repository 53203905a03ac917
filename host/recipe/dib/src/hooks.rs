//! One tree of hooks out of all elements, and when each part of it becomes
//! visible in the guest.
//!
//! A file that becomes visible late can be changed without running earlier
//! stages again, so each phase's scripts are uploaded with their phase. Three
//! things make a file visible earlier:
//!
//! - the directory of every phase is there from the beginning, because scripts
//!   may put something into it;
//! - sub-directories of a phase (`install.d/x-source-install`) are there from
//!   extra-data.d on, whose install-types script links their content;
//! - when a script refers to the hooks tree (`TMP_HOOKS_PATH`, `in_target.d`) and
//!   names another phase's directory, that directory is there from the script's
//!   own phase on.
//!
//! The scripts of a phase become visible one by one, each right before it runs, so
//! that a changed one lets those before it stand. They are there from the beginning
//! of their phase when one of its scripts names them or the phase's directory in the
//! hooks tree, and so may look at what is behind it. Other files of a phase's
//! directory are there from its beginning.

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

/// What is wrong with the hooks of the elements.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] Error),
    /// Two elements have the same hook.
    #[error("There is a duplicated hook in your elements: {}", list(.0))]
    Duplicate(Vec<DuplicateHook>),
    /// Scripts whose first line ends as Windows ends lines, so that the kernel looks for an
    /// interpreter whose name ends with a carriage return.
    #[error("the first line of these scripts ends with CR LF, so no interpreter is found for them:{}", lines(.0))]
    LineEnds(Vec<std::path::PathBuf>),
}

fn lines(paths: &[std::path::PathBuf]) -> String {
    paths.iter().map(|path| format!("\n{}", path.display())).collect()
}

/// A hook that two elements have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuplicateHook {
    /// Its path below the element.
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

/// When something becomes visible: before the first phase, or with a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Visible {
    FromTheStart,
    From(Phase),
}

/// install-types' script, as every diskimage-builder since 1.0 has it: it names
/// install.d but looks at its sub-directories only.
const INSTALL_TYPES: &str = "extra-data.d/99-enable-install-types";

/// The trees of all elements and the merged tree of their hooks.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    merged: Tree,
    /// Which element each merged file is of.
    owners: BTreeMap<String, String>,
    /// Each element's own tree.
    trees: BTreeMap<String, Tree>,
    /// Directories that must be visible before their phase.
    early: BTreeMap<Phase, Visible>,
    /// Scripts that become visible right before they run.
    single: BTreeSet<String>,
    /// Which of [`OUTPUT_VARIABLES`] a file of the merged tree names.
    named_variables: BTreeSet<&'static str>,
    /// Variables that files of the merged tree name as a shell does.
    pub(crate) mentioned: BTreeSet<String>,
    /// Names of `--exclude-script` that took a file away.
    pub(crate) excluded: BTreeSet<String>,
    /// What the user should know: links that lead nowhere, files that are left out.
    pub(crate) warnings: Vec<String>,
}

/// A script that becomes visible right before it runs: its name, the element that it
/// is of, and its file.
pub(crate) type SingleScript<'a> = (&'a str, &'a str, &'a Found);

impl Hooks {
    /// Reads and merges the elements, which must be in the order of their names.
    pub(crate) fn merge(
        elements: &[Element],
        exclude_scripts: &[String],
    ) -> Result<Self, HookError> {
        let mut hooks = merge::merge(elements, exclude_scripts)?;
        hooks.check_line_ends()?;
        let texts = hooks.texts();
        hooks.mentioned = texts.values().flat_map(|text| variables(text)).collect();
        hooks.find_early(&texts);
        hooks.find_single(&texts);
        let named = |name: &&str| texts.values().any(|text| text.contains(*name));
        hooks.named_variables = OUTPUT_VARIABLES.into_iter().filter(named).collect();
        Ok(hooks)
    }

    /// Refuses scripts that the kernel cannot start, wherever the image gets its programs.
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

    /// What the files of the merged tree say, without comments.
    fn texts(&self) -> BTreeMap<String, String> {
        let files = self.merged.iter().filter_map(|(path, found)| match found {
            Found::File { host, .. } => Some((path.as_str().to_owned(), script(host)?)),
            _ => None,
        });
        files.collect()
    }

    /// Looks for scripts that use phases' directories.
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

    /// Looks for scripts that nothing looks at before they run.
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
            // Behind a link to a directory, the element itself has no such place.
            let own = self.owners.get(path.as_str()).and_then(|owner| self.trees.get(owner));
            let runs = runs && own.is_some_and(|tree| tree.contains_key(path.as_str()));
            runs && is_script_name(name)
                && !self.early.contains_key(&phase)
                && !named(path.as_str())
        });
        self.single = single.map(|(path, _)| path.as_str().to_owned()).collect();
    }

    /// The scripts of a phase that become visible right before they run, in the
    /// order in which they do.
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

    /// The part of the merged tree that becomes visible then.
    pub(crate) fn part(&self, visible: Visible) -> Result<Vec<UploadEntry>, Error> {
        let files = self.merged.iter().filter(|(path, found)| {
            let path = path.as_str();
            !self.single.contains(path) && self.visible(path, found, &self.merged) == visible
        });
        inputs::entries(files)
    }

    /// The part of an element's own tree that becomes visible then.
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

    /// The variables about outputs that scripts may want to know.
    pub(crate) fn named_variables(&self) -> &BTreeSet<&'static str> {
        &self.named_variables
    }

    /// The names of the files in hook directories.
    pub(crate) fn script_names(&self) -> Vec<&str> {
        let files =
            self.merged.iter().filter(|(_, found)| !matches!(found, Found::Directory { .. }));
        files.filter_map(|(path, _)| Some(path.as_str().rsplit_once('/')?.1)).collect()
    }

    /// What files of environment.d set to a plain value: file, name and value. Such a value
    /// may name a file of the host, as one that the user gives.
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

    /// Which element each script of a phase is of, for messages. Scripts of
    /// sub-directories are counted in by their base names, as links to them may
    /// be made later. Files of environment.d are in it by their paths.
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
        // The environment that every phase sources has names of its own.
        let environment = self.owners.iter().filter(|(path, _)| path.starts_with("environment.d/"));
        origins.extend(environment.map(|(path, owner)| (path.clone(), owner.clone())));
        origins
    }
}

/// Largest file that is looked through for names of phases.
const LARGEST_SCRIPT_BYTES: u64 = 1 << 20;

/// What a file says, without comments.
fn script(host: &std::path::Path) -> Option<String> {
    let mut bytes = Vec::new();
    let file = rooted::open_file(host).ok()?;
    file.take(LARGEST_SCRIPT_BYTES + 1).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 > LARGEST_SCRIPT_BYTES {
        return None;
    }
    Some(without_comments(&String::from_utf8_lossy(&bytes)))
}

/// The longest first line that is looked at: the kernel looks at 256 bytes.
const FIRST_LINE_BYTES: u64 = 256;

fn first_line_is_windows(host: &std::path::Path) -> bool {
    let mut bytes = Vec::new();
    let Ok(file) = rooted::open_file(host) else { return false };
    let read = file.take(FIRST_LINE_BYTES).read_to_end(&mut bytes);
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    read.is_ok() && line.len() < bytes.len() && line.starts_with(b"#!") && line.ends_with(b"\r")
}

/// `NAME=value` and `export NAME=${NAME:-value}`, where the value holds no expansion.
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

/// Names behind `$` and `${`.
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

/// The phases whose directories a script that uses the hooks tree names.
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
