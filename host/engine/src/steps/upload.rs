//! Uploads files into the guest as one tar stream.

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use plan::{DeviceKind, Digest, FileSource, Upload, UploadEntry, UploadKind};
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use crate::{EngineError, step_context::StepContext};

/// The modification time of all uploaded files (2020-01-01). It is fixed, so that the same inputs
/// give the same bytes even if scripts copy files with their times.
const UPLOAD_MTIME_S: u64 = 1_577_836_800;
/// Maximum length of a name in a tar header. A longer name gets a record of its own before the
/// header.
const NAME_BYTES: usize = 100;

/// Uploads files into the guest. Fails if a file of the host has changed since the plan was made.
pub(crate) async fn upload(upload: &Upload, cx: &StepContext<'_>) -> Result<(), EngineError> {
    let (root, path) = cx.locate(&upload.to);
    let entries = upload.entries.clone();
    let changed = Arc::new(Mutex::new(None));
    let noticed = Arc::clone(&changed);
    let sent = cx
        .session()
        .put_tar(&root, &path, move |writer| {
            let mut archive = tar::Builder::new(writer);
            for entry in &entries {
                append(&mut archive, entry, &noticed)?;
            }
            archive.finish()
        })
        .await;
    if let Some(path) = changed.lock().ok().and_then(|mut slot| slot.take()) {
        return Err(EngineError::InputChanged(path));
    }
    sent.map_err(cx.failed(format!("upload {}", upload.what)))
}

/// Appends one entry. Names and targets of links are written byte by byte, because the `tar` crate
/// would change `a//./b` to `a/b`.
fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    entry: &UploadEntry,
    changed: &Mutex<Option<PathBuf>>,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(UPLOAD_MTIME_S);
    header.set_size(0);
    let name = entry.path.bytes();
    if name.len() > NAME_BYTES {
        long_record(archive, EntryType::GNULongName, &name)?;
    }
    let shown = &name[..name.len().min(NAME_BYTES)];
    header.as_old_mut().name[..shown.len()].copy_from_slice(shown);
    let (kind, mode) = match &entry.kind {
        UploadKind::Directory(mode) => (EntryType::Directory, *mode),
        UploadKind::Symlink(target) => {
            let target = target.bytes();
            if target.len() > NAME_BYTES {
                long_record(archive, EntryType::GNULongLink, &target)?;
            }
            header.set_link_name_literal(&target[..target.len().min(NAME_BYTES)])?;
            (EntryType::Symlink, 0o777)
        }
        UploadKind::Fifo(mode) => (EntryType::Fifo, *mode),
        UploadKind::Device { mode, kind, major, minor } => {
            header.set_device_major(*major)?;
            header.set_device_minor(*minor)?;
            let kind = match kind {
                DeviceKind::Character => EntryType::Char,
                DeviceKind::Block => EntryType::Block,
            };
            (kind, *mode)
        }
        UploadKind::File { mode, .. } => (EntryType::Regular, *mode),
    };
    header.set_entry_type(kind);
    header.set_mode(mode);
    match &entry.kind {
        UploadKind::File { source: FileSource::Text(text), .. } => {
            header.set_size(text.len() as u64);
            header.set_cksum();
            archive.append(&header, text.as_bytes())
        }
        UploadKind::File { source: FileSource::Host { path, bytes, sha256 }, .. } => {
            header.set_size(*bytes);
            header.set_cksum();
            if append_host(archive, &header, path, (*bytes, *sha256)) {
                return Ok(());
            }
            *changed.lock().map_err(|_| io::Error::other("poisoned"))? = Some(path.clone());
            Err(io::Error::other("an input has changed"))
        }
        UploadKind::Directory(_)
        | UploadKind::Symlink(_)
        | UploadKind::Fifo(_)
        | UploadKind::Device { .. } => {
            header.set_cksum();
            archive.append(&header, io::empty())
        }
    }
}

/// Appends a file of the host. Returns whether the sent bytes have the size and the digest of the
/// plan: a file that has grown is cut to its planned size, and one that has shrunk does not match.
/// A link in place of the file is not followed.
fn append_host<W: Write>(
    archive: &mut tar::Builder<W>,
    header: &tar::Header,
    path: &Path,
    (bytes, sha256): (u64, Digest),
) -> bool {
    let Ok(file) = rooted::open_file(path) else { return false };
    let mut reader = Hashing { inner: file, hash: Sha256::new() };
    let sent = archive.append(header, (&mut reader).take(bytes));
    sent.is_ok() && Digest(reader.hash.finalize().into()) == sha256
}

