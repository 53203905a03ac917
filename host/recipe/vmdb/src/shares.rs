//! Reads the host files that the user shares with the commands of a spec, and the spec's own
//! directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use inputs::{Found, Tree};
use plan::{GuestPath, UnixPath, UploadEntry};
use rooted::Dir;

/// Maximum size of a file in the spec's directory that is sent implicitly. A larger file is likely
/// an image of another build, or an archive of one.
const FILE_MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Host files that the user shares with commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The host path.
    pub host: PathBuf,
    /// The guest path, absolute.
    pub guest: String,
}

/// A share, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// The host path as given.
    pub host: PathBuf,
    /// The guest directory of its entries.
    pub to: GuestPath,
    /// The files of the share, as entries of an upload.
    pub entries: Vec<UploadEntry>,
    /// Warnings about files that are left out.
    pub warnings: Vec<String>,
}

/// Reads the shared paths. The user named them, so links in these paths are followed.
pub(crate) fn read(shares: &[Share]) -> Result<Vec<Shared>, String> {
    shares.iter().map(shared).collect()
}

fn shared(share: &Share) -> Result<Shared, String> {
    let host = share.host.clone();
    let unreadable = |error: rooted::Error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        format!("{error}{}", cause.unwrap_or_default())
    };
    let guest = GuestPath::new(share.guest.trim_end_matches('/')).map_err(|e| e.to_string())?;
    if host.is_dir() {
        let tree = Dir::open(&host).and_then(|top| inputs::tree(&top, &|_, _| false));
        let tree = tree.map_err(unreadable)?;
        let files = tree.files.iter().map(|(path, found)| (path, found));
        let entries = inputs::entries(files).map_err(unreadable)?;
        return Ok(Shared { host, to: guest, entries, warnings: tree.warnings() });
    }
    let (to, name) = guest.as_str().rsplit_once('/').unwrap_or_default();
    let to = if to.is_empty() { "/" } else { to };
    let to = GuestPath::new(to).map_err(|error| error.to_string())?;
    let entry = inputs::named_file(&host).and_then(|file| inputs::entry(name.into(), &file));
    Ok(Shared { host, to, entries: vec![entry.map_err(unreadable)?], warnings: Vec::new() })
}

/// The files of a directory without the outputs of the run, and warnings about those left out.
#[derive(Debug, Default)]
pub(crate) struct Folder {
    pub(crate) entries: Vec<UploadEntry>,
    pub(crate) left_out: Vec<String>,
}

/// Reads the spec's directory.
pub(crate) fn folder(path: &Path, written: &[PathBuf]) -> Result<Folder, String> {
    let is_own = |below: &UnixPath, is_directory: bool| {
        let at = path.join(below.to_path_buf());
        let of_output =
            |output: &PathBuf| at == *output || (!is_directory && is_beside(&at, output));
        written.iter().any(of_output)
    };
    let tree = Dir::open(path).and_then(|top| inputs::tree(&top, &is_own));
    let Tree { files, sockets } = tree.map_err(|error| error.to_string())?;
    let mut folder = Folder::default();
    let (mut large, mut unreadable) = (Vec::new(), Vec::new());
    for (below, found) in files {
        if let Found::File { host, .. } = &found
            && fs::symlink_metadata(host).is_ok_and(|metadata| metadata.len() > FILE_MAX_BYTES)
        {
            large.push(host.clone());
            continue;
        }
        match inputs::entry(below, &found) {
            Ok(entry) => folder.entries.push(entry),
            Err(rooted::Error::Io { path, source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                unreadable.push(path);
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    let larger = format!("larger than {} MiB", FILE_MAX_BYTES >> 20);
    for (why, paths) in
        [(larger.as_str(), large), ("not readable", unreadable), ("a socket", sockets)]
    {
        if let Some(first) = paths.first() {
            let (count, first) = (paths.len(), first.display());
            let others =
                if count == 1 { String::new() } else { format!(" and {} more", count - 1) };
            folder.left_out.push(format!("`{first}`{others}: {why}"));
        }
    }
    Ok(folder)
}

/// Whether a file belongs to an output by its name: a checksum, another format, or a remnant of a
/// killed run.
fn is_beside(file: &Path, output: &Path) -> bool {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (file_name, output_name) = (name(file), name(output));
    let stem = crate::formats::format_of(&output_name).1.to_owned();
    file.parent() == output.parent()
        && (file_name.starts_with(&format!("{output_name}."))
            || (file_name.starts_with(".vbuild-") && file_name.ends_with(".tmp"))
            || file_name.strip_prefix(&format!("{stem}.")).is_some_and(is_ending_of_output))
}

fn is_ending_of_output(ending: &str) -> bool {
    let trees = ["tar", "tgz", "tar.zst", "squash", "docker.tar", "oci.tar"];
    crate::formats::FORMATS.iter().any(|(known, _)| *known == ending) || trees.contains(&ending)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_is_shared_without_what_the_run_writes() {
        let directory = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(directory.path()).unwrap();
        let names = [
            "spec.vmdb",
            ".hidden",
            "x.img",
            "x.img.sha256",
            "x.qcow2",
            "x.fixed.vhd",
            "x.txt",
            "root.tgz",
            "out.log",
            ".vbuild-0011223344556677-1-0.tmp",
            "skel/fstab",
        ];
        for name in names {
            let path = top.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        symlink("/etc/passwd", top.join("link")).unwrap();
        let large = fs::File::create(top.join("old.img")).unwrap();
        large.set_len(FILE_MAX_BYTES + 1).unwrap();
        let written = ["x.img", "root.tgz", "out.log"].map(|name| top.join(name));
        let folder = folder(&top, &written).unwrap();
        let shown: Vec<&str> = folder.entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(shown, [".hidden", "link", "skel", "skel/fstab", "spec.vmdb", "x.txt"]);
        let left_out = format!("`{}`: larger than 256 MiB", top.join("old.img").display());
        assert_eq!(folder.left_out, [left_out]);
    }

    #[test]
    fn a_share_is_a_folder_or_a_file() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("key"), "k").unwrap();
        let share = |path: &str, guest: &str| {
            let host = directory.path().join(path);
            read(&[Share { host, guest: guest.into() }]).map(|mut read| read.remove(0))
        };
        let shown = |shared: &Shared| {
            let paths: Vec<&str> = shared.entries.iter().map(|e| e.path.as_str()).collect();
            format!("{} {paths:?}", shared.to)
        };
        assert_eq!(shown(&share("", "/build/spec/").unwrap()), r#"/build/spec ["key"]"#);
        assert_eq!(shown(&share("key", "/srv/mine").unwrap()), r#"/srv ["mine"]"#);
        assert_eq!(shown(&share("key", "/mine").unwrap()), r#"/ ["mine"]"#);
        assert!(share("gone", "/x").unwrap_err().contains("gone"));
        assert!(share("key", "/a/../b").is_err());
    }
}
