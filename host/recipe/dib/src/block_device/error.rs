//! Errors of a block-device configuration.

use std::path::PathBuf;

use yaml_tree::{Content, Node};

use super::{
    choose::{ConfigOrigin, ConfigText},
    units::{SizeFault, UNITS_IN_WORDS},
};

/// An error in a block-device configuration. Messages are those of diskimage-builder where it has
/// one.
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
    /// The text is not YAML.
    #[error("the block-device configuration is not YAML: {0}")]
    Yaml(String),
    /// The document is empty.
    #[error("the block-device configuration is empty")]
    Empty,
    /// An entry is not a mapping.
    #[error("Config entry not a dict: {0}")]
    NotADict(String),
    /// An entry does not have exactly one key.
    #[error("Config entry top-level should be a single dict: {0}")]
    NotASingleDict(String),
    /// An entry names an unknown module.
    #[error("Config entry is not a plugin value: {0}")]
    NotAPlugin(String),
    /// The value of a module is not a mapping.
    #[error("`{module}` needs settings, found {found}")]
    NoSettings {
        /// The module.
        module: &'static str,
        /// The value found instead.
        found: String,
    },
    /// An entry has neither a name nor a base from which to derive one.
    #[error("`{module}` needs a `name`, as it has no `base`")]
    NoName {
        /// The module.
        module: &'static str,
    },
    /// `partitions` is not a list of mappings.
    #[error("`partitions` must be a list of partitions, found {0}")]
    PartitionsNotAList(String),
    /// A partition has no name.
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
    /// A value has the wrong type.
    #[error("`{node}`: `{key}` cannot be {found}")]
    BadValue {
        /// The node.
        node: String,
        /// The key.
        key: &'static str,
        /// The value found instead.
        found: String,
    },
    /// An error in an `lvm` entry, with the complete message.
    #[error("{0}")]
    Lvm(String),
    /// The partition table has an unknown label type.
    #[error("Label must be 'mbr' or 'gpt'")]
    TableLabel,
    /// `primary` is set on a GPT partition.
    #[error("Primary flag not supported for GPT partitions")]
    PrimaryOnGpt,
    /// Unknown partition flag.
    #[error("Unknown flag: {0}")]
    UnknownFlag(String),
    /// A partition has no size.
    #[error("No size in partition {0}")]
    NoSize(String),
    /// A primary partition follows a logical one.
    #[error("All primary partitions must be given first")]
    PrimariesFirst,
    /// An MBR partition table needs 512-byte blocks.
    #[error("`{0}`: an mbr partition table needs blocks of 512 bytes")]
    MbrBlocks(String),
    /// The base of a partition table is not a disk.
    #[error("`{table}` needs a local_loop as its base, and `{base}` is not one")]
    TableBase {
        /// The table.
        table: String,
        /// The base of the table, which is not a `local_loop`.
        base: String,
    },
    /// Unsupported block size.
    #[error("`{disk}`: `block_size` is `{size}`, which is neither 512 nor 4096")]
    BlockSize {
        /// The disk.
        disk: String,
        /// The requested size.
        size: String,
    },
    /// The name of a local_loop is not a valid file name for a disk.
    #[error(transparent)]
    DiskName(plan::InvalidDiskName),
    /// An element places a disk outside of the current directory.
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
    /// Invalid size.
    #[error("`{node}`: `{key}` is `{value}`: {fault} ({UNITS_IN_WORDS})")]
    Size {
        /// The node.
        node: String,
        /// The key.
        key: &'static str,
        /// The value, as it is written.
        value: String,
        /// The reason.
        fault: SizeFault,
    },
    /// An error with its position.
    #[error("{source} (line {line} of {place})")]
    At {
        /// The fault.
        source: Box<BlockDeviceError>,
        /// The line, from 1.
        line: usize,
        /// The file or variable that contains it.
        place: String,
    },
    /// Two nodes have the same name.
    #[error("Duplicate node name: {0}")]
    DuplicateName(String),
    /// A node refers to an undefined node.
    #[error("Edge not defined: {from}->{to}")]
    EdgeNotDefined {
        /// The base.
        from: String,
        /// The node.
        to: String,
    },
    /// Nodes depend on each other in a cycle.
    #[error("the block-device configuration has a cycle through `{0}`")]
    Cycle(String),
    /// Two filesystems have the same label.
    #[error("File system label [{0}] used more than once")]
    DuplicateLabel(String),
    /// A label is longer than the filesystem type allows.
    #[error("Label [{label}] too long for filesystem [{fstype}]: {length} > {max}")]
    LabelTooLong {
        /// The label.
        label: String,
        /// The type.
        fstype: String,
        /// The length of the label in bytes.
        length: usize,
        /// The limit of the type.
        max: usize,
    },
    /// Two filesystems have the same mount point.
    #[error("Mount point [{0}] specified more than once")]
    DuplicateMountPoint(String),
    /// The base of a filesystem, volume or container is not a block device.
    #[error("`{node}` is based on `{base}`, which is not a block device")]
    NotADevice {
        /// The node.
        node: String,
        /// The base of the node, which is not a block device.
        base: String,
    },
    /// The base of a mount is not a filesystem.
    #[error("`{node}` is based on `{base}`, which is not a filesystem")]
    NotAFilesystem {
        /// The node.
        node: String,
        /// The base of the node, which is not a filesystem.
        base: String,
    },
    /// Nothing is mounted on `/`.
    #[error("no filesystem of the block-device configuration is mounted on `/`")]
    NoRoot,
    /// No disk is named `image0`, so there is no image.
    #[error("the block-device configuration has no local_loop named `image0`")]
    NoImage,
}

impl BlockDeviceError {
    /// A hint for the user, if there is one.
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

    /// Adds the line number of the offending value, if it can be found.
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

/// Finds the line of a key with a given value; if there are several, the one in the mapping of the
/// given name.
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
