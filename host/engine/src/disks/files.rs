//! The files behind the plan's disks: a raw file, and over it a qcow2 layer for each time when the
//! disks were saved.
//!
//! ```text
//!   NAME.raw ◄── NAME.1.qcow2 ◄── NAME.2.qcow2      the last one is written to
//!   └──── saved, so immutable ────┘
//! ```

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use checked::Printable;
use machine::{BlockSize, Drive, DriveFormat, DriveSerial, Layer};
use plan::{DiskName, DiskRole, DiskSize, Plan};
use store::{OverlaySource, RawSource, RawTarget};

use super::base_copy;
use crate::{EngineError, State, guest::disk_serial};

/// Maximum size of a disk whose size is a fact: the largest file of ext4, the filesystem of most
/// build directories. Facts are untrusted, since a guest or a record sets them.
const FACT_BYTES_MAX: u64 = 16 << 40;

/// The files of one disk.
#[derive(Debug, Clone)]
struct Files {
    bytes: u64,
    /// The files, from the lowest to the topmost.
    chain: Vec<PathBuf>,
    /// The number of immutable files, counted from the lowest.
    immutable: usize,
}

/// A disk file that has become immutable, because a new layer was put on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finished {
    /// The name of the disk.
    pub(crate) disk: DiskName,
    /// The size of the disk in bytes.
    pub(crate) bytes: u64,
    /// The path of the file.
    pub(crate) path: PathBuf,
    /// Whether the file is raw. Only the lowest file of a chain is raw.
    pub(crate) raw: bool,
}

/// The files of all disks whose size is known.
#[derive(Debug)]
pub(crate) struct Disks {
    directory: PathBuf,
    files: BTreeMap<DiskName, Files>,
}

impl Disks {
    /// Creates a set without files. Its directory is inside the build directory.
    pub(crate) fn new(build_dir: &Path) -> Self {
        Self { directory: build_dir.join("disks"), files: BTreeMap::new() }
    }

    /// Returns the path of a disk's raw file.
    pub(crate) fn raw(&self, disk: &DiskName) -> PathBuf {
        self.directory.join(format!("{disk}.raw"))
    }

    /// Adds a disk whose raw file has been restored from the store.
    pub(crate) fn restored(&mut self, disk: &DiskName, bytes: u64) {
        let chain = vec![self.raw(disk)];
        self.files.insert(disk.clone(), Files { bytes, chain, immutable: 1 });
    }

    /// Forgets and removes the files of all disks.
    pub(crate) fn clear(&mut self) {
        for path in std::mem::take(&mut self.files).into_values().flat_map(|files| files.chain) {
            // A file that cannot be removed is replaced later, or removed with the build's
            // directory.
            let _ = std::fs::remove_file(path);
        }
    }

    /// Creates the directory if it is missing.
    pub(crate) fn make_directory(&self) -> Result<(), EngineError> {
        std::fs::create_dir_all(&self.directory)
            .map_err(|source| host("make the directory", &self.directory, source))
    }

    /// Creates the missing files of disks whose size is known by now, and returns the drives of the
    /// machine for these disks.
    pub(crate) fn drives(&mut self, plan: &Plan, state: &State) -> Result<Vec<Drive>, EngineError> {
        self.make_directory()?;
        let mut drives = Vec::new();
        for (index, disk) in plan.disks.iter().enumerate() {
            let Some(bytes) = disk_bytes(&disk.size, state)? else { continue };
            let raw = self.raw(&disk.name);
            if !self.has(&disk.name) {
                base_copy::make_disk(&raw, bytes, disk.base.as_ref())
                    .map_err(|e| host("make the disk", &raw, e))?;
            }
            let files = self.files.entry(disk.name.clone()).or_insert_with(|| Files {
                bytes,
                chain: vec![raw.clone()],
                immutable: 0,
            });
            let mut layers = layers(&files.chain).rev();
            let Some(Layer { path, format }) = layers.next() else { continue };
            let below = layers.collect();
            let block_size =
                if disk.block_bytes == 4096 { BlockSize::B4096 } else { BlockSize::B512 };
            drives.push(Drive {
                serial: serial(index)?,
                path,
                format,
                below,
                read_only: false,
                durable: false,
                block_size,
            });
        }
        Ok(drives)
    }

    /// Whether a disk needs a new layer before the first write, because its topmost file
    /// is immutable.
    pub(crate) fn needs_layer(&self, disk: &DiskName) -> bool {
        self.files.get(disk).is_some_and(|files| files.immutable == files.chain.len())
    }

    /// Returns the path of the next layer of a disk.
    pub(crate) fn next_layer(&self, disk: &DiskName) -> PathBuf {
        self.layer(disk, self.files.get(disk).map_or(0, |files| files.chain.len()))
    }

    /// Returns the path of a layer of a disk. Layers are numbered from 1; 0 would be the raw file.
    fn layer(&self, disk: &DiskName, number: usize) -> PathBuf {
        self.directory.join(format!("{disk}.{number}.qcow2"))
    }

    /// Records that a layer has been put on a disk.
    pub(crate) fn pushed(&mut self, disk: &DiskName, layer: PathBuf) {
        if let Some(files) = self.files.get_mut(disk) {
            files.chain.push(layer);
        }
    }

