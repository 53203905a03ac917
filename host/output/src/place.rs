//! Checks the paths of outputs before the work whose results are written there.

use std::{fs, io, path::Path};

use nix::{
    errno::Errno,
    sys::statvfs::statvfs,
    unistd::{AccessFlags, access},
};

use crate::{
    Checksum, OutputError, Result,
    atomic::{OutFile, check_kind, directory_of},
};

/// Checks that a file can be written at a path: its directory accepts new files, and no existing
/// file there is protected from replacement. If `is_made`, the directory may be missing, since it
/// will be created.
///
/// # Errors
/// Fails with the reason.
pub fn check_file(path: &Path, checksums: &[Checksum], is_made: bool) -> Result<()> {
    let named_directory = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    if path.as_os_str().is_empty() || path.file_name().is_none() || named_directory {
        return Err(OutputError::unwritable(path, "it names no file"));
    }
    let directory = directory_of(path);
    if is_made && !directory.exists() {
        return check_new_directory(directory);
    }
    check_names(path, checksums)?;
    check_kind(path)?;
    for kind in checksums {
        check_kind(&kind.file_for(path))?;
    }
    check_parent(path, directory)?;
    // Finds any other obstacle: a quota, or a special filesystem.
    OutFile::create(path, false).map(drop)
}

/// Checks that files can be written to a directory, or that it can be created.
///
/// # Errors
/// Fails with the reason.
pub fn check_directory(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => check_access(path, path),
        Ok(_) => Err(OutputError::unwritable(path, "it exists and is not a directory")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            check_parent(path, directory_of(path))
        }
        Err(error) => Err(OutputError::unwritable(path, error.to_string())),
    }
}

/// Checks that a directory and its missing parents can be created.
fn check_new_directory(path: &Path) -> Result<()> {
    let there = path.ancestors().find(|above| above.as_os_str().is_empty() || above.exists());
    let there = there.filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !there.is_dir() {
        return Err(OutputError::unwritable(
            path,
            format!("`{}` is not a directory", there.display()),
        ));
    }
    check_access(path, there)
}

fn check_parent(path: &Path, directory: &Path) -> Result<()> {
    let shown = directory.display();
    match fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => check_access(path, directory),
        Ok(_) => Err(OutputError::unwritable(path, format!("`{shown}` is not a directory"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(OutputError::unwritable(path, format!("there is no directory `{shown}`")))
        }
        Err(error) => Err(OutputError::unwritable(path, error.to_string())),
    }
}

fn check_access(path: &Path, directory: &Path) -> Result<()> {
    let shown = directory.display();
    access(directory, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|errno| match errno {
        Errno::EROFS => {
            OutputError::unwritable(path, format!("the filesystem of `{shown}` is read-only"))
        }
        Errno::EACCES | Errno::EPERM => {
            OutputError::unwritable(path, format!("you may not write to the directory `{shown}`"))
        }
        errno => OutputError::unwritable(path, errno.desc()),
    })
}

/// Checks file names against the maximum length of the filesystem.
fn check_names(path: &Path, checksums: &[Checksum]) -> Result<()> {
    let longest = |path: &Path| path.file_name().unwrap_or_default().len();
    let files = checksums.iter().map(|kind| kind.file_for(path)).chain([path.to_owned()]);
    let longest = files.map(|file| longest(&file)).max().unwrap_or_default();
    let Ok(limits) = statvfs(directory_of(path)) else { return Ok(()) };
    let most = usize::try_from(limits.name_max()).unwrap_or(usize::MAX);
    if longest <= most {
        return Ok(());
    }
    Err(OutputError::unwritable(
        path,
        format!("its name has {longest} bytes, with its suffixes, and the filesystem takes {most}"),
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::PermissionsExt, net::UnixListener};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn an_output_can_be_a_file_in_a_directory_that_takes_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("folder.img")).unwrap();
        fs::create_dir_all(at("new.img.sha256")).unwrap();
        fs::write(at("file"), "old").unwrap();
        mkfifo(&at("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink("gone", at("link")).unwrap();
        let why = |path: &Path| match check_file(path, &[Checksum::Sha256], false) {
            Ok(()) => String::new(),
            Err(error) => error.to_string().replace(&folder.path().display().to_string(), "DIR"),
        };
        for good in ["file", "link", "x.img", &"n".repeat(248)] {
            assert_eq!(why(&at(good)), "", "{good}");
        }
        let long = "n".repeat(249);
        for (bad, reason) in [
            ("nodir/x.img", "there is no directory `DIR/nodir`"),
            ("file/x.img", "DIR/file/x.img"),
            ("folder.img", "it is a directory"),
            ("folder.img/", "it names no file"),
            ("new.img", "it is a directory"),
            ("pipe", "it is a named pipe"),
            ("socket", "it is a socket"),
            (&long, "its name has 256 bytes"),
        ] {
            assert!(why(&at(bad)).contains(reason), "{bad}: {}", why(&at(bad)));
        }
        assert!(why(Path::new("/dev/full")).contains("it is a character device"));
        assert!(why(Path::new("/proc/x.img")).contains("/proc/"));
        assert!(why(Path::new("~/x.img")).contains("there is no directory `~`"));
        assert!(check_file(Path::new(""), &[], false).is_err());
        // The check leaves nothing behind and changes nothing.
        assert_eq!(fs::read(at("file")).unwrap(), b"old");
        assert!(!at("x.img").exists());
        if !nix::unistd::geteuid().is_root() {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
            assert!(why(&at("x.img")).contains("you may not write to the directory"));
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn a_folder_of_results_may_be_missing_where_it_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "").unwrap();
        check_directory(&at("new.d")).unwrap();
        check_directory(folder.path()).unwrap();
        assert!(check_directory(&at("no/new.d")).is_err());
        assert!(check_directory(&at("file")).is_err());
        let build = at("a/build");
        check_file(&build.join("x.img"), &[], true).unwrap();
        assert!(check_file(&build.join("x.img"), &[], false).is_err());
        let build = at("file/build");
        assert!(check_file(&build.join("x.img"), &[], true).is_err());
    }
}
