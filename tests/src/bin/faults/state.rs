//! The checks after a build, disturbed or not.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    draw::{Draw, Fault},
    ground::Ground,
    recipe::Site,
    references::References,
    tree,
};

/// The content of the file on the helper drive.
const KEPT: &str = "kept from an earlier build\n";
const KEPT_NAME: &str = "kept";

/// Outputs of an earlier build: digests by name.
#[derive(Debug, Default)]
pub(crate) struct Earlier(BTreeMap<String, String>);

impl Earlier {
    /// Writes an output of the earlier build.
    pub(crate) fn write(&mut self, path: &Path, text: String) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.0.insert(name, tree::digest(text.as_bytes()));
        Ok(fs::write(path, text)?)
    }

    /// Returns the names of the regular files in the output folder, by the digests of their
    /// contents.
    fn found(site: &Site) -> Result<BTreeMap<String, String>> {
        let mut found = BTreeMap::new();
        for name in names(&site.output())? {
            let path = site.output().join(&name);
            if path.is_file() && !path.is_symlink() {
                found.insert(tree::digest(&fs::read(&path)?), name);
            }
        }
        Ok(found)
    }

    /// Checks that all earlier outputs are unchanged under their names.
    fn is_untouched(&self, site: &Site) -> Result<()> {
        let found = Self::found(site)?;
        for (name, digest) in &self.0 {
            ensure!(
                found.get(digest) == Some(name),
                "the earlier output {name} is not what it was"
            );
        }
        Ok(())
    }

    /// Checks after a kill at any moment: each name has the earlier output or a complete new one.
    pub(crate) fn is_kept_or_replaced(&self, site: &Site, references: &References) -> Result<()> {
        let found = Self::found(site)?;
        for (name, digest) in &self.0 {
            if found.get(digest) == Some(name) {
                continue;
            }
            let path = site.output().join(name);
            if name.ends_with(".sha256") {
                // The checksum file of a replaced output is removed first.
                continue;
            }
            ensure!(path.exists(), "the earlier output {name} is lost");
            site.compare_named(name, references).context("half of an output has its name")?;
        }
        Ok(())
    }
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Checks that vbuild did not panic.
pub(crate) fn no_panic(said: &str) -> Result<()> {
    ensure!(!said.contains("panicked at"), "it panicked: {said}");
    Ok(())
}

/// Checks after a successful build: exactly the correct outputs exist.
pub(crate) fn finished(site: &Site, references: &References) -> Result<()> {
    site.compare(references)?;
    only_outputs(site, true)?;
    no_machine_files(site)
}

/// Checks after a failed build: the outputs are the earlier ones, and nothing else is left.
pub(crate) fn failed(site: &Site, earlier: &Earlier, references: &References) -> Result<()> {
    // A build may also fail after renaming its outputs.
    if earlier.is_untouched(site).is_err() {
        earlier.is_kept_or_replaced(site, references)?;
    }
    only_outputs(site, false)?;
    no_machine_files(site)
}

/// Checks that the output folder has only outputs, and if `all`, that none is missing.
fn only_outputs(site: &Site, all: bool) -> Result<()> {
    let expected = site.names();
    let found = names(&site.output())?;
    let more: Vec<&String> = found.iter().filter(|name| !expected.contains(*name)).collect();
    ensure!(more.is_empty(), "beside the outputs are {more:?}");
    let missing = expected.iter().find(|name| !found.contains(name));
    ensure!(!all || missing.is_none(), "the output {missing:?} is missing");
    Ok(())
}

/// Checks that the folders of machines are empty.
fn no_machine_files(site: &Site) -> Result<()> {
    // In a TMPDIR, the folder of the user (`vbuild-*`) stays, but must be empty.
    for folder in [site.temporary(), site.cache().join("run")] {
        if !folder.exists() {
            continue;
        }
        for name in names(&folder)? {
            let own = folder.join(&name);
            let is_empty = own.is_dir() && names(&own)?.is_empty();
            let is_own = name.starts_with("vbuild-") && !name.starts_with("vbuild-run-");
            ensure!(is_empty && is_own, "{} still holds {name}", folder.display());
        }
    }
    Ok(())
}

