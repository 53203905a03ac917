//! `vbuild store`: lists, measures, verifies and shrinks the stored results of builds.
//! vbuild-store(7) describes the store.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use store::{Content, Problem, RecordKind, StageRecord, Usage};

use super::context::{Outcome, ProcessContext};
use crate::{
    build::{bases, options, stage_cache},
    cli::{Age, ByteSize, CacheDirArgs, age},
    error::{CommandError, Kind},
    ui::{bytes, duration},
};

/// The number of digits of a key that are shown: enough to distinguish the keys of one user.
const KEY_DIGITS: usize = 12;
/// How long base images may be unused before `gc` removes them, if `--bases` is not given.
const BASES_UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);

/// The arguments of `vbuild store`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct StoreCommand {
    /// The verb to run.
    #[command(subcommand)]
    pub(crate) verb: StoreVerb,
}

/// The verbs of `vbuild store`.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(crate) enum StoreVerb {
    /// List the stored results, least recently used first
    Ls(StoreArgs),
    /// Show how much space the store takes
    Du(StoreDuArgs),
    /// Read everything and report what is damaged
    Verify(VerifyArgs),
    /// Remove what nothing needs, and what was used least recently
    Gc(GcArgs),
}

/// The arguments of `vbuild store du`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct StoreDuArgs {
    /// The cache directory with the store.
    #[command(flatten)]
    pub(crate) cache_dir: CacheDirArgs,

    /// Read the layers, and show how many different blocks are in them
    #[arg(long)]
    pub(crate) blocks: bool,
}

/// The arguments of `vbuild store ls`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct StoreArgs {
    /// The cache directory with the store.
    #[command(flatten)]
    pub(crate) cache_dir: CacheDirArgs,
}

/// The arguments of `vbuild store verify`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct VerifyArgs {
    /// The cache directory with the store.
    #[command(flatten)]
    pub(crate) cache_dir: CacheDirArgs,

    /// Remove what is damaged, so that it is built again
    #[arg(long)]
    pub(crate) repair: bool,
}

/// The arguments of `vbuild store gc`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "What a running build needs is never removed, even if the store stays larger."
)]
pub(crate) struct GcArgs {
    /// The cache directory with the store.
    #[command(flatten)]
    pub(crate) cache_dir: CacheDirArgs,

    /// Shrink the store to at most SIZE: a number and one of b, K, M, G
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_size: Option<ByteSize>,

    /// Remove base images of layer folders that were not used for AGE, unless an overlay is based
    /// on them [default: 30d]
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(crate) bases: Option<Age>,
}

/// Runs `vbuild store`.
///
/// # Errors
/// Fails if the store cannot be read or changed, or if `verify` finds damage and does not repair
/// it.
pub(crate) fn run(context: &ProcessContext, command: StoreCommand) -> Outcome {
    let open = |args: &CacheDirArgs| stage_cache::open(&options::cache_dir(args));
    let print = |text: &str| context.console.print(text);
    match command.verb {
        StoreVerb::Ls(args) => {
            let store = open(&args.cache_dir)?;
            let records = store.records()?;
            print(&list(&records))?;
            let unread = store.usage()?.stages.saturating_sub(records.len() as u64);
            if unread > 0 {
                context.console.print_warning(&format!(
                    "{unread} more cannot be read; `vbuild store verify` tells why"
                ));
            }
        }
        StoreVerb::Du(args) => {
            let store = open(&args.cache_dir)?;
            let usage = store.usage()?;
            print(&format!("{}\n", used(&usage)))?;
            if args.blocks {
                print(&blocks(&store.content()?))?;
            }
        }
        StoreVerb::Verify(args) => {
            let store = open(&args.cache_dir)?;
            let verified = store.verify(args.repair)?;
            for problem in &verified.problems {
                print(&format!("{}\n", describe(problem)))?;
            }
            let (objects, records) = (verified.objects, verified.records);
            print(&format!("read {objects} objects and {records} records\n"))?;
            if !verified.problems.is_empty() && !args.repair {
                let text = format!("the store `{}` is damaged", store.root().display());
                return Err(CommandError::message(Kind::Build, text).hint(
                    "builds pass over what is damaged; `vbuild store verify --repair` removes it",
                ));
            }
        }
        StoreVerb::Gc(args) => {
            let limit = args.max_size.map(|size| size.0);
            let collected = open(&args.cache_dir)?.gc(limit)?;
            for stage in &collected.stages {
                print(&format!("forgot {stage}\n"))?;
            }
            if collected.more_stages > 0 {
                print(&format!("forgot {} more\n", collected.more_stages))?;
            }
            let (freed, left) = (bytes(collected.bytes), used(&collected.left));
            print(&format!("freed {freed} in {} objects; left: {left}\n", collected.objects))?;
            print(&collect_bases(&args, &collected.left)?)?;
        }
    }
    Ok(0)
}

