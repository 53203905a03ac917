//! Determines what QEMU opens itself: its program, its libraries and modules, and its firmware.
//! Everything else is passed as a descriptor.
//!
//! The locations differ between distributions, so QEMU and its loader are asked: `-L help` lists
//! the firmware directories, and `LD_TRACE_LOADED_OBJECTS` the libraries, as in ldd(1).

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use confine::Paths;
use machine::MachineError;

/// Environment variables that determine where a program finds its parts; QEMU gets no others.
pub(crate) const KEPT_VARIABLES: [&str; 2] = ["LD_LIBRARY_PATH", "QEMU_MODULE_DIR"];

/// Package stores whose programs depend on other packages of the store. They are world-readable.
const STORES: [&str; 2] = ["/nix/store", "/gnu/store"];
/// Library directories if the loader does not list libraries (musl's does not).
const LIBRARIES: [&str; 5] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"];
/// Files that the loader reads to find libraries.
const LOADER_FILES: [&str; 1] = ["/etc/ld.so.cache"];
/// Debian's place of modules, which is named for the host.
const HOST_TRIPLE: &str = if cfg!(target_arch = "aarch64") {
    "lib/aarch64-linux-gnu/qemu"
} else {
    "lib/x86_64-linux-gnu/qemu"
};
/// Where modules lie, below the prefix of the program.
const MODULES: [&str; 4] = [HOST_TRIPLE, "lib64/qemu", "lib/qemu", "libexec/qemu"];
/// More than QEMU prints.
const OUTPUT_MAX_BYTES: u64 = 1 << 20;

/// Determines the paths that QEMU opens. Starts QEMU twice, which takes some 80 ms.
///
/// # Errors
/// Fails if the program is a script, or does not run.
pub(crate) fn of(program: &Path) -> Result<Paths, MachineError> {
    let unusable = |reason: String| MachineError::Unavailable {
        what: format!("`{}`", program.display()),
        reason,
        hint: None,
    };
    let program = program.canonicalize().map_err(|cause| unusable(cause.to_string()))?;
    if is_script(&program) {
        let reason = "it is a script, and QEMU is started confined to its own files; the path \
                      must lead to QEMU itself";
        return Err(unusable(reason.to_owned()));
    }
    let told = |args: &[&str], trace| {
        ask(&program, args, trace).map_err(|cause| unusable(format!("it does not run: {cause}")))
    };
    let folders = existing(told(&["-L", "help"], false)?.lines().map(PathBuf::from));
    let mut read: BTreeSet<PathBuf> = folders.iter().flat_map(|folder| links_out(folder)).collect();
    read.extend(folders);
    read.extend(existing(LOADER_FILES.iter().map(PathBuf::from)));
    let mut run = libraries(&told(&["--version"], true)?);
    run.extend(modules(&program));
    run.extend(STORES.iter().filter(|store| program.starts_with(store)).map(PathBuf::from));
    run.insert(program);
    let (read, run) = (read.into_iter().collect(), run.into_iter().collect());
    Ok(Paths { read, run, ..Paths::default() })
}

fn is_script(program: &Path) -> bool {
    let mut head = [0; 2];
    File::open(program).and_then(|mut file| file.read_exact(&mut head)).is_ok() && &head == b"#!"
}

/// Runs the program and returns its output.
fn ask(program: &Path, args: &[&str], trace: bool) -> std::io::Result<String> {
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(kept()).stdin(Stdio::null()).stderr(Stdio::null());
    if trace {
        command.env("LD_TRACE_LOADED_OBJECTS", "1");
    }
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut text = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(OUTPUT_MAX_BYTES).read_to_end(&mut text)?;
    }
    child.wait()?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The kept environment variables with their current values.
pub(crate) fn kept() -> impl Iterator<Item = (&'static str, std::ffi::OsString)> {
    KEPT_VARIABLES.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)))
}

fn existing(paths: impl Iterator<Item = PathBuf>) -> BTreeSet<PathBuf> {
    paths.filter(|path| path.is_absolute() && path.exists()).collect()
}

/// Files outside of a directory that links in it refer to: distributions share firmware between
/// packages.
fn links_out(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let links = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
    let targets = links.filter_map(|entry| entry.path().canonicalize().ok());
    targets.filter(|target| target.is_file()).collect()
}

/// Parses the loader's list, with lines `NAME => PATH (ADDRESS)` or `PATH (ADDRESS)`; without a
/// list, the library directories.
fn libraries(trace: &str) -> BTreeSet<PathBuf> {
    let paths = trace.lines().filter_map(|line| {
        let (text, _) = line.trim().rsplit_once(" (0x")?;
        Some(PathBuf::from(text.rsplit_once(" => ").map_or(text, |(_, path)| path)))
    });
    let found = existing(paths);
    if found.is_empty() { existing(LIBRARIES.iter().map(PathBuf::from)) } else { found }
}

fn modules(program: &Path) -> BTreeSet<PathBuf> {
    let prefix = program.parent().and_then(Path::parent);
    let usual = prefix.into_iter().flat_map(|prefix| MODULES.iter().map(|path| prefix.join(path)));
    let named = std::env::var_os("QEMU_MODULE_DIR").map(PathBuf::from);
    existing(usual.chain(named))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn libraries_are_read_from_the_loaders_list() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a b.so"), dir.path().join("ld.so"));
        for path in [&a, &b] {
            fs::write(path, "").unwrap();
        }
        let trace = format!(
            "\tlinux-vdso.so.1 (0x00007f04)\n\tliba.so.4 => {} (0x00007f04)\n\tlibgone.so => not \
             found\n\t{} (0x7f)\n",
            a.display(),
            b.display()
        );
        assert_eq!(libraries(&trace), BTreeSet::from([a, b]));
        assert!(libraries("QEMU emulator version 10.0.2\n").contains(Path::new("/usr/lib")));
    }

    #[test]
    fn links_lead_to_files_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, elsewhere) = (dir.path().join("roms"), dir.path().join("bios.bin"));
        fs::create_dir(&folder).unwrap();
        fs::write(&elsewhere, "").unwrap();
        symlink("../bios.bin", folder.join("bios.bin")).unwrap();
        symlink("../nowhere", folder.join("gone.bin")).unwrap();
        symlink("..", folder.join("up")).unwrap();
        assert_eq!(links_out(&folder), [elsewhere.canonicalize().unwrap()]);
    }

    #[test]
    fn a_script_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("qemu");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let error = of(&script).unwrap_err().to_string();
        assert!(error.contains("script"), "{error}");
    }
}
