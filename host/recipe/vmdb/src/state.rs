//! What steps make known to later steps: disks, tags, names.

use std::collections::BTreeSet;

use plan::TableLabel;

use crate::table::Part;

/// An image that a spec makes.
#[derive(Debug, Clone)]
pub(crate) struct ImageDisk {
    /// The path by which the spec speaks of it.
    pub(crate) path: String,
    /// The disk's name in the plan.
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) label: Option<TableLabel>,
    /// Where in the plan the table is made: stage and step.
    pub(crate) table_at: Option<(usize, usize)>,
    pub(crate) parts: Vec<Part>,
    /// Tags of the partitions, by position.
    pub(crate) tags: Vec<Option<String>>,
}

/// What a tag stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Device {
    /// A partition: disk and place in its list.
    Partition { disk: usize, part: usize },
    /// A logical volume and its group.
    Volume { group: String },
    /// A LUKS container and the tag below it.
    Container { below: String },
}

/// A mounted filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountedAt {
    /// Below the directory where the layout is mounted: `/root/boot/efi`.
    pub(crate) point: String,
    /// In the image: `/boot/efi`.
    pub(crate) target: String,
}

/// A tag.
#[derive(Debug, Clone)]
pub(crate) struct Tag {
    pub(crate) name: String,
    pub(crate) device: Device,
    /// The node of the device.
    pub(crate) node: String,
    /// Node and type of its filesystem.
    pub(crate) filesystem: Option<(String, String)>,
    pub(crate) mounted: Option<MountedAt>,
}

/// Names that are in use, so that every node gets its own.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeSet<String>);

impl Names {
    /// The wished name, or one with a number when it is taken.
    pub(crate) fn claim(&mut self, wished: &str) -> String {
        let mut name = wished.to_owned();
        let mut number = 2;
        while !self.0.insert(name.clone()) {
            name = format!("{wished}{number}");
            number += 1;
        }
        name
    }

    /// Takes a name that cannot be changed, because it is seen outside.
    pub(crate) fn reserve(&mut self, name: &str) -> bool {
        self.0.insert(name.to_owned())
    }
}