/// Creates a helper drive with content.
pub(crate) fn make_drive(site: &Site, ground: &Ground) -> Result<()> {
    let made = ground
        .command(&site.folder)
        .args(["cache", "create"])
        .arg(site.drive())
        .args(["--size", "64M"])
        .output()?;
    ensure!(made.status.success(), "cache create: {}", String::from_utf8_lossy(&made.stderr));
    let text = site.folder.join(KEPT_NAME);
    fs::write(&text, KEPT)?;
    let written = Command::new("/usr/sbin/debugfs")
        .arg("-w")
        .arg("-R")
        .arg(format!("write {} {KEPT_NAME}", text.display()))
        .arg(site.drive())
        .output()
        .context("debugfs")?;
    ensure!(written.status.success(), "debugfs: {}", String::from_utf8_lossy(&written.stderr));
    fs::remove_file(text)?;
    check_drive(&site.drive())
}

/// Checks that the helper drive is clean and has its content. Right after the disturbed build, the
/// journal may need a replay, which is then done in a copy.
pub(crate) fn drive_is_whole(site: &Site, may_have_journal: bool) -> Result<()> {
    if !site.options.drive {
        return Ok(());
    }
    if !may_have_journal {
        return check_drive(&site.drive());
    }
    let copy = site.folder.join("drive.copy");
    fs::copy(site.drive(), &copy)?;
    let checked = Command::new("/usr/sbin/e2fsck").args(["-f", "-p"]).arg(&copy).output()?;
    let text = String::from_utf8_lossy(&checked.stdout);
    // Exit status 1: the journal was replayed.
    ensure!(
        matches!(checked.status.code(), Some(0 | 1)),
        "e2fsck cannot mend the helper drive by itself: {text}"
    );
    check_drive(&copy)?;
    Ok(fs::remove_file(copy)?)
}

fn check_drive(drive: &Path) -> Result<()> {
    tree::check_filesystem(drive, 0).context("the helper drive")?;
    let kept = tree::file_on_disk(drive, &format!("/{KEPT_NAME}"))?;
    ensure!(kept == KEPT.as_bytes(), "the helper drive has lost what was on it");
    Ok(())
}

/// Checks that all objects in the store have the digests of their names, and that garbage
/// collection works.
pub(crate) fn store_is_whole(draw: &Draw, site: &Site, ground: &Ground) -> Result<()> {
    let store = |words: &[&str]| -> Result<std::process::Output> {
        let mut command = ground.command(&site.folder);
        command.arg("store").args(words).arg("--cache-dir").arg(site.cache());
        Ok(command.output()?)
    };
    let text = |output: &std::process::Output| {
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    };
    let damaged = matches!(draw.fault, Fault::Damage { .. });
    let mut verified = store(&["verify"])?;
    if damaged && !verified.status.success() {
        // Objects that the repeated build did not use may still be damaged. `--repair` removes
        // them.
        store(&["verify", "--repair"])?;
        verified = store(&["verify"])?;
    }
    ensure!(verified.status.success(), "the store is damaged: {}", text(&verified));
    let collected = store(&["gc"])?;
    ensure!(collected.status.success(), "store gc failed: {}", text(&collected));
    for name in ["tmp", "sessions"] {
        let left = names(&site.store().join(name))?;
        ensure!(left.is_empty(), "the store's {name} still holds {left:?}");
    }
    Ok(())
}

/// Calls a function with every regular file below a folder.
fn walk(folder: &Path, visit: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let kind = entry.file_type()?;
        // All builds here share the appliance.
        if kind.is_dir() && entry.file_name() != "appliance" {
            walk(&entry.path(), visit)?;
        } else if kind.is_file() {
            visit(&entry.path())?;
        }
    }
    Ok(())
}

/// Checks that no file has a temporary name.
pub(crate) fn nothing_left_over(site: &Site) -> Result<()> {
    let mut left: Vec<PathBuf> = Vec::new();
    walk(&site.folder, &mut |path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let begins = [".tmp", "part-", ".vbuild-"].iter().any(|word| name.starts_with(word));
        let ends = [".tmp", ".part", ".new", ".new-link"].iter().any(|word| name.ends_with(word));
        if begins || ends {
            left.push(path.to_owned());
        }
        Ok(())
    })?;
    ensure!(left.is_empty(), "temporary files are left: {left:?}");
    Ok(())
}

/// Checks that no process holds a lock.
pub(crate) fn no_locks(folder: &Path) -> Result<()> {
    walk(folder, &mut |path| {
        let Ok(file) = File::open(path) else { return Ok(()) };
        match file.try_lock() {
            Ok(()) => Ok(()),
            Err(error) => bail!("{} is locked: {error}", path.display()),
        }
    })
}