/// Appends the record of a name that is too long for a header, which GNU tar writes before the
/// header.
fn long_record<W: Write>(
    archive: &mut tar::Builder<W>,
    kind: EntryType,
    name: &[u8],
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    let mark = b"././@LongLink";
    header.as_old_mut().name[..mark.len()].copy_from_slice(mark);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(name.len() as u64 + 1);
    header.set_cksum();
    archive.append(&header, name.chain(&b"\0"[..]))
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt};

    use plan::UnixPath;

    use super::*;

    fn entry(path: &[u8], kind: UploadKind) -> UploadEntry {
        UploadEntry { path: UnixPath::new(OsStr::from_bytes(path)), kind }
    }

    /// What a reader of the archive of these entries finds: kind, path, link, mode.
    fn written(entries: &[UploadEntry]) -> Vec<(EntryType, Vec<u8>, Vec<u8>, u32)> {
        let mut archive = tar::Builder::new(Vec::new());
        for entry in entries {
            append(&mut archive, entry, &Mutex::new(None)).unwrap();
        }
        let bytes = archive.into_inner().unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let members = archive.entries().unwrap().map(|member| {
            let member = member.unwrap();
            let link = member.link_name_bytes().unwrap_or_default().into_owned();
            let header = member.header();
            (header.entry_type(), member.path_bytes().into_owned(), link, header.mode().unwrap())
        });
        members.collect()
    }

    #[test]
    fn names_and_links_go_to_the_archive_byte_by_byte() {
        let long: Vec<u8> = [b"\xe9\xff".as_slice(), &[b'n'; 300]].concat();
        for name in [b"a".as_slice(), b"caf\xe9", &[b'x'; 100], &[b'y'; 101], &long] {
            let link = UploadKind::Symlink(UnixPath::new(OsStr::from_bytes(name)));
            let found = written(&[entry(name, link), entry(b"next", UploadKind::Directory(0o700))]);
            assert_eq!(found[0], (EntryType::Symlink, name.to_vec(), name.to_vec(), 0o777));
            assert_eq!(found[1].1, b"next");
        }
        for target in ["/dev/null", "..", ".", "a//./b/", "../../.."] {
            let found = written(&[entry(b"l", UploadKind::Symlink(target.into()))]);
            assert_eq!(found[0].2, target.as_bytes());
        }
    }

    #[test]
    fn every_kind_of_file_has_its_member() {
        let device = |kind| UploadKind::Device { mode: 0o620, kind, major: 4095, minor: 1_048_575 };
        let text = UploadKind::File { mode: 0o4755, source: FileSource::Text("x".into()) };
        let found = written(&[
            entry(b"pipe", UploadKind::Fifo(0o600)),
            entry(b"char", device(DeviceKind::Character)),
            entry(b"block", device(DeviceKind::Block)),
            entry(b"file", text),
            entry(b"dir", UploadKind::Directory(0o1777)),
        ]);
        let kinds: Vec<_> = found.iter().map(|(kind, _, _, mode)| (*kind, *mode)).collect();
        let expected = [
            (EntryType::Fifo, 0o600),
            (EntryType::Char, 0o620),
            (EntryType::Block, 0o620),
            (EntryType::Regular, 0o4755),
            (EntryType::Directory, 0o1777),
        ];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn a_file_that_became_a_link_is_an_input_that_changed() {
        let folder = tempfile::tempdir().unwrap();
        let folder = fs::canonicalize(folder.path()).unwrap();
        let (file, secret) = (folder.join("file"), folder.join("secret"));
        fs::write(&file, "content").unwrap();
        fs::write(&secret, "content").unwrap();
        let source =
            FileSource::Host { path: file.clone(), bytes: 7, sha256: Digest::of(b"content") };
        let entry = entry(b"file", UploadKind::File { mode: 0o644, source });
        let send = || {
            let changed = Mutex::new(None);
            let mut archive = tar::Builder::new(Vec::new());
            let sent = append(&mut archive, &entry, &changed);
            (sent.is_ok(), changed.into_inner().unwrap())
        };
        assert_eq!(send(), (true, None));
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(&secret, &file).unwrap();
        assert_eq!(send(), (false, Some(file.clone())));
    }
}
