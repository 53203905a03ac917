//! Opens and closes the nodes that do not become available with their disk: volume groups, LUKS
//! containers and md arrays. There is one match arm for each kind of node.

use plan::{Luks, NodeKind, Plan};

use super::{facts::set_facts, nodes::device};
use crate::{EngineError, State, guest::Guest};

/// Opens, in a fresh guest, the nodes that earlier stages have made. Partitions appear by
/// themselves, but volumes and containers do not. Sets the facts that name devices again, because
/// device letters may have changed.
pub(crate) async fn open(plan: &Plan, guest: &Guest, state: &mut State) -> Result<(), EngineError> {
    if state.nodes.is_empty() {
        return Ok(());
    }
    for made in &state.nodes {
        match &made.node.kind {
            NodeKind::VolumeGroup { .. } => {
                guest.run_tool(&["vgchange", "-ay", &made.node.name]).await?;
            }
            NodeKind::Luks(luks) => {
                open_luks(guest, &made.node.name, luks, &device(&luks.base, guest, state)?).await?;
            }
            NodeKind::Md(md) => {
                let node = format!("/dev/md/{}", made.node.name);
                let devices: Vec<String> = md
                    .bases
                    .iter()
                    .map(|name| device(name, guest, state))
                    .collect::<Result<_, _>>()?;
                let mut argv = vec!["mdadm", "--assemble", "--run", &node];
                argv.extend(devices.iter().map(String::as_str));
                guest.run_tool(&argv).await?;
            }
            // Their devices appear with the disk, the group or the array below.
            NodeKind::Table(_)
            | NodeKind::PhysicalVolume { .. }
            | NodeKind::LogicalVolume(_)
            | NodeKind::Filesystem(_)
            | NodeKind::Mount(_) => {}
        }
    }
    state.facts.remove("image-block-device");
    set_facts(plan, guest, state)
}

/// Closes volume groups, containers and arrays in reverse order of their creation, before the guest
/// powers off. Fails if something still uses one of them.
pub(crate) async fn close(guest: &Guest, state: &State) -> Result<(), EngineError> {
    for made in state.nodes.iter().rev() {
        let name = made.node.name.as_str();
        match &made.node.kind {
            NodeKind::VolumeGroup { .. } => {
                guest.run_tool(&["vgchange", "-an", name]).await?;
            }
            NodeKind::Luks(_) => {
                guest.run_tool(&["cryptsetup", "close", name]).await?;
            }
            NodeKind::Md(_) => {
                guest.run_tool(&["mdadm", "--stop", &format!("/dev/md/{name}")]).await?;
            }
            NodeKind::Table(_)
            | NodeKind::PhysicalVolume { .. }
            | NodeKind::LogicalVolume(_)
            | NodeKind::Filesystem(_)
            | NodeKind::Mount(_) => {}
        }
    }
    Ok(())
}

pub(super) async fn open_luks(
    guest: &Guest,
    name: &str,
    luks: &Luks,
    device: &str,
) -> Result<(), EngineError> {
    let argv = ["cryptsetup", "open", "--allow-discards", "--key-file", "-", device, name];
    guest.run_tool_with(&argv, luks.passphrase.as_bytes()).await.map(drop)
}
