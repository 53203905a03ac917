//! The facts by which later steps find the devices of a layout.

use plan::{Filesystem, NodeKind, Plan};

use super::nodes::device;
use crate::{EngineError, State, guest::Guest};

/// Sets the facts `device.NAME`, `uuid.NAME` and `label.NAME`, and the two facts that describe the
/// whole layout to diskimage-builder's scripts: `image-block-device` and `image-block-devices`.
pub(crate) fn set_facts(plan: &Plan, guest: &Guest, state: &mut State) -> Result<(), EngineError> {
    let mut devices: Vec<(String, String)> =
        guest.disks.iter().map(|(name, device, _)| (name.clone(), device.clone())).collect();
    for made in &state.nodes {
        devices.extend(
            made.partitions
                .iter()
                .map(|(name, _)| Ok((name.clone(), device(name, guest, state)?)))
                .collect::<Result<Vec<_>, EngineError>>()?,
        );
        if made.node.kind.is_device() {
            devices.push((made.node.name.clone(), device(&made.node.name, guest, state)?));
        }
    }
    let targets: Vec<&str> = plan
        .disks
        .iter()
        .filter(|disk| disk.role == plan::DiskRole::Target)
        .map(|disk| disk.name.as_str())
        .collect();
    let scratch = |name: &str| {
        plan.disks.iter().any(|disk| disk.name == name && disk.role == plan::DiskRole::Scratch)
    };
    devices.retain(|(name, _)| !scratch(name));
    let list: String =
        devices.iter().map(|(name, device)| format!(" [{name}]={device} ")).collect();
    state.facts.insert("image-block-devices".into(), list);
    // If there are no nodes, the fact means a device that a script has made.
    if !state.nodes.is_empty()
        && let Some((device, _)) = targets.first().and_then(|name| guest.device(name))
    {
        state.facts.entry("image-block-device".into()).or_insert_with(|| device.to_owned());
    }
    for (name, device) in devices {
        state.facts.insert(format!("device.{name}"), device);
    }
    for made in &state.nodes {
        let name = &made.node.name;
        if let Some(uuid) = &made.uuid {
            state.facts.insert(format!("uuid.{name}"), uuid.clone());
        }
        if let NodeKind::Filesystem(Filesystem { label: Some(label), .. }) = &made.node.kind {
            state.facts.insert(format!("label.{name}"), label.clone());
        }
    }
    Ok(())
}
