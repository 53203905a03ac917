//! When a file changed, and which step ran then.

use store::StageRecord;

/// How far two clocks of one machine may disagree: the kernel's coarse clock
/// ticks every 4 ms, and asking for the time takes some more under TCG.
const TOLERANCE_MS: u64 = 150;

/// What is known about a file of the image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Device and inode.
    pub(super) inode: String,
    pub(super) bytes: u64,
    /// When it changed, in milliseconds, in the image and then in the trees that
    /// it was copied from.
    pub(super) changed_ms: Vec<u64>,
}

/// The step that ran when a file changed.
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
    // Between two things that ran in one stage, or before the first of them.
    let ends = |stage: &StageRecord| stage.ran.iter().map(|ran| ran.ended_ms).max();
    stages
        .iter()
        .find(|stage| ends(stage).is_some_and(|end| time <= end))
        .map(|stage| (stage, None))
}
