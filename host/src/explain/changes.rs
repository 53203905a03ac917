//! Attributes a file to the step that was running when the file changed.

use store::StageRecord;

/// Maximum difference in milliseconds between two clocks of one machine: the kernel's coarse clock
/// ticks every 4 ms, and reading the time adds to that under TCG.
const TOLERANCE_MS: u64 = 150;

/// The properties of a file of the image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// The device and the inode.
    pub(super) inode: String,
    pub(super) bytes: u64,
    /// The times at which the file changed, in milliseconds since 1970: first in the image, then in
    /// the trees that it was copied from.
    pub(super) changed_ms: Vec<u64>,
}

/// Returns the stage and the step that ran when a file changed. If that step copied a whole tree,
/// the change in the tree that it copied from counts. The step is `None` if the file changed
/// between two steps.
pub(super) fn attribute<'a>(
    stages: &'a [StageRecord],
    entry: &Entry,
) -> Option<(&'a StageRecord, Option<&'a store::Ran>)> {
    let mut found = None;
    for &time in &entry.changed_ms {
        let now = at(stages, time);
        let copied =
            now.is_some_and(|(_, ran)| ran.is_some_and(|ran| ran.kind == store::RanKind::TreeCopy));
        found = now.or(found);
        if !copied {
            break;
        }
    }
    found
}

fn at(stages: &[StageRecord], time: u64) -> Option<(&StageRecord, Option<&store::Ran>)> {
    let all = || stages.iter().flat_map(|stage| stage.ran.iter().map(move |ran| (stage, ran)));
    let within = all().find(|(_, ran)| (ran.started_ms..=ran.ended_ms).contains(&time));
    let distance = |ran: &store::Ran| {
        ran.started_ms.saturating_sub(time).max(time.saturating_sub(ran.ended_ms))
    };
    let near = || {
        let nearest = all().min_by_key(|(_, ran)| distance(ran));
        nearest.filter(|(_, ran)| distance(ran) <= TOLERANCE_MS)
    };
    if let Some((stage, ran)) = within.or_else(near) {
        return Some((stage, Some(ran)));
    }
    // The records of the first stages may be gone, and one of them may have made the change.
    let begin = all().map(|(_, ran)| ran.started_ms).min();
    let is_whole = stages.first().is_none_or(|stage| stage.parent.is_none());
    if !is_whole && begin.is_some_and(|begin| time < begin) {
        return None;
    }
    // The change is between two steps of one stage, or before the first of them.
    let ends = |stage: &StageRecord| stage.ran.iter().map(|ran| ran.ended_ms).max();
    stages
        .iter()
        .find(|stage| ends(stage).is_some_and(|end| time <= end))
        .map(|stage| (stage, None))
}
