//! What can be wrong with a block-device configuration.

use std::path::PathBuf;

use yaml_tree::{Content, Node};

use super::{
    choose::{ConfigOrigin, ConfigText},
    units::{SizeFault, UNITS_IN_WORDS},
};

/// A fault of a block-device configuration. Where diskimage-builder has a text
/// for it, this is that text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockDeviceError {
    /// The file that `DIB_BLOCK_DEVICE_CONFIG` names cannot be read.
    #[error("cannot read the block-device configuration `{}`: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// Not YAML.
    #[error("the block-device configuration is not YAML: {0}")]
    Yaml(String),
    /// Nothing in it.
    #[error("the block-device configuration is empty")]
    Empty,
    /// An entry that is no mapping.
    #[error("Config entry not a dict: {0}")]
    NotADict(String),
    /// An entry with several keys or none.
    #[error("Config entry top-level should be a single dict: {0}")]
    NotASingleDict(String),
    /// An entry of an unknown module.
    #[error("Config entry is not a plugin value: {0}")]
    NotAPlugin(String),
    /// A module without a mapping below it.
    #[error("`{module}` needs settings, found {found}")]
    NoSettings {
        /// The module.
        module: &'static str,
        /// What stands there.
        found: String,
    },
    /// A module whose name cannot be made up.
    #[error("`{module}` needs a `name`, as it has no `base`")]
    NoName {
        /// The module.
        module: &'static str,
    },
    /// `partitions` is something else than a list of mappings.
    #[error("`partitions` must be a list of partitions, found {0}")]
    PartitionsNotAList(String),
    /// A partition without a name.
    #[error("partition without a name: {0}")]
    PartitionWithoutName(String),
    /// A required key is missing.
    #[error("{module} config needs '{key}'")]
    Needs {
        /// The module.
        module: &'static str,
        /// The key.
        key: &'static str,
    },
    /// A required key of a filesystem or mount is missing.
    #[error("{module} config needs [{key}]")]
    NeedsParameter {
        /// The module.
        module: &'static str,
        /// The key.
        key: &'static str,
    },
    /// A key with a value of the wrong kind.
    #[error("`{node}`: `{key}` cannot be {found}")]
    BadValue {
        /// The node.
        node: String,
        /// The key.
        key: &'static str,
        /// What stands there.
        found: String,
    },
    /// A fault of an `lvm` entry; the text says it all.
    #[error("{0}")]
    Lvm(String),
    /// A partition table of an unknown kind.
    #[error("Label must be 'mbr' or 'gpt'")]
    TableLabel,
    /// `primary` on GPT.
    #[error("Primary flag not supported for GPT partitions")]
    PrimaryOnGpt,
    /// A flag that does not exist.
    #[error("Unknown flag: {0}")]
    UnknownFlag(String),
    /// A partition without a size.
    #[error("No size in partition {0}")]
    NoSize(String),
    /// A primary partition after a logical one.
    #[error("All primary partitions must be given first")]
    PrimariesFirst,
    /// An MBR on blocks of 4096 bytes.
    #[error("`{0}`: an mbr partition table needs blocks of 512 bytes")]
    MbrBlocks(String),
    /// A partition table on something that is not a disk.
    #[error("`{table}` needs a local_loop as its base, `{base}` is none")]
    TableBase {
        /// The table.
        table: String,
        /// Its base.
        base: String,
    },
    /// A block size that does not exist.
    #[error("`{disk}`: `block_size` is `{size}`, which is neither 512 nor 4096")]
    BlockSize {
        /// The disk.
        disk: String,
        /// What was asked for.
        size: String,
    },
    /// A local_loop with a name that no file of a disk can have.
    #[error(transparent)]
    DiskName(plan::InvalidDiskName),
    /// An element that keeps a disk outside of the folder in which vbuild runs.
    #[error(
        "`{}` keeps the disk `{disk}` in `{directory}`, which is not below the current directory",
        path.display()
    )]
    Directory {
        /// The element's configuration.
        path: PathBuf,
        /// The disk.
        disk: plan::DiskName,
        /// The folder.
        directory: String,
    },
    /// A size that cannot be read.
    #[error("`{node}`: `{key}` is `{value}`: {fault} ({UNITS_IN_WORDS})")]
    Size {
        /// The node.
        node: String,
        /// The key.
        key: &'static str,
        /// The value, as it is written.
        value: String,
        /// Why it is none.
        fault: SizeFault,
    },
    /// A fault, and where it stands.
    #[error("{source} (line {line} of {place})")]
    At {
        /// The fault.
        source: Box<BlockDeviceError>,
        /// The line, from 1.
        line: usize,
        /// The file or variable.
        place: String,
    },
    /// Two nodes of one name.
    #[error("Duplicate node name: {0}")]
    DuplicateName(String),
    /// A node that refers to nothing.
    #[error("Edge not defined: {from}->{to}")]
    EdgeNotDefined {
        /// The base.
        from: String,
        /// The node.
        to: String,
    },
    /// Nodes that stand on each other.
    #[error("the block-device configuration has a cycle through `{0}`")]
    Cycle(String),
    /// Two filesystems of one label.
    #[error("File system label [{0}] used more than once")]
    DuplicateLabel(String),
    /// A label that the type cannot hold.
    #[error("Label [{label}] too long for filesystem [{fstype}]: {length} > {max}")]
    LabelTooLong {
        /// The label.
        label: String,
        /// The type.
        fstype: String,
        /// Its length.
        length: usize,
        /// The limit of the type.
        max: usize,
    },
    /// Two filesystems in one place.
    #[error("Mount point [{0}] specified more than once")]
    DuplicateMountPoint(String),
    /// A filesystem, volume or container on something that is no device.
    #[error("`{node}` is based on `{base}`, which is not a block device")]
    NotADevice {
        /// The node.
        node: String,
        /// Its base.
        base: String,
    },
    /// A mount of something that is no filesystem.
    #[error("`{node}` is based on `{base}`, which is not a filesystem")]
    NotAFilesystem {
        /// The node.
        node: String,
        /// Its base.
        base: String,
    },
    /// Nothing is mounted on `/`.
    #[error("no filesystem of the block-device configuration is mounted on `/`")]
    NoRoot,
    /// There is no disk to make the image of.
    #[error("the block-device configuration has no local_loop named `image0`")]
    NoImage,
}

