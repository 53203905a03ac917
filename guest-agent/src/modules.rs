//! Loads kernel modules: by name with all their dependencies, or by path in the order of a list.
//!
//! The order comes from `modules.dep` if depmod has run. A kernel package that was only unpacked
//! has no such file; then the directory is searched for modules, and the `depends=` field of each
//! module lists those that must be loaded before it.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use wire::Failure;

use crate::failure::{Doing, failure};

/// The maximum depth of a chain of dependencies; real ones are below ten.
const DEPENDENCY_DEPTH_MAX: usize = 64;

/// The maximum depth of the directories searched below `/lib/modules/RELEASE`.
const FOLDER_DEPTH_MAX: usize = 12;

/// The maximum size of a module file, in bytes: the largest one of Debian is under 10 MiB.
const MODULE_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The flag of finit_module(2) for a file that the kernel must decompress; nix does not define it.
const COMPRESSED_FILE: ModuleInitFlags = ModuleInitFlags::from_bits_retain(4);

/// Loads modules with their dependencies. Modules that are built in or loaded already are skipped.
pub(crate) fn load(names: &[String]) -> Result<(), Failure> {
    let loaded: HashSet<String> = fs::read_to_string("/proc/modules")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect();
    let wanted: Vec<String> =
        names.iter().map(|name| canonical(name)).filter(|name| !loaded.contains(name)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let release = nix::sys::utsname::uname().doing(|| "ask for the kernel's release")?;
    let directory = Path::new("/lib/modules").join(release.release());
    let mut tree = Tree::open(&directory)?;
    tree.done = loaded;
    wanted.iter().try_for_each(|name| tree.load(name, 0))
}

/// Loads one module file. It is not an error if the module is loaded already.
pub(crate) fn load_file(path: &Path) -> Result<(), Failure> {
    let action = || format!("load the module `{}`", path.display());
    let file = File::open(path).doing(action)?;
    let flags = match path.extension().and_then(OsStr::to_str) {
        Some("ko") => ModuleInitFlags::empty(),
        _ => COMPRESSED_FILE,
    };
    match finit_module(file, c"", flags) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        // Kernels without module decompression refuse the flag.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) if !flags.is_empty() => {
            let image = decompress(path)?;
            match nix::kmod::init_module(&image, c"") {
                Err(Errno::EEXIST) => Ok(()),
                other => other.doing(action),
            }
        }
        other => other.doing(action),
    }
}

fn decompress(path: &Path) -> Result<Vec<u8>, Failure> {
    let tool = match path.extension().and_then(OsStr::to_str) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => "gzip",
    };
    let action = || format!("decompress `{}` with `{tool}`", path.display());
    let output = Command::new(tool).arg("-dc").arg(path).output().doing(action)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(failure(action(), reason))
}

/// Returns the name as the kernel shows it: `-` and `_` are equivalent, and it uses `_`.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// Returns the name of the module in a file, if it is a module file.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (stem, extension) = name.split_once(".ko")?;
    matches!(extension, "" | ".xz" | ".zst" | ".gz").then(|| canonical(stem))
}

/// The modules of one kernel. Lists are kept as text and searched by line: few modules are
/// requested, and parsing four thousand lines takes longer than everything else.
struct Tree {
    directory: PathBuf,
    /// The content of `modules.dep`, if depmod has created it.
    list: Option<String>,
    builtin: String,
    /// The path of each module by name, found by a search; empty if there is a list.
    found: HashMap<String, PathBuf>,
    done: HashSet<String>,
}

/// The path of a module, and the modules that must be loaded before it, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    path: PathBuf,
    depends: Vec<String>,
}

impl Tree {
    fn open(directory: &Path) -> Result<Self, Failure> {
        let read = |name| fs::read_to_string(directory.join(name));
        let list = read("modules.dep").ok().filter(|list| !list.is_empty());
        let mut found = HashMap::new();
        if list.is_none() {
            search(directory, 0, &mut found)
                .doing(|| format!("search `{}` for modules", directory.display()))?;
        }
        let builtin = read("modules.builtin").unwrap_or_default();
        let done = HashSet::new();
        Ok(Self { directory: directory.to_owned(), list, builtin, found, done })
    }

    fn is_builtin(&self, name: &str) -> bool {
        self.builtin.lines().any(|line| is_file_of(line, name))
    }

    fn find(&self, name: &str) -> Result<Option<Listed>, Failure> {
        if let Some(list) = &self.list {
            let listed = find_in_list(list, name);
            return Ok(listed.map(|listed| Listed {
                path: self.directory.join(listed.path),
                depends: listed.depends,
            }));
        }
        let Some(path) = self.found.get(name).cloned() else { return Ok(None) };
        let depends = depends_of(&path).doing(|| format!("read `{}`", path.display()))?;
        Ok(Some(Listed { path, depends }))
    }