    /// Returns the files that have become immutable since the last call: all but the topmost ones.
    pub(crate) fn finished(&mut self) -> Vec<Finished> {
        let mut finished = Vec::new();
        for (disk, files) in &mut self.files {
            let end = files.chain.len() - 1;
            for (index, path) in files.chain.iter().enumerate().take(end).skip(files.immutable) {
                finished.push(Finished {
                    disk: disk.clone(),
                    bytes: files.bytes,
                    path: path.clone(),
                    raw: index == 0,
                });
            }
            files.immutable = files.immutable.max(end);
        }
        finished
    }

    /// Returns the number of files of the longest chain of a disk, including the raw file.
    pub(crate) fn longest_chain(&self) -> usize {
        self.files.values().map(|files| files.chain.len()).max().unwrap_or(0)
    }

    /// Whether a disk has files.
    pub(crate) fn has(&self, disk: &DiskName) -> bool {
        self.files.contains_key(disk)
    }

    /// Merges the layers of each target disk into its raw file. No machine may be running, and the
    /// cache writer must have ended.
    pub(crate) fn flatten(&mut self, plan: &Plan) -> Result<(), EngineError> {
        for disk in plan.disks.iter().filter(|disk| disk.role == DiskRole::Target) {
            let Some(files) = self.files.get_mut(&disk.name) else { continue };
            let Some((raw, layers)) = files.chain.split_first() else { continue };
            let apply =
                |layer: &Path| RawTarget::open(raw)?.apply(&mut OverlaySource::open(layer)?);
            for layer in layers {
                apply(layer).map_err(|e| host("merge the layer", layer, io::Error::other(e)))?;
                std::fs::remove_file(layer).map_err(|e| host("remove the layer", layer, e))?;
            }
            files.chain.truncate(1);
        }
        Ok(())
    }

    /// Returns the paths of the target disks' raw files.
    pub(crate) fn targets(&self, plan: &Plan) -> BTreeMap<DiskName, PathBuf> {
        let targets = plan.disks.iter().filter(|disk| disk.role == DiskRole::Target);
        targets.map(|disk| (disk.name.clone(), self.raw(&disk.name))).collect()
    }
}

/// Merges each target disk of a failed build into one raw file, and returns these files. Disks that
/// did not exist yet are left out. No machine may be running, and the cache writer must have ended.
///
/// # Errors
/// Fails if layers cannot be merged.
pub fn target_files(
    plan: &Plan,
    build_dir: &Path,
) -> Result<BTreeMap<DiskName, PathBuf>, EngineError> {
    let mut disks = Disks::new(build_dir);
    for disk in &plan.disks {
        let raw = disks.raw(&disk.name);
        let Ok(known) = std::fs::metadata(&raw) else { continue };
        let layers = (1..).map(|number| disks.layer(&disk.name, number));
        let layers = layers.take_while(|path| path.exists());
        let chain: Vec<PathBuf> = std::iter::once(raw).chain(layers).collect();
        let files = Files { bytes: known.len(), chain, immutable: 0 };
        disks.files.insert(disk.name.clone(), files);
    }
    disks.flatten(plan)?;
    let mut targets = disks.targets(plan);
    targets.retain(|name, _| disks.has(name));
    Ok(targets)
}

/// Opens a finished file as a source of extents.
pub(crate) fn source(finished: &Finished) -> store::Result<Box<dyn store::ExtentSource>> {
    Ok(if finished.raw {
        Box::new(RawSource::open(&finished.path)?)
    } else {
        Box::new(OverlaySource::open(&finished.path)?)
    })
}

/// Returns the files of a chain with their formats, from the lowest to the topmost. Only the lowest
/// is raw.
fn layers(chain: &[PathBuf]) -> impl DoubleEndedIterator<Item = Layer> + '_ {
    chain.iter().enumerate().map(|(index, path)| Layer {
        path: path.clone(),
        format: if index == 0 { DriveFormat::Raw } else { DriveFormat::Qcow2 },
    })
}

/// Returns the serial of the plan's disk number `index`.
pub(crate) fn serial(index: usize) -> Result<DriveSerial, EngineError> {
    DriveSerial::new(disk_serial(index)).map_err(|e| EngineError::Recipe(e.to_string()))
}

/// Returns the size of a disk in bytes; `None` if it is a fact that has not been set yet. Fails if
/// the fact is not a valid size.
pub(crate) fn disk_bytes(size: &DiskSize, state: &State) -> Result<Option<u64>, EngineError> {
    match size {
        DiskSize::Bytes(bytes) => Ok(Some(*bytes)),
        DiskSize::FactKib(fact) => match state.facts.get(fact) {
            None => Ok(None),
            Some(text) => text
                .parse::<u64>()
                .ok()
                .and_then(|kib| kib.checked_mul(1024))
                .filter(|bytes| *bytes <= FACT_BYTES_MAX)
                .map(Some)
                .ok_or_else(|| {
                    let text = Printable::from(text.as_str());
                    EngineError::Recipe(format!(
                        "the fact `{fact}` is `{text}`, which is not the size of a disk in KiB"
                    ))
                }),
        },
    }
}

fn host(action: &str, path: &Path, source: io::Error) -> EngineError {
    EngineError::Host { action: action.into(), path: path.to_owned(), source }
}
