//! Opening drives on the parent's side: the VMM process has no paths, so every
//! layer of an image is found and opened here.

use std::{
    fs::File,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use machine::{Drive, DriveFormat};

use crate::{
    control::Format,
    devices::block::qcow2::header::{self, Header},
};

/// Layers of one drive; a build makes one per stage.
const LAYERS_MAX: usize = 64;

/// Errors of opening a drive.
#[derive(Debug, thiserror::Error)]
#[error("`{}` cannot be used as a disk", path.display())]
pub(crate) struct DriveError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The layers of a drive, top first.
#[derive(Debug)]
pub(crate) struct Layers {
    /// The open files with their formats.
    pub(crate) files: Vec<(File, Format)>,
    /// The size of the disk that the guest sees.
    pub(crate) size: u64,
}

/// Opens a drive with all its backing files.
pub(crate) fn open(drive: &Drive) -> Result<Layers, DriveError> {
    let mut files = Vec::new();
    let mut size = None;
    let mut next = Some((drive.path.clone(), format(drive.format)));
    while let Some((path, format)) = next.take() {
        let at = |source| DriveError { path: path.clone(), source };
        if files.len() >= LAYERS_MAX {
            return Err(at(io::Error::other(format!("more than {LAYERS_MAX} layers"))));
        }
        let writable = files.is_empty() && !drive.read_only;
        let file = open_file(&path, writable).map_err(at)?;
        match format {
            Format::Raw => {
                let len = io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(at)?;
                size.get_or_insert(len);
            }
            Format::Qcow2 => {
                let header = Header::read(&file).map_err(at)?;
                size.get_or_insert(header.size);
                next = below(&path, &header).map_err(at)?;
            }
        }
        files.push((file, format));
    }
    Ok(Layers { files, size: size.unwrap_or(0) })
}

fn format(format: DriveFormat) -> Format {
    match format {
        DriveFormat::Raw => Format::Raw,
        DriveFormat::Qcow2 => Format::Qcow2,
    }
}

fn open_file(path: &Path, writable: bool) -> io::Result<File> {
    // O_NONBLOCK so that a pipe in the place of a disk is an error, not a wait;
    // it has no effect on files and block devices.
    let file =
        File::options().read(true).write(writable).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = std::os::unix::fs::FileTypeExt::is_block_device(&file.metadata()?.file_type());
    if !kind && !file.metadata()?.is_file() {
        return Err(io::Error::other("it is neither a file nor a block device"));
    }
    Ok(file)
}

/// The backing file of an image. Its format must be named: guessing would let
/// whoever wrote the file choose.
fn below(path: &Path, header: &Header) -> io::Result<Option<(PathBuf, Format)>> {
    let Some(backing) = header.backing() else { return Ok(None) };
    let format = match backing.format.as_deref() {
        Some("raw") => Format::Raw,
        Some("qcow2") => Format::Qcow2,
        Some(other) => {
            return Err(io::Error::other(format!("backing format `{other}` is not supported")));
        }
        None => {
            return Err(io::Error::other(
                "it does not name its backing file's format; `qemu-img rebase -u -F` sets it",
            ));
        }
    };
    let base = path.parent().unwrap_or(Path::new("/"));
    Ok(Some((base.join(&backing.name), format)))
}

/// Creates an empty layer of this size over `below` and opens it.
pub(crate) fn create_layer(
    path: &Path,
    size: u64,
    below: &Path,
    below_format: Format,
) -> Result<File, DriveError> {
    let at = |source| DriveError { path: path.to_owned(), source };
    let file = File::options().read(true).write(true).create_new(true).open(path).map_err(at)?;
    let name = match below_format {
        Format::Raw => "raw",
        Format::Qcow2 => "qcow2",
    };
    // An absolute name, so that the layer still finds it from elsewhere.
    let below = std::path::absolute(below).map_err(at)?;
    header::create(&file, size, &below, name).map_err(at)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use machine::{BlockSize, DriveSerial};

    use super::*;

    fn drive(path: PathBuf, format: DriveFormat) -> Drive {
        Drive {
            serial: DriveSerial::new("x").unwrap(),
            path,
            format,
            read_only: false,
            durable: false,
            block_size: BlockSize::B512,
        }
    }

    #[test]
    fn a_chain_of_layers_is_followed_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        File::create(at("base")).unwrap().set_len(1 << 20).unwrap();
        create_layer(&at("one"), 1 << 20, &at("base"), Format::Raw).unwrap();
        create_layer(&at("two"), 1 << 20, &at("one"), Format::Qcow2).unwrap();
        let layers = open(&drive(at("two"), DriveFormat::Qcow2)).unwrap();
        let formats: Vec<Format> = layers.files.iter().map(|(_, format)| *format).collect();
        assert_eq!(formats, [Format::Qcow2, Format::Qcow2, Format::Raw]);
        assert_eq!(layers.size, 1 << 20);
        assert!(create_layer(&at("two"), 1, &at("one"), Format::Raw).is_err(), "it exists");
        std::fs::remove_file(at("base")).unwrap();
        let error = open(&drive(at("two"), DriveFormat::Qcow2)).unwrap_err();
        assert!(error.to_string().contains("base"), "{error}");
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
