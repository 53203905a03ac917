//! The state that stages pass on beside the disks.

use std::collections::{BTreeMap, BTreeSet};

use plan::{Filesystem, NodeKind};
use serde::{Deserialize, Serialize};

/// The state that stages pass on beside the disks. It is saved with the disks when the result of a
/// stage is saved.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// The facts that steps have set so far: values by name.
    pub(crate) facts: BTreeMap<String, String>,
    /// The nodes of the layout that exist so far, in the order of their creation.
    pub(crate) nodes: Vec<MadeNode>,
    /// Mounts that scripts have made and not removed, such as a package cache bound into the image.
    pub(crate) carried: Vec<CarriedMount>,
    /// Mount points that were created for mounts of the context, and are removed with them. On
    /// saved disks they exist when a machine starts, but they are not part of the tree.
    #[serde(default)]
    pub(crate) made_targets: BTreeSet<String>,
    /// Whether the scratch disk has been formatted.
    pub(crate) scratch_formatted: bool,
}

impl State {
    /// Whether a script of block-device.d has created a device, which then replaces the layout of
    /// the plan. The device exists only in the running machine.
    pub(crate) fn has_own_device(&self) -> bool {
        self.nodes.is_empty() && self.facts.contains_key("image-block-device")
    }

    /// Returns the filesystem node with this name.
    pub(crate) fn filesystem(&self, name: &str) -> Option<&Filesystem> {
        self.nodes.iter().find_map(|made| match &made.node.kind {
            NodeKind::Filesystem(filesystem) if made.node.name == name => Some(filesystem),
            _ => None,
        })
    }
}

/// A layout node that exists on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MadeNode {
    /// The node, as in the plan.
    pub(crate) node: plan::Node,
    /// The name and number of each partition; empty if the node is not a partition table.
    pub(crate) partitions: Vec<(String, u32)>,
    /// The UUID of a filesystem, container or array, if it has one.
    pub(crate) uuid: Option<String>,
}

/// A mount that a script has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CarriedMount {
    /// The mount point, seen from the agent.
    pub(crate) target: String,
    /// The source: for a bind mount the bound path, seen from the agent; otherwise the source in
    /// the mount table.
    pub(crate) source: String,
    /// The filesystem type; empty for a bind mount.
    pub(crate) fstype: String,
    /// The mount options.
    pub(crate) options: Vec<String>,
}
