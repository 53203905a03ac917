//! Disk layouts: one type for diskimage-builder's block-device layer, vmdb2's
//! mklabel/mkpart/kpartx/vgcreate/luks steps, and images of other front ends.
//!
//! A layout is a list of nodes in an order in which they can be made: the bases of a node come
//! before it. Disks are [`crate::Disk`]s of the plan, and nodes refer to them by name.
//!
//! ```text
//! disk image0 ── table ── partition root ── mkfs root ── mount / ── fstab
//!                      └─ partition pv ── (luks|md) ── lvm vg ── lv var ── mkfs var ── mount /var
//! ```

use serde::{Deserialize, Serialize};

/// A layout, or the part of one that one step makes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// The nodes, bases first.
    pub nodes: Vec<Node>,
}

/// An element of a layout: a partition table, a volume, a filesystem or a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// The name, unique among the nodes, partitions and disks of the plan.
    pub name: String,
    /// The kind of the node, with its data.
    pub kind: NodeKind,
}

/// Kinds of nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeKind {
    /// A partition table on a disk, with all its partitions: a table is written as a whole, because
    /// sizes may depend on the space that is left.
    Table(PartitionTable),
    /// An LVM physical volume.
    PhysicalVolume {
        /// The node of the device.
        base: String,
        /// Additional arguments for pvcreate.
        options: Vec<String>,
    },
    /// An LVM volume group.
    VolumeGroup {
        /// The nodes of the physical volumes.
        bases: Vec<String>,
        /// Additional arguments for vgcreate.
        options: Vec<String>,
    },
    /// An LVM logical volume.
    LogicalVolume(LogicalVolume),
    /// A LUKS container; the name of the node is the name of the mapping.
    Luks(Luks),
    /// An md array.
    Md(MdArray),
    /// A filesystem or swap space.
    Filesystem(Filesystem),
    /// The mount point of a filesystem.
    Mount(Mount),
}

/// Types of partition tables.
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
    /// The name of the disk.
    pub disk: String,
    /// The kind of the partition table: MBR or GPT.
    pub label: TableLabel,
    /// How the positions of the partitions are determined.
    pub placing: Placing,
    /// The partitions, in the order of their numbers.
    pub partitions: Vec<Partition>,
}

/// How the positions of partitions are determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Placing {
    /// One after the other, aligned to a unit, by diskimage-builder's rules. The first unit of the
    /// disk stays free, and so does the last one on a GPT. On an MBR a partition with a size in
    /// bytes may end at the end of the disk.
    InOrder {
        /// The unit of the alignment in bytes.
        align: u64,
    },
    /// Each exactly from its start to its end.
    Exact {
        /// The extended partition of an MBR. Logical partitions need one; it may be empty.
        extended: Option<Extended>,
    },
}

/// An extended partition of an MBR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extended {
    /// The number, from 1 to 4; no primary partition gets the same one.
    pub number: u32,
    /// The offset of its start on the disk, in bytes.
    pub start: u64,
    /// The offset of its end on the disk, in bytes.
    pub end: u64,
}

/// A partition. Its name is unique among the nodes, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// The name; on a GPT also the partition's label.
    pub name: String,
    /// The offset of its start on the disk, in bytes. `None`, with [`Placing::InOrder`] only, for
    /// the first free offset.
    pub start: Option<u64>,
    /// The size. With [`Placing::InOrder`], [`Size::Bytes`] and [`Size::Percent`] are rounded down
    /// to whole sectors on an MBR, and to whole MiB on a GPT, as in diskimage-builder.
    pub size: Size,
    /// The type. MBR: a byte in hexadecimal (`83`); GPT: an sgdisk code (`8300`, `EF00`) or a GUID.
    pub type_code: String,
    /// Whether it is bootable: the boot flag on an MBR, legacy-BIOS-bootable on a GPT.
    pub boot: bool,
    /// Whether it is a primary partition of an MBR; ignored on a GPT. Otherwise it is in the
    /// extended partition: that of [`Placing::Exact`], or the rest of the disk.
    pub primary: bool,
}

/// The size of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Size {
    /// A number of bytes.
    Bytes(u64),
    /// A percentage of the space that is left.
    Percent(Percent),
    /// Up to this offset on the disk, in bytes.
    EndAt(u64),
}

