//! The errors for a disk that does not have exactly one matching root filesystem.

use super::{Candidate, Root};
use crate::EngineError;

/// Maximum number of partitions, and of volumes, of a disk; images have fewer.
const DEVICES_MAX: usize = 256;

pub(super) fn no_single_root(
    disk: &str,
    candidates: &[Candidate],
    roots: &[Root<'_>],
) -> EngineError {
    let describe = |candidate: &Candidate| match candidate.tag("TYPE") {
        "" => format!("{}: nothing that is known", candidate.node),
        fstype => format!("{}: {fstype}", candidate.node),
    };
    EngineError::Recipe(if roots.is_empty() {
        let list: Vec<String> = candidates.iter().map(describe).collect();
        format!("no root filesystem was found on `{disk}` ({})", list.join(", "))
    } else {
        let list = names(roots);
        format!(
            "`{disk}` has {} root filesystems, and the recipe says not which: {list}",
            roots.len()
        )
    })
}

pub(super) fn no_such_root(disk: &str, name: &str, roots: &[Root<'_>]) -> EngineError {
    let list = names(roots);
    EngineError::Recipe(format!("`{disk}` has no root filesystem `{name}`; it has {list}"))
}

/// Lists the names by which a recipe can select these roots.
fn names(roots: &[Root<'_>]) -> String {
    let describe = |(root, ..): &Root<'_>| {
        let own = root.number.map_or_else(|| root.node.clone(), |number| number.to_string());
        match root.tag("LABEL") {
            "" => own,
            label => format!("{own} (LABEL={label})"),
        }
    };
    let list: Vec<String> = roots.iter().map(describe).collect();
    if list.is_empty() { "none".into() } else { list.join(", ") }
}

/// Refuses a disk with more devices than images have, before each of them is examined.
pub(super) fn check_count(disk: &str, count: usize) -> Result<(), EngineError> {
    if count <= DEVICES_MAX {
        return Ok(());
    }
    Err(EngineError::Recipe(format!(
        "the disk {disk} has {count} partitions or volumes, more than {DEVICES_MAX}"
    )))
}
