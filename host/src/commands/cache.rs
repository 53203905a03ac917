//! `vbuild cache create`: creates a helper drive, without tools of the host and without a machine.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::{Args, Subcommand, ValueEnum};
use mkext4::{FsBuilder, Options, RegionSink};

use super::context::{Outcome, ProcessContext};
use crate::{
    cli::ByteSize,
    error::{CommandError, Kind},
    ui,
};

/// The block size of the filesystem in bytes.
const BLOCK_BYTES: u64 = 4096;
/// The minimum size of a drive in bytes; on a smaller one, the journal and the tables would leave
/// no useful space.
const SIZE_MIN_BYTES: u64 = 64 << 20;
/// The filesystem label, by which users and `blkid` recognise the drive; at most 16 bytes.
const LABEL: &str = "vbuild-cache";

/// The arguments of `vbuild cache`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct CacheCommand {
    /// The verb to run.
    #[command(subcommand)]
    pub(crate) verb: CacheVerb,
}

/// The verbs of `vbuild cache`.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(crate) enum CacheVerb {
    /// Make a helper drive for --drive
    Create(CreateArgs),
}

/// The arguments of `vbuild cache create`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = "The file is sparse: it takes space only as builds fill it.")]
pub(crate) struct CreateArgs {
    /// The file to make; it must not exist
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// Size of the drive: a number and one of b, K, M, G
    #[arg(long, value_name = "SIZE", default_value = "10G")]
    pub(crate) size: ByteSize,

    /// Filesystem of the drive
    #[arg(long, value_name = "TYPE", default_value = "ext4")]
    pub(crate) fs: DriveFilesystem,
}

/// The filesystems that vbuild can create by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DriveFilesystem {
    /// ext4 with a journal
    Ext4,
}

/// Runs `vbuild cache`.
///
/// # Errors
/// Fails if the file exists or cannot be written, or if the size is too small for a filesystem.
pub(crate) fn run(context: &ProcessContext, command: CacheCommand) -> Outcome {
    let CacheVerb::Create(args) = command.verb;
    let DriveFilesystem::Ext4 = args.fs;
    create(&args.file, args.size)?;
    let size = ui::bytes(args.size.0);
    context.console.print(&format!("made {}: ext4, {size}\n", args.file.display()))?;
    Ok(0)
}

/// Creates the drive. If writing it fails, the incomplete file is removed.
fn create(path: &Path, size: ByteSize) -> Result<(), CommandError> {
    let bytes = size.0 / BLOCK_BYTES * BLOCK_BYTES;
    if bytes < SIZE_MIN_BYTES {
        let least = ui::bytes(SIZE_MIN_BYTES);
        return Err(CommandError::usage(format!("a drive needs at least {least}")));
    }
    let failed = || format!("failed to create `{}`", path.display());
    let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| {
        let exists = error.kind() == io::ErrorKind::AlreadyExists;
        CommandError::new(Kind::Usage, error)
            .context(failed())
            .maybe_hint(exists.then_some("choose another name, or remove the file first"))
    })?;
    let made = rooted::allow_user_mode(&file, 0o666)
        .and_then(|()| write(&file, bytes).map_err(io::Error::other));
    made.map_err(|error| {
        let _ = std::fs::remove_file(path);
        CommandError::new(Kind::Host, error).context(failed())
    })
}

fn write(file: &File, bytes: u64) -> mkext4::Result<()> {
    file.set_len(bytes)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut options = Options::new(
        bytes,
        *uuid::Uuid::new_v4().as_bytes(),
        i64::try_from(now.as_secs()).unwrap_or_default(),
    );
    options.label = Some(LABEL.into());
    // Only root writes to the drive, in the guest, so blocks reserved for root are of no use.
    options.reserved_percent = 0;
    let layout = FsBuilder::new(options)?.seal()?;
    let mut sink = Sparse(file);
    layout.writer(&mut sink)?.finish()?;
    file.sync_all()?;
    Ok(())
}

/// A sink for a file that has its full length already: zeros are not written, and stay holes.
struct Sparse<'a>(&'a File);

impl RegionSink for Sparse<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn zeros(&mut self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_drive_is_an_empty_sparse_filesystem() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.img");
        create(&path, ByteSize(1 << 30)).unwrap();
        let metadata = path.metadata().unwrap();
        assert_eq!(metadata.len(), 1 << 30);
        assert!(metadata.blocks() * 512 < 64 << 20, "{} blocks", metadata.blocks());
        let image = std::fs::read(&path).unwrap();
        let fs = mkext4::reader::Fs::open(&image[..]).unwrap();
        fs.resolve("/lost+found").unwrap();
    }

    #[test]
    fn an_existing_file_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine");
        std::fs::write(&path, "precious").unwrap();
        let error = create(&path, ByteSize(1 << 30)).unwrap_err();
        assert_eq!(error.hints.len(), 1);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn too_small_a_drive_is_refused_before_anything_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small");
        assert!(create(&path, ByteSize(1 << 20)).is_err());
        assert!(!path.exists());
    }
}