/// Removes unused base images, unless a running build could be about to copy one. Returns the text
/// to print.
fn collect_bases(args: &GcArgs, left: &Usage) -> Result<String, CommandError> {
    let Age(Some(unused_for)) = args.bases.unwrap_or(Age(Some(BASES_UNUSED))) else {
        return Ok(String::new());
    };
    if left.sessions > 0 {
        return Ok("base images are left alone while builds run\n".to_owned());
    }
    let folder = bases::folder(&options::cache_dir(&args.cache_dir));
    let collected = base_image::gc(&folder, unused_for)
        .map_err(|error| CommandError::new(Kind::Host, error))?;
    let mut text = String::new();
    if !collected.removed.is_empty() {
        let (count, freed) = (collected.removed.len(), bytes(collected.bytes));
        let _ = writeln!(text, "freed {freed} of {count} base images");
    }
    if collected.under_overlays > 0 {
        let count = collected.under_overlays;
        let _ = writeln!(text, "{count} base images stay, because overlays stand on them");
    }
    Ok(text)
}

fn used(usage: &Usage) -> String {
    format!(
        "{} in {} objects, {} results, {} running builds",
        bytes(usage.bytes),
        usage.objects,
        usage.stages,
        usage.sessions
    )
}

fn blocks(content: &Content) -> String {
    let ratio = |bytes: u64| {
        // The sizes of stores are far below 2^53, up to which a double is exact.
        #[expect(clippy::cast_precision_loss, reason = "a ratio of two digits")]
        let ratio = bytes as f64 / content.distinct_bytes.max(1) as f64;
        ratio
    };
    let unread = match content.unread {
        0 => String::new(),
        count => format!("{count} objects cannot be read; `vbuild store verify` names them\n"),
    };
    format!(
        "{} layers of {}, {} of it different blocks: ratio {:.2}, compressed {:.2}\n{unread}",
        content.layers,
        bytes(content.data_bytes),
        bytes(content.distinct_bytes),
        ratio(content.data_bytes),
        ratio(content.stored_bytes)
    )
}

fn describe(problem: &Problem) -> String {
    match problem {
        Problem::Damaged(digest) => format!("the object {digest} is damaged"),
        Problem::BadRecord { key, reason } => format!("the record {key} cannot be read: {reason}"),
        Problem::Incomplete { key, stage, missing } => {
            format!("the result {key} of {stage} lacks the object {missing}")
        }
        Problem::Unlisted(path) => format!("the directory {} cannot be listed", path.display()),
    }
}

/// Describes what a record is the result of.
fn what_of(record: &StageRecord) -> String {
    match record.kind {
        RecordKind::Stage => record.name.to_string(),
        RecordKind::Point => format!("within {}", record.name),
        RecordKind::Outputs => "the finished files".to_owned(),
    }
}

fn list(records: &[(SystemTime, StageRecord)]) -> String {
    let mut text = String::new();
    for (used, record) in records {
        let age =
            |time: SystemTime| time.elapsed().map_or_else(|_| "in the future".to_owned(), duration);
        let took = duration(std::time::Duration::from_millis(record.elapsed_ms));
        let what = match (record.resumable(), record.files.is_empty()) {
            (true, _) => format!("took {took}"),
            (false, false) => format!("{} files", record.files.len()),
            (false, true) => format!("took {took}, disks not kept"),
        };
        let network = if record.fetched.is_some() { ", from the network" } else { "" };
        let origin = stage_cache::origin(record.origin.as_ref());
        let key = &record.key.to_string()[..KEY_DIGITS];
        let _ = writeln!(
            text,
            "{key} {:<20} {:<24} used {} ago, {what}{network}{origin}",
            record.build,
            what_of(record),
            age(*used)
        );
    }
    text
}
