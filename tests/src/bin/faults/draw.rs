//! Draws a round from its number.

use std::fmt;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use crate::{
    ground::Ground,
    mirror::{Behaviour, Lie},
    recipe::{Base, Format, Options, Recipe},
};

/// The random choices that define a round.
#[derive(Debug, Clone)]
pub(crate) struct Draw {
    /// The number of the round, which determines everything else.
    pub(crate) seed: u64,
    pub(crate) recipe: Recipe,
    pub(crate) options: Options,
    pub(crate) fault: Fault,
    pub(crate) moment: Moment,
    /// The random generator for later decisions.
    pub(crate) chance: StdRng,
}

/// The time of a fault.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Moment {
    /// After this fraction of the log's lines, plus a delay.
    Line { part: f64, delay_ms: u64 },
    /// After this fraction of the usual build time.
    Time { part: f64 },
}

/// The injected fault.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    Kill {
        victim: Victim,
        signal: Signal,
    },
    /// A guest process overwrites the agent's code after a delay.
    KillAgent {
        after_ms: u64,
    },
    /// A folder is filled up to a remaining space.
    Full {
        place: Place,
        room_kib: u64,
    },
    /// Operations on a drive's file fail with EIO.
    Io {
        drive: Drive,
        calls: Calls,
        count: Count,
    },
    /// A file in the store is damaged.
    Damage {
        what: Stored,
        how: Damage,
    },
    /// A fault of the mirror from which a script downloads.
    Mirror(Behaviour),
    /// A fault of the mirror with the base image.
    BaseMirror(Behaviour),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    Vbuild,
    /// QEMU, or vbuild's own VMM.
    Machine,
    /// The process of QEMU's vsock device.
    Vsock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Kill,
    Term,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Output,
    Cache,
    Drive,
    Temporary,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drive {
    /// The tools root of the appliance.
    Appliance,
    Scratch,
    /// The disk that is built.
    Target,
    /// A layer over that disk.
    Layer,
    /// The user's helper drive.
    Helper,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    Reads,
    Writes,
    Flushes,
    All,
}

/// Which operations fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    One(u32),
    AllFrom(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    Object,
    Record,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    FlippedBit,
    CutShort,
    Empty,
    Gone,
    Garbage,
    Unreadable,
}

/// All faults, one per row of the table.
const ROWS: [&str; 22] = [
    "kill vbuild (KILL)",
    "kill vbuild (TERM)",
    "kill the machine (KILL)",
    "kill the machine (TERM)",
    "kill the vsock device",
    "kill the agent",
    "full disk: output",
    "full disk: cache",
    "full disk: drive",
    "full disk: TMPDIR",
    "I/O error: appliance",
    "I/O error: scratch",
    "I/O error: target",
    "I/O error: layer",
    "I/O error: helper drive",
    "damaged object",
    "damaged record",
    "mirror stalls",
    "mirror lies",
    "mirror breaks off",
    "base mirror lies",
    "base mirror breaks off",
];
/// A further fault, which needs a signal to end within a round.
const STALLING: &str = "base mirror stalls";

