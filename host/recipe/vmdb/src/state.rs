//! What steps make known to later steps: disks, tags, names.

use std::collections::BTreeSet;

use plan::{DiskBase, DiskName, TableLabel};

use crate::table::Part;

/// An image that a spec makes.
#[derive(Debug, Clone)]
pub(crate) struct ImageDisk {
    /// The path by which the spec speaks of it.
    pub(crate) path: String,
    /// The disk's name in the plan.
    pub(crate) name: DiskName,
    pub(crate) bytes: u64,
    /// What it begins with, when its partitions are taken over.
    pub(crate) base: Option<DiskBase>,
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
    /// What stood on a disk before the build.
    Found { disk: usize },
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
    /// Node and type of its filesystem; the type of one that was there before is
    /// a fact, and empty here.
    pub(crate) filesystem: Option<(String, String)>,
    pub(crate) mounted: Option<MountedAt>,
}

/// A tag as a part of other names: `/` is `root`, `/boot/efi` is `boot-efi`.
pub(crate) fn plain_name(tag: &str) -> String {
    let trimmed = tag.trim_matches('/');
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let plain: String = trimmed.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
    match plain.as_str() {
        "" | "." | ".." => "root".into(),
        _ => plain,
    }
}

/// Names that are in use, so that every node gets its own.
#[derive(Debug, Default)]
pub(crate) struct Names {
    taken: BTreeSet<String>,
    /// Names that a later step will have.
    promised: BTreeSet<String>,
}

impl Names {
    /// The wished name, or one with a number when it is taken.
    pub(crate) fn claim(&mut self, wished: &str) -> String {
        let mut name = wished.to_owned();
        let mut number = 2;
        while self.promised.contains(&name) || !self.taken.insert(name.clone()) {
            name = format!("{wished}{number}");
            number += 1;
        }
        name
    }

    /// Keeps a name for a step that comes later.
    pub(crate) fn promise(&mut self, name: &str) {
        self.promised.insert(name.to_owned());
    }

    /// Takes a name that cannot be changed, because it is seen outside.
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
