//! Writes the host files that b9c creates in addition to images. Each appears complete or not at
//! all.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

/// The permissions of a new file before the user's umask is applied.
const MODE: u32 = 0o666;

/// Writes a file with the permissions that the user's umask leaves, and creates its missing parent
/// directories.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put(path, bytes, |file| rooted::allow_user_mode(file, MODE))
}

/// Writes a file with exactly the permissions in `mode`, and creates its missing parent
/// directories.
pub(super) fn write_with_mode(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    put(path, bytes, |file| file.set_permissions(Permissions::from_mode(mode)))
}

/// Replaces the text of a file. An existing file keeps its permissions, and a symbolic link still
/// leads to it.
pub(super) fn replace_text(path: &Path, text: &str) -> io::Result<()> {
    match fs::canonicalize(path) {
        Ok(real) => {
            let permissions = fs::metadata(&real)?.permissions();
            put(&real, text.as_bytes(), |file| file.set_permissions(permissions))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => write(path, text.as_bytes()),
        Err(error) => Err(error),
    }
}

fn put(path: &Path, bytes: &[u8], permit: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let folder = folder_of(path);
    rooted::make_user_directories(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    permit(file.as_file())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Returns the directory of a path; for a bare name it is `.`.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_replaced_keeps_its_mode_and_its_links() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("real"), "old").unwrap();
        fs::set_permissions(at("real"), Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("real", at("link")).unwrap();
        replace_text(&at("link"), "new").unwrap();
        assert_eq!(fs::read_to_string(at("real")).unwrap(), "new");
        assert!(at("link").is_symlink());
        assert_eq!(fs::metadata(at("real")).unwrap().permissions().mode() & 0o7777, 0o640);
        write_with_mode(&at("new/file"), b"x", 0o600).unwrap();
        assert_eq!(fs::metadata(at("new/file")).unwrap().permissions().mode() & 0o7777, 0o600);
    }
}
