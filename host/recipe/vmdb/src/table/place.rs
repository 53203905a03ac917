//! Computes where parted places a partition, exact to the sector.
//!
//! ```text
//! words ─► locations, each with the range that its unit leaves open
//!       ─► snapped to borders of other partitions and of free space within that range
//!       ─► moved to whole MiB within that range, where both ends can be
//!       ─► else as they are; what then lies in something else is refused
//! ```
//!
//! parted refuses a request that it can only satisfy elsewhere; so does this module.

use plan::TableLabel;

use super::{Part, Role};
use crate::size::{ALIGN_BYTES, LOCATION_UNITS, Location, NoLocation, SECTOR_BYTES, location};

/// Alignment in sectors.
const ALIGN: u64 = ALIGN_BYTES / SECTOR_BYTES;
/// Sectors that a GPT takes at the start of the disk; it takes one less at the end.
const GPT_SECTORS: u64 = 34;
/// Number of entries in an MBR.
const MBR_ENTRIES: usize = 4;
/// Maximum logical partitions: parted numbers partitions up to 64, and logical ones from 5.
const LOGICAL_MAX: usize = 60;
/// Number of entries in a GPT.
const GPT_ENTRIES: usize = 128;
/// Sectors that parted reserves for the first boot record of an extended partition: one track of
/// the 32 sectors that it assumes for image files.
const EXTENDED_RECORD_SECTORS: u64 = 32;
/// Largest sector number in an MBR.
const MBR_MAX: u64 = u32::MAX as u64;

/// A range of sectors, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    first: u64,
    last: u64,
}

impl Span {
    fn of(part: &Part) -> Self {
        Self { first: part.start, last: part.end - 1 }
    }

    fn holds(self, sector: u64) -> bool {
        (self.first..=self.last).contains(&sector)
    }

    fn meet(self, other: Self) -> Option<Self> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (first <= last).then_some(Self { first, last })
    }

    /// The sector of the span nearest to `to` among those at `offset` from a multiple of `unit`;
    /// the lower one if two are equally near.
    fn nearest(self, to: u64, unit: u64, offset: u64) -> Option<u64> {
        let below = |sector: u64| {
            let sector = sector.checked_sub(offset)?;
            Some(sector / unit * unit + offset)
        };
        let down = below(to.min(self.last)).filter(|sector| self.holds(*sector));
        let least = to.max(self.first);
        let up = match below(least) {
            Some(sector) if sector == least => Some(sector),
            Some(sector) => sector.checked_add(unit),
            None => Some(offset),
        };
        let up = up.filter(|sector| self.holds(*sector));
        match (down, up) {
            (Some(down), Some(up)) if up.abs_diff(to) < down.abs_diff(to) => Some(up),
            (down, up) => down.or(up),
        }
    }
}

/// The existing partitions and the label that constrain a new partition.
struct Disk<'a> {
    label: TableLabel,
    sectors: u64,
    parts: &'a [Part],
}

/// Whether a disk is large enough for a label and at least one partition.
pub(crate) fn fits(label: TableLabel, disk_bytes: u64) -> bool {
    let disk = Disk { label, sectors: disk_bytes / SECTOR_BYTES, parts: &[] };
    disk.usable(Role::Primary).is_some()
}

/// Why a partition cannot be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misplaced {
    /// The key of the step that caused it.
    pub(crate) key: &'static str,
    pub(crate) message: String,
}

impl Misplaced {
    fn new(key: &'static str, message: impl Into<String>) -> Self {
        Self { key, message: message.into() }
    }
}

/// Places a partition: its first sector and the first one after it, or why it has no place.
pub(crate) fn place(
    label: TableLabel,
    disk_bytes: u64,
    parts: &[Part],
    role: Role,
    words: (&str, &str),
) -> Result<(u64, u64), Misplaced> {
    let disk = Disk { label, sectors: disk_bytes / SECTOR_BYTES, parts };
    disk.has_room_for(role).map_err(|message| Misplaced::new("mkpart", message))?;
    let read = |key, word: &str| {
        location(word, disk_bytes).map_err(|error| {
            let message = match error {
                NoLocation::Form => {
                    format!("`{word}` is not a location on a disk: that is {LOCATION_UNITS}")
                }
                NoLocation::Outside => {
                    format!("`{word}` lies outside of the disk of {disk_bytes} bytes")
                }
            };
            Misplaced::new(key, message)
        })
    };
    let (start, mut end) = (read("start", words.0)?, read("end", words.1)?);
    if end.is_border && end.sector != start.sector {
        let before = |sector: u64| sector.saturating_sub(1);
        end = Location {
            sector: before(end.sector),
            low: before(end.low),
            high: before(end.high),
            ..end
        };
    }
    if end.sector < start.sector {
        let message = format!("the end `{}` lies before the start `{}`", words.1, words.0);
        return Err(Misplaced::new("end", message));
    }
    let wished = disk.snapped(&start, &end);
    let asked = format!("`{} {}` (sectors {} to {})", words.0, words.1, wished.first, wished.last);
    let within = |location: &Location| Span { first: location.low, last: location.high };
    let ranges = (within(&start), within(&end));
    let room = disk.room(role, wished);
    let room = room.and_then(|room| disk.usable(role)?.meet(room));
    let found = room.and_then(|room| {
        let solve = |unit| solve(wished, ranges, room, unit);
        solve(ALIGN).or_else(|| solve(1))
    });
    let found = found.ok_or_else(|| disk.why_not(role, wished, &asked));
    let checked = found.and_then(|found| disk.check(role, found, &asked).map(|()| found));
    checked
        .map(|found| (found.first, found.last + 1))
        .map_err(|message| Misplaced::new("start", message))
}

