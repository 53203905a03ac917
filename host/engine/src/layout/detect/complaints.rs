//! The errors for a disk that does not have exactly one matching root filesystem.

use super::{Candidate, Root};
use crate::EngineError;

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
