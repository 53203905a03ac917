//! Opens drives on the parent's side: the VMM process has no access to paths, so every layer of an
//! image is found and opened here.

use std::{
    fs::File,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use machine::{Drive, DriveFormat, MachineError};
use qcow2::{Backing, BackingFormat, Header, create_layer as create_layer_file};

use crate::control::Format;

/// Maximum layers of a drive; a build creates one per stage.
const LAYERS_MAX: usize = 64;

/// Errors of opening a drive.
#[derive(Debug, thiserror::Error)]
#[error("`{}` cannot be used as a disk", path.display())]
pub(crate) struct DriveError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The layers of a drive, topmost first.
#[derive(Debug)]
pub(crate) struct Layers {
    /// The open files with their formats.
    pub(crate) files: Vec<(File, Format)>,
    /// The disk size as the guest sees it.
    pub(crate) size: u64,
}

/// Opens the files of a drive: those that the drive lists, and no others. A last file whose header
/// names a backing file is refused.
pub(crate) fn open(drive: &Drive) -> Result<Layers, DriveError> {
    let mut files = Vec::new();
    let mut size = None;
    let top = (drive.path.as_path(), drive.format);
    let below = drive.below.iter().map(|layer| (layer.path.as_path(), layer.format));
    let mut layers = std::iter::once(top).chain(below).peekable();
    while let Some((path, format)) = layers.next() {
        let at = |source| DriveError { path: path.to_owned(), source };
        if files.len() >= LAYERS_MAX {
            return Err(at(io::Error::other(format!("more than {LAYERS_MAX} layers"))));
        }
        let writable = files.is_empty() && !drive.read_only;
        let file = open_file(path, writable).map_err(at)?;
        let bytes = match format {
            DriveFormat::Raw => io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(at)?,
            DriveFormat::Qcow2 => {
                let header = Header::read(&file).map_err(at)?;
                if layers.peek().is_none() {
                    header.check_standalone().map_err(|error| at(error.into()))?;
                }
                header.disk_bytes
            }
        };
        size.get_or_insert(bytes);
        files.push((file, self::format(format)));
    }
    Ok(Layers { files, size: size.unwrap_or(0) })
}

/// The open files of a drive, for another VMM.
#[derive(Debug)]
pub struct OpenDrive {
    /// The topmost file first; only this may be writable.
    pub files: Vec<File>,
    /// The disk size as the guest sees it.
    pub disk_bytes: u64,
}

/// Opens the files of a drive by the same rules as for vbuild's own VMM.
///
/// # Errors
/// Fails if a file cannot be opened, or names a file that the drive does not list.
pub fn open_drive(drive: &Drive) -> Result<OpenDrive, MachineError> {
    let layers = open(drive).map_err(|error| drive_error(&error))?;
    let files = layers.files.into_iter().map(|(file, _)| file).collect();
    Ok(OpenDrive { files, disk_bytes: layers.size })
}

/// Converts a drive's error to that of a backend.
pub(crate) fn drive_error(error: &DriveError) -> MachineError {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    MachineError::Unavailable { what: error.to_string(), reason: cause, hint: None }
}

pub(crate) fn format(format: DriveFormat) -> Format {
    match format {
        DriveFormat::Raw => Format::Raw,
        DriveFormat::Qcow2 => Format::Qcow2,
    }
}

fn open_file(path: &Path, writable: bool) -> io::Result<File> {
    // With O_NONBLOCK, a pipe in place of a disk is an error instead of blocking; files and block
    // devices ignore it.
    let file =
        File::options().read(true).write(writable).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = std::os::unix::fs::FileTypeExt::is_block_device(&file.metadata()?.file_type());
    if !kind && !file.metadata()?.is_file() {
        return Err(io::Error::other("it is neither a file nor a block device"));
    }
    Ok(file)
}

/// Creates an empty layer of a disk of this size over `below` and opens it.
///
/// # Errors
/// Fails if the file exists or cannot be written.
pub fn create_layer(
    path: &Path,
    disk_bytes: u64,
    below: &Path,
    below_format: DriveFormat,
) -> Result<File, MachineError> {
    let at = |source| drive_error(&DriveError { path: path.to_owned(), source });
    let file = File::options().read(true).write(true).create_new(true).open(path).map_err(at)?;
    let format = match below_format {
        DriveFormat::Raw => BackingFormat::Raw,
        DriveFormat::Qcow2 => BackingFormat::Qcow2,
    };
    // An absolute path, for users who inspect the files of a failed build.
    let below = std::path::absolute(below).map_err(at)?;
    create_layer_file(&file, disk_bytes, Some(Backing::new(&below, format))).map_err(at)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsRawFd, unix::fs::FileExt};

    use machine::{BlockSize, DriveSerial, Layer};

    use super::*;

    fn drive(path: PathBuf, format: DriveFormat) -> Drive {
        Drive {
            serial: DriveSerial::new("x").unwrap(),
            path,
            format,
            below: Vec::new(),
            read_only: false,
            durable: false,
            block_size: BlockSize::B512,
        }
    }

    fn layer(path: PathBuf, format: DriveFormat) -> Layer {
        Layer { path, format }
    }

    #[test]
    fn the_layers_that_are_listed_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        File::create(at("base")).unwrap().set_len(1 << 20).unwrap();
        create_layer(&at("one"), 1 << 20, &at("base"), DriveFormat::Raw).unwrap();
        create_layer(&at("two"), 1 << 20, &at("one"), DriveFormat::Qcow2).unwrap();
        let below = vec![layer(at("one"), DriveFormat::Qcow2), layer(at("base"), DriveFormat::Raw)];
        let chain = Drive { below, ..drive(at("two"), DriveFormat::Qcow2) };
        let layers = open(&chain).unwrap();
        let formats: Vec<Format> = layers.files.iter().map(|(_, format)| *format).collect();
        assert_eq!(formats, [Format::Qcow2, Format::Qcow2, Format::Raw]);
        assert_eq!(layers.size, 1 << 20);
        assert!(create_layer(&at("two"), 1, &at("one"), DriveFormat::Raw).is_err(), "it exists");
        std::fs::remove_file(at("base")).unwrap();
        let error = open(&chain).unwrap_err();
        assert!(error.to_string().contains("base"), "{error}");
    }

    /// Content that root in a guest can write to its drive.
    #[test]
    fn a_file_that_a_header_names_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("secret"), vec![b's'; 4096]).unwrap();
        create_layer(&at("evil"), 1 << 20, &at("secret"), DriveFormat::Raw).unwrap();
        let error = open(&drive(at("evil"), DriveFormat::Qcow2)).unwrap_err();
        assert!(error.to_string().contains("evil"), "{error}");
        assert!(error.source.to_string().contains("secret"), "{}", error.source);
        // As a raw drive its content is data, in one file.
        let opened = open(&drive(at("evil"), DriveFormat::Raw)).unwrap();
        assert_eq!(opened.files.len(), 1);
        // In a chain, the name in the header is ignored.
        File::create(at("base")).unwrap().set_len(1 << 20).unwrap();
        let below = vec![layer(at("base"), DriveFormat::Raw)];
        let opened = open(&Drive { below, ..drive(at("evil"), DriveFormat::Qcow2) }).unwrap();
        let link = format!("/proc/self/fd/{}", opened.files[1].0.as_raw_fd());
        assert_eq!(std::fs::read_link(link).unwrap(), at("base").canonicalize().unwrap());
        // An external data file, by its feature bit.
        let file = File::options().write(true).open(at("evil")).unwrap();
        file.write_all_at(&[4], 79).unwrap();
        let error = open(&drive(at("evil"), DriveFormat::Qcow2)).unwrap_err();
        assert!(error.source.to_string().contains("external data"), "{}", error.source);
    }

    #[test]
    fn a_directory_and_a_wrong_format_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open(&drive(dir.path().to_owned(), DriveFormat::Raw)).is_err());
        let path = dir.path().join("raw");
        File::create(&path).unwrap().set_len(4096).unwrap();
        assert!(open(&drive(path, DriveFormat::Qcow2)).is_err());
        assert!(open(&drive(PathBuf::from("/dev/null"), DriveFormat::Raw)).is_err());
    }
}
