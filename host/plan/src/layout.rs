//! Disk layouts: one type for diskimage-builder's block-device layer, vmdb2's
//! mklabel/mkpart/kpartx/vgcreate/luks steps and images of other front ends.
//!
//! A layout is a list of nodes in an order in which they can be made: each
//! node's bases stand before it. Disks themselves are [`crate::Disk`]s of the
//! plan and are referred to by name.
//!
//! ```text
//! disk image0 ── table ── partition root ── mkfs root ── mount / ── fstab
//!                      └─ partition pv ── (luks|md) ── lvm vg ── lv var ── mkfs var ── mount /var
//! ```

use serde::{Deserialize, Serialize};

/// A layout, or the part of one that is made in one go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// The nodes, bases first.
    pub nodes: Vec<Node>,
}

/// One thing that is made on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its name, unique over the plan's layouts and disks.
    pub name: String,
    /// What it is.
    pub kind: NodeKind,
}

/// Kinds of nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeKind {
    /// A partition table on a disk, with all its partitions: a table is written
    /// whole, because sizes may depend on what is left.
    Table(PartitionTable),
    /// An LVM physical volume.
    PhysicalVolume {
        /// The device's node.
        base: String,
        /// Further words for pvcreate.
        options: Vec<String>,
    },
    /// An LVM volume group.
    VolumeGroup {
        /// Physical volumes.
        bases: Vec<String>,
        /// Further words for vgcreate.
        options: Vec<String>,
    },
    /// An LVM logical volume.
    LogicalVolume(LogicalVolume),
    /// A LUKS container; the node's name is the name of the mapping.
    Luks(Luks),
    /// An md array.
    Md(MdArray),
    /// A filesystem or swap space.
    Filesystem(Filesystem),
    /// A place in the tree.
    Mount(Mount),
}

/// Labels of partition tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableLabel {
    /// DOS master boot record.
    Mbr,
    /// GUID partition table.
    Gpt,
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionTable {
    /// The disk.
    pub disk: String,
    /// The kind of the partition table: MBR or GPT.
    pub label: TableLabel,
    /// Who says where the partitions lie.
    pub placing: Placing,
    /// The partitions in order of their numbers.
    pub partitions: Vec<Partition>,
}

/// Who says where partitions lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Placing {
    /// They follow one another, aligned to this many bytes, and a unit stays free at both ends
    /// of the disk.
    InOrder {
        /// The unit in bytes.
        align: u64,
    },
    /// Each lies from its start to its end, wherever the label leaves room.
    Exact {
        /// MBR: the extended partition, which need not hold any logical one.
        extended: Option<Extended>,
    },
}

/// An extended partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extended {
    /// Its number, from 1 to 4, which no primary partition then has.
    pub number: u32,
    /// Where it begins, in bytes.
    pub start: u64,
    /// Where it ends, in bytes.
    pub end: u64,
}

/// A partition. Its name is a node name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// Its name; on GPT also the partition's label.
    pub name: String,
    /// Where it begins, in bytes; `None` for right after the one before.
    pub start: Option<u64>,
    /// How large it is. [`Size::Bytes`] and [`Size::Percent`] are diskimage-builder's, so
    /// what they come to is cut to whole sectors on an MBR and to whole MiB on GPT.
    pub size: Size,
    /// MBR: a byte in hexadecimal (`83`); GPT: an sgdisk code (`8300`, `EF00`) or a GUID.
    pub type_code: String,
    /// The boot flag of an MBR entry; legacy-BIOS-bootable on GPT.
    pub boot: bool,
    /// MBR: a primary partition. Otherwise it is logical, in an extended one, which covers
    /// the rest of the disk where nothing else is said. No meaning on GPT.
    pub primary: bool,
}

/// A size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Size {
    /// A number of bytes.
    Bytes(u64),
    /// A part of what is left.
    Percent(Percent),
    /// Up to this offset from the start of the disk, in bytes.
    EndAt(u64),
}

/// A percentage, as the double that diskimage-builder reckons with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Percent(f64);

// No NaN is among the values.
impl Eq for Percent {}

impl Percent {
    /// All of it.
    pub const ALL: Self = Self(100.0);

    /// From a number of 0 to 100.
    #[must_use]
    pub fn new(percent: f64) -> Option<Self> {
        (0.0..=100.0).contains(&percent).then_some(Self(percent))
    }

