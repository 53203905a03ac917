//! Trees of elements, read as they are on the host: symbolic links stay links and are not followed.

use std::collections::{BTreeMap, VecDeque};

use plan::UnixPath;
use rooted::Dir;

pub(crate) use inputs::Found;

/// A tree: paths relative to its root, parents before children.
pub(crate) type Tree = BTreeMap<UnixPath, Found>;

/// Limit of links followed for one path: the kernel's MAXSYMLINKS.
const LINKS_MAX: u32 = 40;
/// The target of a link to the root of a tree.
static TOP: Found = Found::Directory { mode: 0o755 };

/// Whether the path is a Python cache, which no build needs.
fn is_litter(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name == "__pycache__" || name.ends_with(".pyc")
}

/// Reads a directory, without Python caches and without the paths for which `skip` (relative path,
/// is a directory) is true. Returns the tree and warnings for the user.
pub(crate) fn read_tree(
    top: &Dir,
    skip: &dyn Fn(&str, bool) -> bool,
) -> Result<(Tree, Vec<String>), rooted::Error> {
    let tree = inputs::tree(top, &|path, directory| {
        is_litter(path.as_str()) || skip(path.as_str(), directory)
    })?;
    let warnings = tree.warnings();
    Ok((tree.files.into_iter().collect(), warnings))
}

/// Resolves a path within a tree, following its links; `None` if it leads out, is a loop or
/// dangles.
pub(crate) fn leads_to<'a>(tree: &'a Tree, path: &str) -> Option<&'a Found> {
    let mut pending: VecDeque<String> = path.split('/').map(str::to_owned).collect();
    let mut at: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(name) = pending.pop_front() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                at.pop()?;
                continue;
            }
            _ => at.push(name),
        }
        match tree.get(at.join("/").as_str())? {
            Found::Symlink { target } => {
                links += 1;
                if links > LINKS_MAX || target.as_str().starts_with('/') {
                    return None;
                }
                at.pop();
                for name in target.as_str().split('/').rev() {
                    pending.push_front(name.to_owned());
                }
            }
            Found::Directory { .. } => {}
            found => return pending.iter().all(|rest| rest.is_empty()).then_some(found),
        }
    }
    if at.is_empty() { Some(&TOP) } else { tree.get(at.join("/").as_str()) }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn every_link_stays_a_link_and_the_walk_ends() {
        let root = tempfile::tempdir().unwrap();
        let element = root.path().join("element");
        fs::create_dir_all(element.join("a.d/__pycache__")).unwrap();
        fs::write(element.join("a.d/10-x"), "x").unwrap();
        fs::write(element.join("a.d/y.pyc"), "y").unwrap();
        fs::write(root.path().join("outside"), "o").unwrap();
        let links = [
            ("10-x", "a.d/20-inner"),
            ("../../outside", "a.d/30-outer"),
            ("nowhere", "a.d/40-broken"),
            ("/proc/self/environ", "a.d/50-environment"),
            ("..", "a.d/up"),
            (".", "self"),
        ];
        for (target, link) in links {
            symlink(target, element.join(link)).unwrap();
        }
        let (tree, warnings) = read_tree(&Dir::open(&element).unwrap(), &|_, _| false).unwrap();
        assert_eq!(warnings, [""; 0]);
        for (target, link) in links {
            assert_eq!(tree[link], Found::Symlink { target: target.into() });
        }
        assert_eq!(tree.len(), links.len() + 2, "{tree:?}");
        assert!(matches!(leads_to(&tree, "self/a.d/up/a.d/20-inner"), Some(Found::File { .. })));
        assert!(matches!(leads_to(&tree, "a.d/up"), Some(Found::Directory { .. })));
        for out in ["a.d/30-outer", "a.d/40-broken", "a.d/50-environment", "..", "a.d/10-x/y"] {
            assert_eq!(leads_to(&tree, out), None, "{out}");
        }
    }
}
