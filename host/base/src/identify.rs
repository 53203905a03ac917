//! Computes the digest of an image from its file and its backing files. Reading a large file takes
//! seconds, so digests are cached by inode, size and times; a modified file has other times.

use std::{
    fs::{self, Metadata},
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};
use store::Digest;

use crate::{BaseError, source::ImageFile, unfinished};

/// Bytes read per operation.
const READ_BYTES: usize = 256 << 10;
/// A file modified more recently may be modified again without a change of its times, so its digest
/// is not cached.
const SETTLED: Duration = Duration::from_secs(2);

/// The digest of a file and its backing files; for a single file, the digest of its content.
pub(crate) fn digest<'a>(
    files: impl Iterator<Item = &'a ImageFile>,
    folder: &Path,
) -> Result<Digest, BaseError> {
    let digests = files.map(|file| of_file(file, folder)).collect::<Result<Vec<_>, _>>()?;
    Ok(match digests.as_slice() {
        [only] => Digest(*only),
        several => Digest(Sha256::digest(several.concat()).into()),
    })
}

fn of_file(image: &ImageFile, folder: &Path) -> Result<[u8; 32], BaseError> {
    let (path, metadata) = (&image.path, image.metadata()?);
    let seen = folder.join("seen");
    let note = seen.join(hex::encode(Sha256::digest(path.as_os_str().as_encoded_bytes())));
    let stamp = stamp(&metadata);
    if let Some(known) = remembered(&note, &stamp) {
        return Ok(known);
    }
    let found = image.rewound().and_then(hash).map_err(|e| BaseError::io("read", path, e))?;
    let settled = metadata
        .modified()
        .ok()
        .and_then(|time| SystemTime::now().duration_since(time).ok())
        .is_some_and(|age| age >= SETTLED);
    if settled {
        // If the note cannot be written, the next run only reads the file again.
        let _ = remember(&seen, &note, &format!("{stamp} {}\n", hex::encode(found)));
    }
    Ok(found)
}

fn stamp(metadata: &Metadata) -> String {
    format!(
        "{}:{} {} {}.{} {}.{}",
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec()
    )
}

fn remembered(note: &Path, stamp: &str) -> Option<[u8; 32]> {
    let text = fs::read_to_string(note).ok()?;
    let digest = text.strip_prefix(stamp)?.trim();
    let mut bytes = [0; 32];
    hex::decode_to_slice(digest, &mut bytes).ok()?;
    Some(bytes)
}

fn remember(seen: &Path, note: &Path, text: &str) -> io::Result<()> {
    fs::create_dir_all(seen)?;
    let mut file = unfinished::file(seen)?;
    file.work.write_all(text.as_bytes())?;
    file.work.persist(note)?;
    Ok(())
}

/// The digest of a regular file; any other file could be endless.
fn hash(mut file: impl Read) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, path::PathBuf};

    use super::*;

    fn find(files: &[PathBuf], folder: &Path) -> Digest {
        let files: Vec<_> = files.iter().map(|file| ImageFile::named(file).unwrap()).collect();
        digest(files.iter(), folder).unwrap()
    }

    #[test]
    fn a_file_that_settled_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::write(&image, "one").unwrap();
        let old = SystemTime::now() - Duration::from_secs(60);
        File::open(&image).unwrap().set_modified(old).unwrap();
        let find = || find(std::slice::from_ref(&image), folder.path());
        assert_eq!(find().0, <[u8; 32]>::from(Sha256::digest("one")));
        // A note is trusted: this one is changed to prove it.
        let note =
            fs::read_dir(folder.path().join("seen")).unwrap().next().unwrap().unwrap().path();
        let text = fs::read_to_string(&note).unwrap();
        let (stamp, _) = text.rsplit_once(' ').unwrap();
        fs::write(&note, format!("{stamp} {}\n", "7".repeat(64))).unwrap();
        assert_eq!(find().to_string(), "7".repeat(64));
        fs::write(&image, "two").unwrap();
        assert_eq!(find().0, <[u8; 32]>::from(Sha256::digest("two")));
    }

    #[test]
    fn a_chain_counts_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = ["a", "b"].map(|name| folder.path().join(name)).to_vec();
        for file in &files {
            fs::write(file, "same").unwrap();
        }
        let both = find(&files, folder.path());
        assert_ne!(both, find(&files[..1], folder.path()));
        fs::write(&files[1], "other").unwrap();
        assert_ne!(both, find(&files, folder.path()));
    }
}