/// The span nearest to the wished one whose ends are in their ranges, in the free room, and aligned
/// to `unit`.
fn solve(wished: Span, ranges: (Span, Span), room: Span, unit: u64) -> Option<Span> {
    let (starts, ends) = (ranges.0.meet(room)?, ranges.1.meet(room)?);
    let last_end = ends.nearest(ends.last, unit, unit - 1)?;
    let starts = starts.meet(Span { first: 0, last: last_end })?;
    let first = starts.nearest(wished.first, unit, 0)?;
    let ends = ends.meet(Span { first, last: u64::MAX })?;
    let last = ends.nearest(wished.last, unit, unit - 1)?;
    Some(Span { first, last })
}

impl Disk<'_> {
    fn extended(&self) -> Option<&Part> {
        self.parts.iter().find(|part| part.role == Role::Extended)
    }

    /// The active partitions of a level, sorted by position: the logical ones, or all others.
    fn level(&self, is_logical: bool) -> Vec<&Part> {
        let of_level = |part: &&Part| (part.role == Role::Logical) == is_logical;
        let mut parts: Vec<&Part> = self.parts.iter().filter(of_level).collect();
        parts.sort_by_key(|part| part.start);
        parts
    }

    /// Whether the table can hold another partition of a role.
    fn has_room_for(&self, role: Role) -> Result<(), String> {
        let logical = self.level(true).len();
        let entries = self.parts.len() - logical;
        match (self.label, role) {
            (TableLabel::Gpt, _) if entries >= GPT_ENTRIES => {
                Err(format!("a gpt table has {GPT_ENTRIES} partitions at most"))
            }
            (TableLabel::Mbr, Role::Extended) if self.extended().is_some() => {
                Err("there is an extended partition already, and a table has one at most".into())
            }
            (TableLabel::Mbr, Role::Primary | Role::Extended) if entries >= MBR_ENTRIES => {
                Err(format!(
                    "an msdos table has {MBR_ENTRIES} primary partitions at most, the extended one \
                     among them"
                ))
            }
            (TableLabel::Mbr, Role::Logical) if self.extended().is_none() => {
                Err("a logical partition needs an extended one, and there is none yet".into())
            }
            (TableLabel::Mbr, Role::Logical) if logical >= LOGICAL_MAX => {
                Err(format!("an msdos table has {LOGICAL_MAX} logical partitions at most"))
            }
            _ => Ok(()),
        }
    }

    /// The sectors that the label leaves for partitions of a role.
    fn usable(&self, role: Role) -> Option<Span> {
        let (first, behind) = match (self.label, role) {
            (TableLabel::Gpt, _) => (GPT_SECTORS, self.sectors.checked_sub(GPT_SECTORS - 1)?),
            (TableLabel::Mbr, Role::Logical) => {
                let extended = self.extended()?;
                (extended.start + 1, extended.end)
            }
            (TableLabel::Mbr, _) => (1, self.sectors),
        };
        (first < behind).then(|| Span { first, last: behind - 1 })
    }

    /// The free sectors around the start of a wished span. Each logical partition except the first
    /// of their chain is preceded by a boot record.
    fn room(&self, role: Role, wished: Span) -> Option<Span> {
        let is_logical = role == Role::Logical;
        let whole = match self.extended().filter(|_| is_logical) {
            Some(extended) => Span::of(extended),
            None => Span { first: 0, last: self.sectors.checked_sub(1)? },
        };
        let first_of_chain = self.parts.iter().position(|part| part.role == Role::Logical);
        let record = |part: &Part| {
            let is_first =
                first_of_chain.is_some_and(|at| std::ptr::eq(&raw const self.parts[at], part));
            u64::from(is_logical && !is_first)
        };
        let own_record = u64::from(is_logical && wished.first != whole.first);
        let mut room = Span { first: whole.first + own_record, last: whole.last };
        for part in self.level(is_logical) {
            let begins = part.start - record(part);
            if begins < wished.first - own_record || room.first >= begins {
                room.first = part.end + own_record;
            } else {
                room.last = begins - 1;
                break;
            }
        }
        (room.first < room.last).then_some(room)
    }

    /// The span between two locations, with its ends moved to borders of existing regions that are
    /// in reach.
    fn snapped(&self, start: &Location, end: &Location) -> Span {
        #[derive(Clone, Copy, PartialEq, Eq)]
        enum Move {
            Down,
            Up,
            Still,
        }
        let regions = self.regions();
        let region = |sector: u64| {
            let found = regions.iter().find(|region| region.holds(sector)).copied();
            found.unwrap_or(Span { first: 0, last: self.sectors.saturating_sub(1) })
        };
        let (at_start, at_end) = (region(start.sector), region(end.sector));
        let is_same = at_start == at_end;
        let start_is_nearer =
            start.sector - at_start.first < at_end.last.saturating_sub(end.sector);
        let reach =
            |location: &Location, sector: u64| (location.low..=location.high).contains(&sector);
        let choose = |down: Option<u64>, up: Option<u64>| match (down, up) {
            (None, None) => Move::Still,
            (Some(down), Some(up)) if down < up => Move::Down,
            (Some(_), None) => Move::Down,
            _ => Move::Up,
        };
        let may_go_up = !is_same || start_is_nearer;
        let start_move = choose(
            reach(start, at_start.first).then(|| start.sector - at_start.first),
            (may_go_up && reach(start, at_start.last + 1))
                .then(|| at_start.last + 1 - start.sector),
        );
        let may_go_down = !is_same || !start_is_nearer;
        let mut end_move = choose(
            (may_go_down && at_end.first > 0 && reach(end, at_end.first - 1))
                .then(|| end.sector + 1 - at_end.first),
            reach(end, at_end.last).then(|| at_end.last - end.sector),
        );
        let is_adjacent = at_start.last + 1 == at_end.first;
        if is_adjacent && start_move == Move::Up && end_move == Move::Down {
            end_move = if reach(end, at_end.last) { Move::Up } else { Move::Still };
        }
        Span {
            first: match start_move {
                Move::Down => at_start.first,
                Move::Up => at_start.last + 1,
                Move::Still => start.sector,
            },
            last: match end_move {
                Move::Down => at_end.first - 1,
                Move::Up => at_end.last,
                Move::Still => end.sector,
            },
        }
    }

    /// Partitions, the table's own sectors, and the free regions between them, in order. The
    /// extended partition is represented by its content.
    fn regions(&self) -> Vec<Span> {
        let mut taken: Vec<Span> = Vec::new();
        let end = self.sectors.saturating_sub(1);
        match self.label {
            TableLabel::Mbr => taken.push(Span { first: 0, last: 0 }),
            TableLabel::Gpt => {
                taken.push(Span { first: 0, last: GPT_SECTORS - 1 });
                taken.push(Span { first: self.sectors.saturating_sub(GPT_SECTORS - 1), last: end });
            }
        }
        let mut borders = Vec::new();
        for part in self.parts {
            match part.role {
                Role::Extended => {
                    let record = part.start + EXTENDED_RECORD_SECTORS;
                    borders.extend([part.start, record.min(part.end), part.end]);
                }
                Role::Primary | Role::Logical => taken.push(Span::of(part)),
            }
        }
        taken.sort_by_key(|span| span.first);
        let mut regions = Vec::new();
        let mut reached = 0;
        let free = |from: u64, behind: u64, regions: &mut Vec<Span>| {
            let mut from = from;
            let mut inner: Vec<u64> =
                borders.iter().copied().filter(|b| (from + 1..behind).contains(b)).collect();
            inner.sort_unstable();
            for border in inner.into_iter().chain([behind]) {
                if from < border {
                    regions.push(Span { first: from, last: border - 1 });
                }
                from = border;
            }
        };
        for span in taken {
            free(reached, span.first, &mut regions);
            regions.push(span);
            reached = reached.max(span.last + 1);
        }
        free(reached, self.sectors, &mut regions);
        regions
    }

    /// Refuses a free span that the label cannot express.
    fn check(&self, role: Role, found: Span, asked: &str) -> Result<(), String> {
        if self.label != TableLabel::Mbr {
            return Ok(());
        }
        if role == Role::Primary
            && let Some(extended) = self.extended()
            && Span::of(extended).meet(found).is_some()
        {
            return Err(format!("{asked} is primary, but lies in the extended partition"));
        }
        let length = found.last - found.first + 1;
        if found.first > MBR_MAX || length > MBR_MAX {
            return Err(format!(
                "{asked} is beyond the {MBR_MAX} sectors (2 TiB) that an msdos table can express"
            ));
        }
        Ok(())
    }

    /// The reason why no place was found.
    fn why_not(&self, role: Role, wished: Span, asked: &str) -> String {
        let overlapped = self
            .level(role == Role::Logical)
            .into_iter()
            .find(|part| Span::of(part).meet(wished).is_some());
        if let Some(part) = overlapped {
            return format!("{asked} overlaps the partition `{}`", part.node);
        }
        match self.usable(role) {
            Some(usable) => format!(
                "{asked} does not lie in the sectors {} to {}, which the {} leaves free",
                usable.first,
                usable.last,
                if role == Role::Logical { "extended partition" } else { "table" }
            ),
            None => format!("{asked}: the table leaves nothing of the disk free"),
        }
    }
}
