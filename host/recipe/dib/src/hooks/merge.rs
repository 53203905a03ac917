//! Merges the elements' trees by the rules of diskimage-builder's shell code.
//!
//! diskimage-builder copies the content of each directory of an element, and the files at its top,
//! with `cp -a`: links arrive as links. Links are followed at the first level only: if an element's
//! `pre-install.d` is a link to its `install.d`, the content is copied. vbuild does this only if
//! the link stays below the search path directory of the element.

use std::{cell::RefCell, collections::BTreeSet, path::Path};

use plan::UnixPath;
use rooted::{Dir, Error};

use super::{DuplicateHook, HookError, Hooks};
use crate::{
    elements::Element,
    files::{Found, Tree, leads_to, read_tree},
    phase::Phase,
};

/// Directories of an element that contain its tests.
const TEST_DIRECTORIES: [&str; 2] = ["tests", "test-elements"];

/// Reads and merges the elements, which must be sorted by name.
pub(super) fn merge(elements: &[Element], exclude_scripts: &[String]) -> Result<Hooks, HookError> {
    let mut hooks = Hooks::default();
    let mut duplicates = Vec::new();
    for element in elements {
        let excluded = RefCell::new(BTreeSet::new());
        let skip = |path: &str, directory: bool| {
            if is_excluded(path, directory, exclude_scripts) {
                let name = path.rsplit('/').next().unwrap_or(path);
                excluded.borrow_mut().insert(name.to_owned());
                return true;
            }
            is_no_input(path, directory)
        };
        let (tree, warnings) = read_tree(&element.open()?, &skip)?;
        hooks.warnings.extend(warnings);
        let followed = follow_links(&mut hooks, element, &tree, &skip)?;
        hooks.merge_tree(&element.name, &followed, &mut duplicates);
        hooks.trees.insert(element.name.clone(), tree);
        hooks.excluded.extend(excluded.into_inner());
    }
    if !duplicates.is_empty() {
        return Err(HookError::Duplicate(duplicates));
    }
    hooks.warn_of_links();
    Ok(hooks)
}

/// Whether a path is documentation or a test, and so no input of a build.
fn is_no_input(path: &str, directory: bool) -> bool {
    !path.contains('/') && ((directory && TEST_DIRECTORIES.contains(&path)) || path == "README.rst")
}

/// Whether `--exclude-script` removes a file: one of that name, in any directory.
fn is_excluded(path: &str, directory: bool, exclude_scripts: &[String]) -> bool {
    let name = path.rsplit_once('/').map(|(_, name)| name);
    !directory && name.is_some_and(|name| exclude_scripts.iter().any(|excluded| excluded == name))
}

/// The target of a link at the top of an element.
enum LinkTarget {
    /// A directory below the search path directory that does not contain the link itself.
    Directory(Dir),
    /// Not a directory; the link itself is copied.
    Link,
    /// The link dangles.
    Nothing,
    /// The target is outside of the search path.
    Outside,
}

fn link_target(element: &Element, path: &str) -> Result<LinkTarget, Error> {
    let root = element.root()?;
    let found = match root.resolve(&element.below(path)) {
        Ok(found) => found,
        Err(Error::Outside { .. }) => return Ok(LinkTarget::Outside),
        Err(Error::Io { .. }) => return Ok(LinkTarget::Nothing),
        Err(error) => return Err(error),
    };
    // A link to a parent directory would copy the element into itself.
    let around = element.below("").starts_with(&found);
    if around || !root.metadata(&found)?.is_dir() {
        return Ok(LinkTarget::Link);
    }
    root.directory(&found).map(LinkTarget::Directory)
}