    /// This percentage of a number of bytes, in the arithmetic of the original, which gives other
    /// results than whole numbers do.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "disks are below 2^53 bytes, and a part of one is not negative"
    )]
    pub fn of(self, bytes: u64) -> u64 {
        (bytes as f64 * self.0 / 100.0) as u64
    }
}

impl TryFrom<f64> for Percent {
    type Error = String;

    fn try_from(percent: f64) -> Result<Self, String> {
        Self::new(percent).ok_or_else(|| format!("{percent} is no percentage"))
    }
}

impl From<Percent> for f64 {
    fn from(percent: Percent) -> Self {
        percent.0
    }
}

impl std::fmt::Display for Percent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// An LVM logical volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogicalVolume {
    /// The volume group's node.
    pub group: String,
    /// How large it is.
    pub size: LvSize,
    /// The thin pool that it lives in.
    pub thin_pool: Option<String>,
    /// Whether it is a thin pool itself.
    pub is_thin_pool: bool,
    /// Further words for lvcreate.
    pub options: Vec<String>,
}

/// The size of a logical volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LvSize {
    /// A number of bytes.
    Bytes(u64),
    /// As `lvcreate -l` takes it: `100%FREE`, `57%VG`, `128`.
    Extents(String),
}

/// A LUKS container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Luks {
    /// The device's node.
    pub base: String,
    /// The passphrase.
    pub passphrase: String,
    /// Further words for cryptsetup luksFormat.
    pub options: Vec<String>,
}

/// An md array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MdArray {
    /// The member devices' nodes.
    pub bases: Vec<String>,
    /// RAID level as mdadm takes it.
    pub level: String,
    /// Metadata version: `1.0` keeps the superblock at the end.
    pub metadata: String,
}

/// A filesystem or swap space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filesystem {
    /// The device's node or the disk.
    pub base: String,
    /// What `mkfs -t` takes, or `swap`.
    pub fstype: String,
    /// Its label; checked against the limit of the type.
    pub label: Option<String>,
    /// Its UUID; made when missing, for types that can be told.
    pub uuid: Option<String>,
    /// Further words for mkfs.
    pub options: Vec<String>,
}

/// A filesystem's place in the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// The filesystem's node.
    pub base: String,
    /// Where, absolute; ignored for swap.
    pub mount_point: String,
    /// Its line in fstab, if it gets one.
    pub fstab: Option<FstabEntry>,
}

/// What fstab says beyond device and place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FstabEntry {
    /// Mount options.
    pub options: String,
    /// The dump field.
    pub dump: u32,
    /// The fsck pass.
    pub pass: u32,
    /// `UUID=` instead of `LABEL=`.
    pub by_uuid: bool,
}

/// Why a layout cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A node refers to something that does not stand before it.
    #[error("`{node}` is based on `{base}`, which no earlier node makes")]
    UnknownBase {
        /// The node.
        node: String,
        /// What it refers to.
        base: String,
    },
    /// Two nodes of one name.
    #[error("duplicate node name `{0}`")]
    DuplicateName(String),
    /// Two filesystems of one label.
    #[error("label `{0}` used more than once")]
    DuplicateLabel(String),
    /// A label that the type cannot hold.
    #[error("label `{label}` too long for filesystem `{fstype}`: {max} bytes at most")]
    LabelTooLong {
        /// The label.
        label: String,
        /// The type.
        fstype: String,
        /// The length limit of labels of this filesystem type, in bytes.
        max: usize,
    },
    /// Two filesystems in one place.
    #[error("mount point `{0}` used more than once")]
    DuplicateMountPoint(String),
}

/// Longest label in bytes of a filesystem type, where it is known: from
/// ext4(5), mkfs.xfs(8), mkfs.fat(8), mkswap(8), mkfs.btrfs(8).
fn label_max_bytes(fstype: &str) -> Option<usize> {
    match fstype {
        "ext2" | "ext3" | "ext4" | "swap" => Some(16),
        "xfs" => Some(12),
        "vfat" | "fat" => Some(11),
        "btrfs" => Some(255),
        _ => None,
    }
}

impl NodeKind {
    /// Whether the node is a block device of its own, beside the partitions of tables.
    #[must_use]
    pub fn is_device(&self) -> bool {
        match self {
            Self::LogicalVolume(_) | Self::Luks(_) | Self::Md(_) => true,
            Self::Table(_)
            | Self::PhysicalVolume { .. }
            | Self::VolumeGroup { .. }
            | Self::Filesystem(_)
            | Self::Mount(_) => false,
        }
    }