impl Fault {
    /// Returns the row of the fault in the table.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Kill { victim: Victim::Vbuild, signal: Signal::Kill } => ROWS[0],
            Self::Kill { victim: Victim::Vbuild, signal: Signal::Term } => ROWS[1],
            Self::Kill { victim: Victim::Machine, signal: Signal::Kill } => ROWS[2],
            Self::Kill { victim: Victim::Machine, signal: Signal::Term } => ROWS[3],
            Self::Kill { victim: Victim::Vsock, .. } => ROWS[4],
            Self::KillAgent { .. } => ROWS[5],
            Self::Full { place: Place::Output, .. } => ROWS[6],
            Self::Full { place: Place::Cache, .. } => ROWS[7],
            Self::Full { place: Place::Drive, .. } => ROWS[8],
            Self::Full { place: Place::Temporary, .. } => ROWS[9],
            Self::Io { drive: Drive::Appliance, .. } => ROWS[10],
            Self::Io { drive: Drive::Scratch, .. } => ROWS[11],
            Self::Io { drive: Drive::Target, .. } => ROWS[12],
            Self::Io { drive: Drive::Layer, .. } => ROWS[13],
            Self::Io { drive: Drive::Helper, .. } => ROWS[14],
            Self::Damage { what: Stored::Object, .. } => ROWS[15],
            Self::Damage { what: Stored::Record, .. } => ROWS[16],
            Self::Mirror(Behaviour::Stalls { .. }) => ROWS[17],
            Self::Mirror(Behaviour::Breaks { .. }) => ROWS[19],
            Self::Mirror(_) => ROWS[18],
            Self::BaseMirror(Behaviour::Stalls { .. }) => STALLING,
            Self::BaseMirror(Behaviour::Breaks { .. }) => ROWS[21],
            Self::BaseMirror(_) => ROWS[20],
        }
    }

    fn draw(row: &str, chance: &mut StdRng) -> Self {
        let kill = |victim, signal| Self::Kill { victim, signal };
        let full = |place, chance: &mut StdRng| Self::Full {
            place,
            room_kib: *[0, 4, 64, 1024].choose(chance).unwrap_or(&0),
        };
        match row {
            "kill vbuild (KILL)" => kill(Victim::Vbuild, Signal::Kill),
            "kill vbuild (TERM)" => kill(Victim::Vbuild, Signal::Term),
            "kill the machine (KILL)" => kill(Victim::Machine, Signal::Kill),
            "kill the machine (TERM)" => kill(Victim::Machine, Signal::Term),
            "kill the vsock device" => kill(Victim::Vsock, Signal::Kill),
            "kill the agent" => Self::KillAgent { after_ms: chance.gen_range(0..6000) },
            "full disk: output" => full(Place::Output, chance),
            "full disk: cache" => full(Place::Cache, chance),
            "full disk: drive" => full(Place::Drive, chance),
            "full disk: TMPDIR" => full(Place::Temporary, chance),
            "I/O error: appliance" => io(Drive::Appliance, chance),
            "I/O error: scratch" => io(Drive::Scratch, chance),
            "I/O error: target" => io(Drive::Target, chance),
            "I/O error: layer" => io(Drive::Layer, chance),
            "I/O error: helper drive" => io(Drive::Helper, chance),
            "damaged object" => damage(Stored::Object, chance),
            "damaged record" => damage(Stored::Record, chance),
            "mirror stalls" => Self::Mirror(stalls(chance)),
            "mirror breaks off" => Self::Mirror(breaks(chance)),
            "base mirror stalls" => Self::BaseMirror(stalls(chance)),
            "base mirror breaks off" => Self::BaseMirror(breaks(chance)),
            "base mirror lies" => Self::BaseMirror(lies(chance)),
            _ => Self::Mirror(lies(chance)),
        }
    }
}

fn io(drive: Drive, chance: &mut StdRng) -> Fault {
    let all = [Calls::Reads, Calls::Writes, Calls::Flushes, Calls::All];
    let calls = match drive {
        Drive::Appliance => Calls::Reads,
        _ => *all.choose(chance).unwrap_or(&Calls::All),
    };
    let first = chance.gen_range(1..20);
    let count = if chance.gen_bool(0.5) { Count::One(first) } else { Count::AllFrom(first) };
    Fault::Io { drive, calls, count }
}

fn damage(what: Stored, chance: &mut StdRng) -> Fault {
    let all = [
        Damage::FlippedBit,
        Damage::CutShort,
        Damage::Empty,
        Damage::Gone,
        Damage::Garbage,
        Damage::Unreadable,
    ];
    Fault::Damage { what, how: *all.choose(chance).unwrap_or(&Damage::Gone) }
}

