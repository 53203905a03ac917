//! State that steps pass to later steps: disks, tags, names.

use std::collections::BTreeSet;

use plan::{DiskBase, DiskName, TableLabel};

use crate::table::Part;

/// An image that a spec creates.
#[derive(Debug, Clone)]
pub(crate) struct ImageDisk {
    /// The path of the image in the spec.
    pub(crate) path: String,
    /// The disk's name in the plan.
    pub(crate) name: DiskName,
    pub(crate) bytes: u64,
    /// Its initial content, if existing partitions are adopted.
    pub(crate) base: Option<DiskBase>,
    pub(crate) label: Option<TableLabel>,
    /// The stage and step at which the partition table is created.
    pub(crate) table_at: Option<(usize, usize)>,
    pub(crate) parts: Vec<Part>,
    /// Tags of the partitions, by index.
    pub(crate) tags: Vec<Option<String>>,
}

/// The device of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Device {
    /// A partition: indices of the disk and of the partition.
    Partition { disk: usize, part: usize },
    /// A logical volume, with its group.
    Volume { group: String },
    /// A LUKS container, with the tag of the device below.
    Container { below: String },
    /// A device that existed on a disk before the build.
    Found { disk: usize },
}

/// A mounted filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountedAt {
    /// The mount point below the directory of the layout: `/root/boot/efi`.
    pub(crate) point: String,
    /// The mount point in the image: `/boot/efi`.
    pub(crate) target: String,
}

/// A tag.
#[derive(Debug, Clone)]
pub(crate) struct Tag {
    pub(crate) name: String,
    pub(crate) device: Device,
    /// The node of the device.
    pub(crate) node: String,
    /// Node and type of its filesystem. The type is empty for an existing filesystem, whose type is
    /// a fact known only during the build.
    pub(crate) filesystem: Option<(String, String)>,
    pub(crate) mounted: Option<MountedAt>,
}

/// A tag as part of other names: `/` becomes `root`, `/boot/efi` becomes `boot-efi`.
pub(crate) fn plain_name(tag: &str) -> String {
    let trimmed = tag.trim_matches('/');
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let plain: String = trimmed.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
    match plain.as_str() {
        "" | "." | ".." => "root".into(),
        _ => plain,
    }
}

/// Names in use, so that every node gets a unique one.
#[derive(Debug, Default)]
pub(crate) struct Names {
    taken: BTreeSet<String>,
    /// Names reserved for later steps.
    promised: BTreeSet<String>,
}

impl Names {
    /// Returns the wished name, with a number appended if it is taken.
    pub(crate) fn claim(&mut self, wished: &str) -> String {
        let mut name = wished.to_owned();
        let mut number = 2;
        while self.promised.contains(&name) || !self.taken.insert(name.clone()) {
            name = format!("{wished}{number}");
            number += 1;
        }
        name
    }

    /// Reserves a name for a later step.
    pub(crate) fn promise(&mut self, name: &str) {
        self.promised.insert(name.to_owned());
    }

    /// Takes a name that cannot be changed because it is visible outside of the plan; `false` if it
    /// is taken.
    pub(crate) fn reserve(&mut self, name: &str) -> bool {
        self.promised.remove(name);
        self.taken.insert(name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_given_once() {
        let mut names = Names::default();
        names.promise("root");
        assert_eq!(names.claim("root"), "root2");
        assert!(names.reserve("root"));
        assert!(!names.reserve("root"));
        assert_eq!(names.claim("root"), "root3");
    }

    #[test]
    fn tags_become_plain_names() {
        for (tag, name) in
            [("/", "root"), ("/boot/efi", "boot-efi"), ("a b", "a-b"), ("..", "root")]
        {
            assert_eq!(plain_name(tag), name);
        }
    }
}