impl BlockDeviceError {
    /// What the user can do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::At { source, .. } => source.hint(),
            Self::Directory { path, .. } => Some(format!(
                "`--envvar DIB_BLOCK_DEVICE_CONFIG=file://{}` takes the configuration as yours",
                path.display()
            )),
            _ => None,
        }
    }

    /// The same with the line at which the value stands that it is about.
    pub(crate) fn at(self, config: &ConfigText) -> Self {
        let (node, key, value) = match &self {
            Self::Size { node, key, value, .. } => (node, *key, value),
            Self::BadValue { node, key, found } => (node, *key, found),
            Self::BlockSize { disk, size } => (disk, "block_size", size),
            _ => return self,
        };
        let Some(line) = line_of(&config.text, node, key, value) else { return self };
        let place = match &config.origin {
            ConfigOrigin::File(path) | ConfigOrigin::Element(path) => {
                format!("`{}`", path.display())
            }
            ConfigOrigin::Variable => "DIB_BLOCK_DEVICE_CONFIG".to_owned(),
            ConfigOrigin::Fallback => "the built-in configuration".to_owned(),
        };
        Self::At { source: Box::new(self), line, place }
    }
}

/// The line of a key with a value, in the map of a name if there are several.
fn line_of(text: &str, node: &str, key: &str, value: &str) -> Option<usize> {
    let top = yaml_tree::read(text).ok()??;
    let mut found: Vec<(bool, usize)> = Vec::new();
    let mut pending = vec![top];
    while let Some(next) = pending.pop() {
        match &*next.content {
            Content::List(items) => pending.extend(items.iter().cloned()),
            Content::Map(entries) => {
                let scalar = |node: &Node| match &*node.content {
                    Content::Scalar { text, .. } => Some(text.clone()),
                    _ => None,
                };
                let has = |(name, other): &&(Node, Node), key: &str, value: &str| {
                    scalar(name).as_deref() == Some(key) && scalar(other).as_deref() == Some(value)
                };
                let named = entries.iter().any(|entry| has(&entry, "name", node));
                let values = entries.iter().filter(|entry| has(entry, key, value));
                found.extend(values.map(|(_, value)| (named, value.at.line)));
                pending.extend(entries.iter().map(|(_, value)| value.clone()));
            }
            Content::Scalar { .. } => {}
        }
    }
    found.sort_by_key(|(named, line)| (!named, *line));
    found.first().map(|(_, line)| *line)
}
