//! Finds and checks the backing file of a qcow2 image.
//!
//! The image's header contains a file name, chosen by the writer of the image. It is followed only
//! if another source confirms it: vbuild itself, which records the overlays that it writes
//! (`backing/HASH-OF-PATH` below the folder of base images), or the user.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use qcow2::BackingFormat;
use sha2::{Digest as _, Sha256};

use crate::{BaseError, source::ImageFile};

/// Maximum length of a backing chain; a longer one is a mistake, or a loop.
const CHAIN_MAX: usize = 32;
/// Maximum size of a note: three paths and a format.
const NOTE_MAX_BYTES: usize = 16 << 10;
/// The folder of notes about overlays.
pub(crate) const NOTES: &str = "backing";

/// The backing files that the user allows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllowedBacking {
    /// Allows regular files in the folder of the image that names them.
    pub beside: bool,
    /// Allows these files, wherever they are.
    pub files: Vec<PathBuf>,
}

/// The backing file of an overlay, as its header names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// The file; a relative path is relative to the overlay's folder.
    pub path: PathBuf,
    /// The format of the backing file.
    pub format: BackingFormat,
}

/// An open file of a backing chain.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) file: ImageFile,
    pub(crate) format: BackingFormat,
}

/// Opens the files of a qcow2 image, topmost first.
pub(crate) fn chain(
    top: ImageFile,
    allowed: &AllowedBacking,
    folder: &Path,
) -> Result<Vec<Layer>, BaseError> {
    let name = top.path.clone();
    let mut layers = vec![Layer { file: top, format: BackingFormat::Qcow2 }];
    while let Some(Layer { file, format: BackingFormat::Qcow2 }) = layers.last() {
        let header = qcow2::Header::read(&file.file)
            .map_err(|source| BaseError::Header { path: file.path.clone(), source })?;
        let Some(backing) = header.backing else { break };
        if layers.len() >= CHAIN_MAX {
            let reason = format!("its backing chain has more than {CHAIN_MAX} files");
            return Err(BaseError::image(name, reason));
        }
        let below = below(&file.path, &backing, allowed, folder)?;
        layers.push(below);
    }
    Ok(layers)
}

/// Opens the backing file that a header names, if a note or the user confirms it.
fn below(
    image: &Path,
    backing: &qcow2::Backing,
    allowed: &AllowedBacking,
    folder: &Path,
) -> Result<Layer, BaseError> {
    if let Some(noted) = noted(folder, image, backing) {
        return Ok(Layer { file: ImageFile::beside(&noted.path)?, format: noted.format });
    }
    let refused = || BaseError::Backing { path: image.to_owned(), name: backing.name.clone() };
    let place = image.parent().unwrap_or(Path::new("/")).join(&backing.name);
    let mut components = backing.name.components();
    let is_beside = matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(name)), None) if name == backing.name.as_os_str()
    );
    let place = if allowed.beside && is_beside {
        place
    } else {
        // The path comes from the user, in any spelling.
        let place = fs::canonicalize(place).map_err(|_| refused())?;
        let named = |file: &PathBuf| fs::canonicalize(file).is_ok_and(|file| file == place);
        allowed.files.iter().any(named).then_some(place).ok_or_else(refused)?
    };
    // The content alone must not make vbuild read another file of the user: a guest can write a
    // qcow2 header into its raw disk.
    if image.extension().is_none_or(|extension| extension != "qcow2") {
        let reason = "it has a backing file, but its name does not end in .qcow2";
        return Err(BaseError::image(image, reason));
    }
    let format = backing.format.ok_or_else(|| {
        let reason =
            "it does not name the format of its backing file; `qemu-img rebase -u -F` does";
        BaseError::image(image, reason)
    })?;
    Ok(Layer { file: ImageFile::beside(&place)?, format })
}

fn note_path(folder: &Path, image: &Path) -> PathBuf {
    let name = hex::encode(Sha256::digest(image.as_os_str().as_encoded_bytes()));
    folder.join(NOTES).join(name)
}

/// Records the backing file of an overlay that vbuild has written, so that it can be opened again
/// without permission of the user.
///
/// # Errors
/// Fails if the note cannot be written, or if one of the files does not exist.
pub fn note_backing(folder: &Path, overlay: &Path, backing: &Backing) -> Result<(), BaseError> {
    let real = |path: &Path| fs::canonicalize(path).map_err(|e| BaseError::io("open", path, e));
    let overlay = real(overlay)?;
    let below = real(&overlay.parent().unwrap_or(Path::new("/")).join(&backing.path))?;
    let note = note_path(folder, &overlay);
    let format = OsStr::new(backing.format.name());
    let parts = [overlay.as_os_str(), backing.path.as_os_str(), format, below.as_os_str()];
    let text = parts.map(OsStr::as_bytes).join(&0);
    let write = || -> io::Result<()> {
        let notes = folder.join(NOTES);
        fs::create_dir_all(&notes)?;
        let mut file = tempfile::NamedTempFile::new_in(notes)?;
        file.write_all(&text)?;
        file.persist(&note)?;
        Ok(())
    };
    write().map_err(|e| BaseError::io("write", &note, e))
}

/// The recorded backing file of an overlay, if its header still matches.
fn noted(folder: &Path, image: &Path, backing: &qcow2::Backing) -> Option<Backing> {
    let [overlay, name, format, below] = read_note(&note_path(folder, image))?;
    let format = [BackingFormat::Raw, BackingFormat::Qcow2]
        .into_iter()
        .find(|known| known.name().as_bytes() == format.as_os_str().as_bytes())?;
    let same = overlay == image && name == backing.name && backing.format == Some(format);
    same.then_some(Backing { path: below, format })
}

fn read_note(note: &Path) -> Option<[PathBuf; 4]> {
    let text = fs::read(note).ok().filter(|text| text.len() <= NOTE_MAX_BYTES)?;
    let parts = text.split(|byte| *byte == 0).map(|part| PathBuf::from(OsStr::from_bytes(part)));
    parts.collect::<Vec<_>>().try_into().ok()
}

/// Whether the overlay of a note may still exist: if that cannot be found out, the note stays.
pub(crate) fn is_live(note: &Path) -> bool {
    match read_note(note) {
        Some([overlay, ..]) => overlay.try_exists().unwrap_or(true),
        None => fs::read(note).is_err(),
    }
}