/// Draws an offset in a response: in its head, or in its body.
fn offset(chance: &mut StdRng) -> u64 {
    if chance.gen_bool(0.2) { chance.gen_range(0..40) } else { chance.gen_range(40..200_000) }
}

fn stalls(chance: &mut StdRng) -> Behaviour {
    Behaviour::Stalls { after: offset(chance) }
}

fn breaks(chance: &mut StdRng) -> Behaviour {
    Behaviour::Breaks { after: offset(chance), reset: chance.gen_bool(0.5) }
}

fn lies(chance: &mut StdRng) -> Behaviour {
    Behaviour::Lies(*Lie::ALL.choose(chance).unwrap_or(&Lie::OtherBytes))
}

/// Draws a round.
pub(crate) fn draw(seed: u64, ground: &Ground) -> Draw {
    let mut chance = StdRng::seed_from_u64(seed);
    let rows: Vec<&str> = ROWS.into_iter().chain([STALLING]).collect();
    let wanted = |row: &&&str| ground.only.as_ref().is_none_or(|only| row.contains(only.as_str()));
    let rows: Vec<&&str> = rows.iter().filter(wanted).collect();
    let row = rows.choose(&mut chance).map_or(ROWS[0], |row| **row);
    let fault = Fault::draw(row, &mut chance);
    let recipe = match fault {
        Fault::KillAgent { .. } | Fault::Mirror(_) => {
            *[Recipe::ElementsFetched, Recipe::SpecFetched]
                .choose(&mut chance)
                .unwrap_or(&Recipe::SpecFetched)
        }
        Fault::BaseMirror(_) => Recipe::Layers,
        _ => *Recipe::ALL.choose(&mut chance).unwrap_or(&Recipe::Spec),
    };
    let drive = matches!(
        fault,
        Fault::Full { place: Place::Drive, .. } | Fault::Io { drive: Drive::Helper, .. }
    );
    let temporary = matches!(fault, Fault::Full { place: Place::Temporary, .. });
    let warm = matches!(fault, Fault::Damage { .. });
    let base = match fault {
        Fault::BaseMirror(_) => Base::Url,
        _ => *[Base::File, Base::Recipe, Base::Url].choose(&mut chance).unwrap_or(&Base::File),
    };
    let mut options = Options {
        drive: drive || chance.gen_bool(0.3),
        temporary: temporary || chance.gen_bool(0.5),
        // A script that downloads does not run if its result is cached.
        warm: !matches!(fault, Fault::KillAgent { .. } | Fault::Mirror(_))
            && (warm || chance.gen_bool(0.4)),
        restored: false,
        late: if chance.gen_bool(0.2) { 0 } else { chance.gen_range(1..100_000) },
        earlier: chance.gen_bool(0.8),
        formats: Format::SETS.choose(&mut chance).copied().unwrap_or(&[Format::Raw]),
        checksums: chance.gen_bool(0.3),
        flatten: chance.gen_bool(0.3),
        base,
    };
    let moment = if chance.gen_bool(0.5) {
        // Often right after a line, sometimes much later.
        let delay_ms = 2f64.powf(chance.gen_range(0.0..11.0));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 2^11")]
        let delay_ms = delay_ms as u64;
        Moment::Line { part: chance.gen_range(0.0..1.0), delay_ms }
    } else {
        Moment::Time { part: chance.gen_range(0.0..1.0) }
    };
    options.restored = chance.gen_bool(0.7);
    Draw { seed, recipe, options, fault, moment, chance }
}

impl fmt::Display for Draw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({:?}), {:?}, {}, ",
            self.fault.name(),
            self.fault,
            self.recipe,
            self.options
        )?;
        match self.moment {
            Moment::Line { part, delay_ms } => {
                write!(f, "{delay_ms} ms after {part:.2} of its lines")
            }
            Moment::Time { part } => write!(f, "after {part:.2} of its time"),
        }
    }
}