    /// The names that this node stands on.
    #[must_use]
    pub fn bases(&self) -> Vec<&str> {
        match self {
            Self::Table(table) => vec![&table.disk],
            Self::PhysicalVolume { base, .. } => vec![base],
            Self::VolumeGroup { bases, .. } => bases.iter().map(String::as_str).collect(),
            Self::LogicalVolume(volume) => {
                std::iter::once(volume.group.as_str()).chain(volume.thin_pool.as_deref()).collect()
            }
            Self::Luks(luks) => vec![&luks.base],
            Self::Md(md) => md.bases.iter().map(String::as_str).collect(),
            Self::Filesystem(filesystem) => vec![&filesystem.base],
            Self::Mount(mount) => vec![&mount.base],
        }
    }
}

impl Layout {
    /// Checks names, bases, labels and mount points.
    ///
    /// # Errors
    /// Every fault, in order of the nodes.
    pub fn check(&self, disks: &[&str]) -> Vec<LayoutError> {
        let mut errors = Vec::new();
        let mut names: Vec<&str> = disks.to_vec();
        let mut labels: Vec<&str> = Vec::new();
        let mut places: Vec<&str> = Vec::new();
        for node in &self.nodes {
            for base in node.kind.bases() {
                if !names.contains(&base) {
                    errors.push(LayoutError::UnknownBase {
                        node: node.name.clone(),
                        base: base.to_owned(),
                    });
                }
            }
            let mut add = |name| {
                if names.contains(&name) {
                    errors.push(LayoutError::DuplicateName(name.to_owned()));
                }
                names.push(name);
            };
            add(&node.name);
            match &node.kind {
                NodeKind::Table(table) => {
                    table.partitions.iter().for_each(|partition| add(&partition.name));
                }
                NodeKind::Filesystem(filesystem) => {
                    check_label(filesystem, &mut labels, &mut errors);
                }
                NodeKind::Mount(mount) => {
                    let place = mount.mount_point.as_str();
                    if place != "none" && places.contains(&place) {
                        errors.push(LayoutError::DuplicateMountPoint(place.to_owned()));
                    }
                    places.push(place);
                }
                NodeKind::PhysicalVolume { .. }
                | NodeKind::VolumeGroup { .. }
                | NodeKind::LogicalVolume(_)
                | NodeKind::Luks(_)
                | NodeKind::Md(_) => {}
            }
        }
        errors
    }
}

fn check_label<'a>(
    filesystem: &'a Filesystem,
    labels: &mut Vec<&'a str>,
    errors: &mut Vec<LayoutError>,
) {
    let Some(label) = &filesystem.label else { return };
    if let Some(max) = label_max_bytes(&filesystem.fstype).filter(|max| label.len() > *max) {
        errors.push(LayoutError::LabelTooLong {
            label: label.clone(),
            fstype: filesystem.fstype.clone(),
            max,
        });
    }
    if labels.contains(&label.as_str()) {
        errors.push(LayoutError::DuplicateLabel(label.clone()));
    }
    labels.push(label);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, kind: NodeKind) -> Node {
        Node { name: name.into(), kind }
    }

    fn filesystem(base: &str, fstype: &str, label: &str) -> NodeKind {
        NodeKind::Filesystem(Filesystem {
            base: base.into(),
            fstype: fstype.into(),
            label: Some(label.into()),
            uuid: None,
            options: Vec::new(),
        })
    }

    #[test]
    fn a_whole_disk_filesystem_is_fine() {
        let layout = Layout { nodes: vec![node("root", filesystem("image0", "ext4", "root"))] };
        assert_eq!(layout.check(&["image0"]), []);
    }

    #[test]
    fn every_fault_is_named() {
        let layout = Layout {
            nodes: vec![
                node("a", filesystem("nowhere", "xfs", "longer-than-12")),
                node("a", filesystem("image0", "ext4", "x")),
                node("b", filesystem("image0", "ext4", "x")),
            ],
        };
        let errors: Vec<String> =
            layout.check(&["image0"]).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "`a` is based on `nowhere`, which no earlier node makes",
                "label `longer-than-12` too long for filesystem `xfs`: 12 bytes at most",
                "duplicate node name `a`",
                "label `x` used more than once",
            ]
        );
    }
}
