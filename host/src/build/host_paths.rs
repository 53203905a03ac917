//! The host files that a recipe may name: those in its own directory, and those that
//! `--allow-host-path` allows.

use std::{
    ffi::OsStr,
    path::{Component, Path, PathBuf},
};

use inputs::Sources;

use crate::{
    cli::HostPathArgs,
    error::{CommandError, Kind},
};

/// Returns the directories that contain more than one recipe; see [`Sources::broad`].
pub(crate) fn broad() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let others = ["/", "/tmp", "/var/tmp"].map(PathBuf::from);
    home.into_iter().chain([std::env::temp_dir()]).chain(others).collect()
}

/// Returns the paths that the user has allowed, without links. Each must exist, so that typing
/// errors are found.
///
/// # Errors
/// Fails if a path does not exist.
pub(crate) fn allowed(args: &HostPathArgs) -> Result<Vec<PathBuf>, CommandError> {
    let checked = |path: &PathBuf| match std::fs::canonicalize(path) {
        Ok(real) => Ok(real),
        Err(error) => Err(CommandError::new(Kind::Usage, error).context(format!(
            "{}: cannot find `{}`",
            inputs::ALLOW_OPTION,
            path.display()
        ))),
    };
    args.allow_host_path.iter().map(checked).collect()
}

/// Returns the host files that a recipe in a directory may name.
pub(crate) fn sources(folder: &Path, args: &HostPathArgs) -> Result<Sources, CommandError> {
    let own = vec![folder.to_owned()];
    Ok(Sources { lookup: own.clone(), own, allowed: allowed(args)?, broad: broad() })
}

/// Checks whether a recipe may have a file written at a path. The path must be below the recipe's
/// own directories, without hidden names, since hidden files configure programs; or below an
/// allowed path. The file need not exist.
///
/// # Errors
/// Fails if the path is not permitted, leads through a dangling link, or has `..` behind a
/// directory that does not exist.
pub(crate) fn check_output(what: &str, path: &Path, sources: &Sources) -> Result<(), CommandError> {
    let refused = |why: &str| {
        let text = format!("{what} `{}` {why}", path.display());
        Err(CommandError::usage(text).hint(format!(
            "if it shall be written, say so before the build: `{} FOLDER`",
            inputs::ALLOW_OPTION
        )))
    };
    let absolute = sources.lookup.first().map_or_else(|| path.to_owned(), |at| at.join(path));
    let Some(real) = real_place(&absolute) else {
        return refused("leads through a folder that is not there");
    };
    let beneath = |folders: &[PathBuf]| {
        let real_folders = folders.iter().filter_map(|folder| std::fs::canonicalize(folder).ok());
        let below = |folder: PathBuf| real.strip_prefix(folder).map(Path::to_owned).ok();
        real_folders.filter(|folder| folder != Path::new("/")).find_map(below)
    };
    if beneath(&sources.allowed).is_some() {
        return Ok(());
    }
    let Some(below) = beneath(&sources.own) else {
        return refused("lies outside of the recipe's own folder");
    };
    if below.iter().any(is_hidden) {
        return refused("is hidden");
    }
    Ok(())
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Returns the path without links: the existing part is looked up, and the rest must consist of
/// plain names. `None` if it has other components, or leads through a dangling link.
fn real_place(path: &Path) -> Option<PathBuf> {
    let mut rest = Vec::new();
    let mut there = path;
    loop {
        if let Ok(real) = std::fs::canonicalize(there) {
            return Some(rest.iter().rev().fold(real, |path, name| path.join(name)));
        }
        // A write would go through the dangling link.
        if std::fs::symlink_metadata(there).is_ok() {
            return None;
        }
        match there.components().next_back()? {
            Component::Normal(name) => rest.push(name),
            _ => return None,
        }
        there = there.parent()?;
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_recipe_writes_in_its_folder_and_under_plain_names_only() {
        let folder = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(folder.path()).unwrap();
        let project = top.join("project");
        fs::create_dir_all(project.join("logs")).unwrap();
        fs::create_dir(top.join("home")).unwrap();
        fs::write(top.join("home/.bashrc"), "mine").unwrap();
        symlink("../home", project.join("out")).unwrap();
        symlink("../home/.bashrc", project.join("log")).unwrap();
        symlink("../home/new", project.join("dangling")).unwrap();
        let mut sources = Sources {
            lookup: vec![project.clone()],
            own: vec![project.clone()],
            ..Sources::default()
        };
        let check = |sources: &Sources, path: &str| {
            check_output("the log", Path::new(path), sources).map_err(|e| e.source.to_string())
        };
        for good in ["a.log", "logs/a.log", "./new/folder/a.log", "logs/../a.log"] {
            check(&sources, good).unwrap();
        }
        check(&sources, project.join("logs/a").to_str().unwrap()).unwrap();
        let bad = [
            "../a.log",
            "/etc/a.log",
            "out/a.log",
            "log",
            "dangling",
            ".bashrc",
            "x/.git/y",
            "gone/../../a",
        ];
        for bad in bad {
            let error = check(&sources, bad).unwrap_err();
            assert!(error.starts_with("the log `"), "{bad}: {error}");
        }
        sources.allowed = vec![top.join("home")];
        check(&sources, "out/a.log").unwrap();
        check(&sources, "../home/.x/a.log").unwrap();
    }
}