/// A percentage, as the double with which diskimage-builder computes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Percent(f64);

// A value is never NaN.
impl Eq for Percent {}

impl Percent {
    /// The whole space.
    pub const ALL: Self = Self(100.0);

    /// Creates a percentage from a number of 0 to 100; `None` for any other number.
    #[must_use]
    pub fn new(percent: f64) -> Option<Self> {
        (0.0..=100.0).contains(&percent).then_some(Self(percent))
    }

    /// Returns this percentage of a number of bytes, rounded down, in diskimage-builder's
    /// floating-point arithmetic, whose results differ from those of integers.
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
    /// The node of the volume group.
    pub group: String,
    /// The size of the volume.
    pub size: LvSize,
    /// The name of the thin pool that contains the volume, if it is a thin one.
    pub thin_pool: Option<String>,
    /// Whether the volume is itself a thin pool.
    pub is_thin_pool: bool,
    /// Additional arguments for lvcreate.
    pub options: Vec<String>,
}

/// The size of a logical volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LvSize {
    /// A number of bytes.
    Bytes(u64),
    /// An argument of `lvcreate -l`: `100%FREE`, `57%VG`, `128`.
    Extents(String),
}

/// A LUKS container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Luks {
    /// The node of the device.
    pub base: String,
    /// The passphrase of the container.
    pub passphrase: String,
    /// Additional arguments for `cryptsetup luksFormat`.
    pub options: Vec<String>,
}

/// An md array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MdArray {
    /// The nodes of the member devices.
    pub bases: Vec<String>,
    /// The RAID level, as mdadm takes it.
    pub level: String,
    /// The metadata version; `1.0` has the superblock at the end of the devices.
    pub metadata: String,
}

/// A filesystem or swap space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filesystem {
    /// The node of the device, or the name of the disk.
    pub base: String,
    /// The type as `mkfs -t` takes it, or `swap`.
    pub fstype: String,
    /// The label; checked against the limit of the type.
    pub label: Option<String>,
    /// The UUID. If it is `None`, one is generated for types whose mkfs accepts a UUID or a volume
    /// ID.
    pub uuid: Option<String>,
    /// Additional arguments for mkfs.
    pub options: Vec<String>,
}

/// The mount point of a filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// The node of the filesystem.
    pub base: String,
    /// The absolute path of the mount point; ignored for swap.
    pub mount_point: String,
    /// The line in fstab; `None` if it has none.
    pub fstab: Option<FstabEntry>,
}

/// The fields of a line in fstab besides the device and the mount point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FstabEntry {
    /// The mount options.
    pub options: String,
    /// The dump field.
    pub dump: u32,
    /// The order of the filesystem for fsck.
    pub pass: u32,
    /// Whether the device is named by `UUID=`, even if the filesystem has a label.
    pub by_uuid: bool,
}

/// The error for a layout that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A node refers to a base that does not come before it.
    #[error("`{node}` is based on `{base}`, which no earlier node makes")]
    UnknownBase {
        /// The name of the node.
        node: String,
        /// The missing base.
        base: String,
    },
    /// Two nodes have the same name.
    #[error("duplicate node name `{0}`")]
    DuplicateName(String),
    /// Two filesystems have the same label.
    #[error("label `{0}` used more than once")]
    DuplicateLabel(String),
    /// A label is too long for the type of the filesystem.
    #[error("label `{label}` too long for filesystem `{fstype}`: {max} bytes at most")]
    LabelTooLong {
        /// The label of the filesystem.
        label: String,
        /// The type of the filesystem.
        fstype: String,
        /// Maximum length of labels of this type, in bytes.
        max: usize,
    },
    /// Two filesystems have the same mount point.
    #[error("mount point `{0}` used more than once")]
    DuplicateMountPoint(String),
}

/// Returns the maximum length of labels of a filesystem type in bytes, if it is known: from
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
    /// Whether the node itself is a block device. Partitions are block devices too, but belong to
    /// the node of their table.
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

    /// Returns the names of the nodes or disks on which this node is made.
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
    /// Checks names, bases, labels and mount points. `disks` has the names that exist before the
    /// layout. Returns every error, in the order of the nodes.
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