/// The tree as `cp -a` copies it: links at the top of the element are followed.
fn follow_links(
    hooks: &mut Hooks,
    element: &Element,
    tree: &Tree,
    skip: &dyn Fn(&str, bool) -> bool,
) -> Result<Tree, Error> {
    let mut result = tree.clone();
    let first = tree.iter().filter(|(path, _)| !path.as_str().contains('/'));
    for (path, found) in first {
        let Found::Symlink { target } = found else { continue };
        let name = path.as_str();
        match link_target(element, name)? {
            LinkTarget::Link => {}
            LinkTarget::Nothing => {
                result.remove(name);
            }
            LinkTarget::Outside => {
                if Phase::of_directory(name).is_some() || name == "environment.d" {
                    result.remove(name);
                }
                if !name.starts_with("README") {
                    hooks.warnings.push(format!(
                        "`{path}` of the element {} is a link to `{target}`, which leads out of \
                         `{}`: it is not followed. Put a copy in its place",
                        element.name,
                        element.root.display()
                    ));
                }
            }
            LinkTarget::Directory(_) if TEST_DIRECTORIES.contains(&name) => {
                result.remove(name);
            }
            LinkTarget::Directory(directory) => {
                let inner = |path: &str, directory| skip(&format!("{name}/{path}"), directory);
                let (content, warnings) = read_tree(&directory, &inner)?;
                hooks.warnings.extend(warnings);
                let mode = {
                    use std::os::unix::fs::MetadataExt;
                    directory.metadata(Path::new(""))?.mode() & 0o7777
                };
                result.insert(path.clone(), Found::Directory { mode });
                result.extend(content.into_iter().map(|(below, found)| (path.join(&below), found)));
            }
        }
    }
    Ok(result)
}

impl Hooks {
    /// Merges one element's tree. Files at the top of elements replace each other; files directly
    /// in one of its directories must come from one element; deeper ones replace each other again.
    /// A directory and a non-directory never replace each other.
    fn merge_tree(&mut self, element: &str, tree: &Tree, duplicates: &mut Vec<DuplicateHook>) {
        for (path, found) in tree {
            // The original's listing of a hook directory omits hidden files.
            let second = path.as_str().split('/').nth(1);
            if second.is_some_and(|name| name.starts_with('.')) {
                continue;
            }
            match self.collision(path, found) {
                Collision::None => {}
                Collision::KeepsFirst => continue,
                Collision::Duplicate(owner) => {
                    duplicates.push(DuplicateHook {
                        path: path.to_string(),
                        elements: [owner, element.to_owned()],
                    });
                    continue;
                }
            }
            self.merged.insert(path.clone(), found.clone());
            self.owners.insert(path.as_str().to_owned(), element.to_owned());
        }
    }

    fn collision(&self, path: &UnixPath, found: &Found) -> Collision {
        let Some(first) = self.merged.get(path) else { return Collision::None };
        let owner = || Collision::Duplicate(self.owners[path.as_str()].clone());
        let slashes = path.as_str().matches('/').count();
        match (first, found) {
            (Found::Directory { .. }, Found::Directory { .. }) => Collision::None,
            // A link to another place, beside a directory that other elements fill.
            (Found::Directory { .. }, Found::Symlink { .. }) if slashes == 0 => {
                Collision::KeepsFirst
            }
            (Found::Symlink { .. }, Found::Directory { .. }) if slashes == 0 => Collision::None,
            (Found::Directory { .. }, _) | (_, Found::Directory { .. }) => owner(),
            // `[ ! -f ]` follows a link, and `cp` replaces one link by another.
            (Found::Symlink { .. }, Found::Symlink { .. }) if slashes == 1 => {
                match leads_to(&self.merged, path.as_str()) {
                    Some(Found::File { .. }) => owner(),
                    _ => Collision::None,
                }
            }
            _ if slashes == 1 => owner(),
            _ => Collision::None,
        }
    }

    /// Warns about scripts that are links to a path that the hooks tree does not have.
    fn warn_of_links(&mut self) {
        for (path, found) in &self.merged {
            let Found::Symlink { target } = found else { continue };
            let Some((top, name)) = path.as_str().split_once('/') else { continue };
            let is_run = match Phase::of_directory(top) {
                Some(_) => plan::is_script_name(name),
                None => top == "environment.d" && !name.contains('/'),
            };
            if is_run && leads_to(&self.merged, path.as_str()).is_none() {
                let element = &self.owners[path.as_str()];
                self.warnings.push(format!(
                    "`{path}` of the element {element} is a link to `{target}`, which is not \
                     among the files of the elements: it runs only if that is in the guest. Put \
                     the file itself in its place to have it run"
                ));
            }
        }
    }
}

/// What happens to a file whose path is already taken.
enum Collision {
    /// It replaces the first file.
    None,
    /// The first file stays, without an error.
    KeepsFirst,
    /// A hook of two elements; the first element is named.
    Duplicate(String),
}
