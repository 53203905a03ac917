//! What is known between stages beside the disks.

use std::collections::{BTreeMap, BTreeSet};

use plan::{Filesystem, NodeKind};
use serde::{Deserialize, Serialize};

/// What is known between stages beside the disks. It goes with them wherever a
/// stage's result is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Values found out so far.
    pub(crate) facts: BTreeMap<String, String>,
    /// The nodes of the layout made so far, in order.
    pub(crate) nodes: Vec<MadeNode>,
    /// Mounts that scripts made and left, such as a package cache bound into
    /// the image.
    pub(crate) carried: Vec<CarriedMount>,
    /// Mount points that the context made and removes when it is left. A machine
    /// that starts from kept disks finds them there and must not take them for
    /// part of the tree.
    #[serde(default)]
    pub(crate) made_targets: BTreeSet<String>,
    /// Whether the scratch disk has its filesystem.
    pub(crate) scratch_formatted: bool,
}

impl State {
    /// Whether a script of block-device.d has made a device of its own, which then
    /// takes the place of the plan's layout. It lives in the machine that is on.
    pub(crate) fn has_own_device(&self) -> bool {
        self.nodes.is_empty() && self.facts.contains_key("image-block-device")
    }

    /// The filesystem node of this name.
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
    /// The node as the plan has it.
    pub(crate) node: plan::Node,
    /// For partitions of a table: name and number.
    pub(crate) partitions: Vec<(String, u32)>,
    /// UUID of a filesystem or container.
    pub(crate) uuid: Option<String>,
}

/// A mount that a script made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CarriedMount {
    /// Mount point, seen from the agent.
    pub(crate) target: String,
    /// What is mounted: a path seen from the agent for a bind, else the source.
    pub(crate) source: String,
    /// Filesystem type; empty for a bind.
    pub(crate) fstype: String,
    /// Mount options.
    pub(crate) options: Vec<String>,
}