    fn load(&mut self, name: &str, depth: usize) -> Result<(), Failure> {
        if self.done.contains(name) {
            return Ok(());
        }
        if depth > DEPENDENCY_DEPTH_MAX {
            let action = format!("load the module `{name}`");
            return Err(failure(action, "its dependencies go too deep"));
        }
        match self.find(name)? {
            Some(module) => {
                for dependency in &module.depends {
                    self.load(dependency, depth + 1)?;
                }
                load_file(&module.path)?;
            }
            None if self.is_builtin(name) => {}
            None => self.load_by_alias(name)?,
        }
        self.done.insert(name.to_owned());
        Ok(())
    }

    /// Loads a module with modprobe, which resolves aliases: the name may be one.
    fn load_by_alias(&self, name: &str) -> Result<(), Failure> {
        let action = || format!("load the module `{name}`");
        let missing = format!("not found in `{}`", self.directory.display());
        let output = Command::new("modprobe").args(["-q", "--", name]).output();
        match output {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(failure(action(), missing))
            }
            Err(error) => Err(error).doing(action),
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(failure(action(), if said.is_empty() { missing } else { said }))
            }
        }
    }
}

/// Whether a path is that of the module with this name.
fn is_file_of(path: &str, name: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    // Most names differ in the first letter, so the rest is rarely compared.
    file.as_bytes().first() == name.as_bytes().first()
        && module_name(Path::new(file)).as_deref() == Some(name)
}

/// Finds a module in `modules.dep`. Its lines have the form `path: path path`, where the dependency
/// that must be loaded first is the last one.
pub(crate) fn find_in_list(list: &str, name: &str) -> Option<Listed> {
    list.lines().find_map(|line| {
        let (path, depends) = line.split_once(':')?;
        if !is_file_of(path, name) {
            return None;
        }
        let depends = depends.split_ascii_whitespace().rev();
        let depends = depends.filter_map(|path| module_name(Path::new(path))).collect();
        Some(Listed { path: path.into(), depends })
    })
}

fn search(folder: &Path, depth: usize, found: &mut HashMap<String, PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if depth < FOLDER_DEPTH_MAX {
                search(&path, depth + 1, found)?;
            }
        } else if let Some(name) = module_name(&path) {
            found.insert(name, path);
        }
    }
    Ok(())
}

/// Returns the dependencies of a module, as stored in the module itself.
fn depends_of(path: &Path) -> io::Result<Vec<String>> {
    if path.extension().and_then(OsStr::to_str) != Some("ko") {
        let reason = "it is compressed, and there is no modules.dep";
        return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
    }
    if fs::metadata(path)?.len() > MODULE_MAX_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(depends_in(&fs::read(path)?))
}

/// Finds `depends=` in `.modinfo`, which is a table of zero-terminated strings. Nowhere else in a
/// module does this word follow a zero byte.
pub(crate) fn depends_in(image: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = image.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = image[start + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(canonical).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_paths() {
        assert_eq!(module_name(Path::new("kernel/fs/xfs/xfs.ko")).as_deref(), Some("xfs"));
        assert_eq!(module_name(Path::new("a/dm-mod.ko.xz")).as_deref(), Some("dm_mod"));
        assert_eq!(module_name(Path::new("a/modules.dep")), None);
        assert_eq!(module_name(Path::new("a/x.ko.sig")), None);
    }

    #[test]
    fn dependencies_are_in_the_order_of_loading() {
        let list = "k/a.ko: k/b-x.ko k/c.ko\nk/c.ko.xz:\nrubbish\n";
        let listed = find_in_list(list, "a").unwrap();
        assert_eq!(
            listed,
            Listed { path: "k/a.ko".into(), depends: vec!["c".into(), "b_x".into()] }
        );
        assert!(find_in_list(list, "c").unwrap().depends.is_empty());
        assert_eq!(find_in_list(list, "rubbish"), None);
        assert_eq!(find_in_list(list, "b_x"), None);
    }

    #[test]
    fn modinfo_is_found_between_zero_bytes() {
        assert_eq!(depends_in(b"x\0license=GPL\0depends=a-b,c\0name=d\0"), ["a_b", "c"]);
        assert!(depends_in(b"\0depends=\0").is_empty());
        assert!(depends_in(b"softdepends=x\0").is_empty());
    }

    #[test]
    fn a_tree_without_a_list_is_searched() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("kernel/drivers")).unwrap();
        fs::write(folder.path().join("kernel/drivers/a-b.ko"), b"\0depends=\0").unwrap();
        fs::write(folder.path().join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
        let mut tree = Tree::open(folder.path()).unwrap();
        assert!(tree.found.contains_key("a_b"));
        assert!(tree.load("ext4", 0).is_ok());
        assert!(tree.load("none", 0).unwrap_err().reason.contains("not found"));
    }
}
