//! Reading file trees of the host into entries of an upload.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use plan::{Digest, FileSource, UploadEntry, UploadKind};
use sha2::Digest as _;

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read `{}`", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// One file of a tree, not yet read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Directory { mode: u32 },
    Symlink { target: String },
    File { host: PathBuf, mode: u32 },
}

/// A tree: paths relative to its root, parents before children.
pub(crate) type Tree = BTreeMap<String, Found>;

/// Bits that a file keeps: permissions, but no set-uid on the way to root.
const MODE_BITS: u32 = 0o777;

fn failure(path: &Path) -> impl FnOnce(io::Error) -> FileError + '_ {
    move |source| FileError { path: path.to_owned(), source }
}

/// Python's caches have no business in a build.
fn is_litter(name: &str) -> bool {
    name == "__pycache__" || name.ends_with(".pyc")
}

/// Reads a directory, without Python's caches and what `skip` says (by relative
/// path). Symbolic links that stay inside are kept, others are followed.
pub(crate) fn read_tree(root: &Path, skip: &dyn Fn(&str, bool) -> bool) -> Result<Tree, FileError> {
    let real = fs::canonicalize(root).map_err(failure(root))?;
    let mut tree = Tree::new();
    read_into(&mut tree, &Walk { root: &real, skip }, root, "", 0)?;
    Ok(tree)
}

struct Walk<'a> {
    root: &'a Path,
    skip: &'a dyn Fn(&str, bool) -> bool,
}

/// Deepest directory followed: a link to a parent would never end otherwise.
const DEEPEST: usize = 64;

fn read_into(
    tree: &mut Tree,
    walk: &Walk<'_>,
    directory: &Path,
    prefix: &str,
    depth: usize,
) -> Result<(), FileError> {
    if depth > DEEPEST {
        let source = io::Error::other("directories nested too deeply, or a link to a parent");
        return Err(FileError { path: directory.to_owned(), source });
    }
    for entry in fs::read_dir(directory).map_err(failure(directory))? {
        let entry = entry.map_err(failure(directory))?;
        let path = entry.path();
        let name = entry.file_name().into_string().map_err(|name| FileError {
            path: directory.join(&name),
            source: io::Error::other("the name is not UTF-8"),
        })?;
        let relative = format!("{prefix}{name}");
        if let Some(target) = inner_link(walk.root, &path)? {
            if !is_litter(&name) && !(walk.skip)(&relative, false) {
                tree.insert(relative, Found::Symlink { target });
            }
            continue;
        }
        let Ok(metadata) = fs::metadata(&path) else {
            // A link to nowhere: nothing to upload, and the original copies a
            // link to nowhere too.
            continue;
        };
        if is_litter(&name) || (walk.skip)(&relative, metadata.is_dir()) {
            continue;
        }
        let mode = metadata.permissions().mode() & MODE_BITS;
        if metadata.is_dir() {
            tree.insert(relative.clone(), Found::Directory { mode });
            read_into(tree, walk, &path, &format!("{relative}/"), depth + 1)?;
        } else if metadata.is_file() {
            tree.insert(relative, Found::File { host: path, mode });
        }
    }
    Ok(())
}

/// What a relative link says, when it leads to a file inside the tree.
fn inner_link(root: &Path, path: &Path) -> Result<Option<String>, FileError> {
    let metadata = fs::symlink_metadata(path).map_err(failure(path))?;
    if !metadata.is_symlink() {
        return Ok(None);
    }
    let target = fs::read_link(path).map_err(failure(path))?;
    let inside = target.is_relative()
        && fs::canonicalize(path).is_ok_and(|real| real.starts_with(root) && !real.is_dir());
    Ok(target.to_str().filter(|_| inside).map(ToOwned::to_owned))
}

/// How much of a file is read at once: enough to make the calls cheap.
const READ_BYTES: usize = 1 << 16;

/// A file and its digest as a source of bytes.
pub(crate) fn host_file(path: &Path) -> Result<FileSource, FileError> {
    let mut file = fs::File::open(path).map_err(failure(path))?;
    let mut hash = sha2::Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut bytes = 0;
    loop {
        let count = file.read(&mut buffer).map_err(failure(path))?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        bytes += count as u64;
    }
    Ok(FileSource::Host { path: path.to_owned(), bytes, sha256: Digest(hash.finalize().into()) })
}

/// The files of a tree as entries of an upload.
pub(crate) fn upload_entries<'a>(
    files: impl IntoIterator<Item = (&'a String, &'a Found)>,
) -> Result<Vec<UploadEntry>, FileError> {
    files
        .into_iter()
        .map(|(path, found)| {
            let kind = match found {
                Found::Directory { mode } => UploadKind::Directory(*mode),
                Found::Symlink { target } => UploadKind::Symlink(target.clone()),
                Found::File { host, mode } => {
                    UploadKind::File { mode: *mode, source: host_file(host)? }
                }
            };
            Ok(UploadEntry { path: path.clone(), kind })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_inside_stay_links_and_others_are_followed() {
        let root = tempfile::tempdir().unwrap();
        let element = root.path().join("element");
        fs::create_dir_all(element.join("a.d/__pycache__")).unwrap();
        fs::write(element.join("a.d/10-x"), "x").unwrap();
        fs::write(element.join("a.d/y.pyc"), "y").unwrap();
        fs::write(root.path().join("outside"), "o").unwrap();
        symlink("10-x", element.join("a.d/20-inner")).unwrap();
        symlink("../../outside", element.join("a.d/30-outer")).unwrap();
        symlink("nowhere", element.join("a.d/40-broken")).unwrap();
        let tree = read_tree(&element, &|_, _| false).unwrap();
        let paths: Vec<&str> = tree.keys().map(String::as_str).collect();
        assert_eq!(paths, ["a.d", "a.d/10-x", "a.d/20-inner", "a.d/30-outer"]);
        assert_eq!(tree["a.d/20-inner"], Found::Symlink { target: "10-x".into() });
        assert!(matches!(tree["a.d/30-outer"], Found::File { .. }));
        let entries = upload_entries(&tree).unwrap();
        let UploadKind::File { source: FileSource::Host { bytes, sha256, .. }, .. } =
            &entries[3].kind
        else {
            panic!("{entries:?}")
        };
        assert_eq!((*bytes, *sha256), (1, Digest::of(b"o")));
    }

    #[test]
    fn a_loop_of_links_ends() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        symlink(fs::canonicalize(root.path()).unwrap(), root.path().join("a/up")).unwrap();
        assert!(read_tree(root.path(), &|_, _| false).is_err());
    }
}
