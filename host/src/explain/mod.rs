//! Finds the step of a build that made a file: the time at which the file's inode was last changed
//! is looked up in the times at which steps ran, both by the clock of the machine. Copying the
//! whole tree changes every inode, so a file that such a copy changed is looked up in the tree that
//! it was copied from.

mod builds;
mod changes;

pub(crate) use builds::restore_layer;

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use builds::{Built, find};
use changes::{Entry, attribute};
use engine::{Pause, PauseContext, PauseHook};
use plan::{Plan, Step};
use session::ChildEvent;
use store::{Connection, Printable, StageRecord};
use wire::Channel;

use crate::{
    build::{prepared::Prepared, trees::Trees},
    error::{CommandError, Kind},
    machine::shell,
    run_context::RunContext,
    settings::Settings,
};

/// Maximum size of a list of files in bytes; enough for some million files.
const LISTING_MAX_BYTES: usize = 512 << 20;

/// The step that made a file, and its context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The name of the script or step.
    pub(crate) name: Printable,
    /// The element or other source that the step came from.
    pub(crate) origin: Option<Printable>,
    /// The stage in which the step ran.
    pub(crate) stage: Printable,
    /// The connections of the stage.
    pub(crate) connections: Vec<Connection>,
    /// Number of further connections of the stage, of which nothing else is known.
    pub(crate) more_connections: u64,
    /// The shared cache from which a result was taken that the stage's result is based on.
    pub(crate) shared: Option<store::Origin>,
}

/// Returns the step that made a file of a build.
///
/// # Errors
/// Fails if the build, the path or the step is not known.
pub(crate) async fn path(
    settings: &Settings,
    ctx: &RunContext,
    build: &str,
    path: &str,
) -> Result<Answer, CommandError> {
    let built = find(settings, build)?;
    let relative = path.trim_start_matches('/').to_owned();
    let found = look(settings, ctx, &built, Some(relative.clone())).await?;
    let times = found.get(&relative).ok_or_else(|| {
        let text = format!("the image of {} has no `{path}`", built.plan.name);
        CommandError::usage(text).maybe_hint(never_kept(&built.plan))
    })?;
    let unknown = || {
        CommandError::message(Kind::Build, format!("the step that changed `{path}` is not known"))
            .hint("what ran before it was kept in the store is not recorded")
    };
    let (stage, ran) = attribute(&built.stages, times).ok_or_else(unknown)?;
    Ok(Answer {
        name: ran.map_or_else(|| stage.name.clone(), |ran| ran.name.clone()),
        origin: ran.and_then(|ran| ran.origin.clone()),
        stage: stage.name.clone(),
        connections: stage.connections.clone(),
        more_connections: stage.more_connections,
        shared: stage.origin.clone(),
    })
}

/// Returns a hint about stages whose disks are never kept, so that their files cannot be seen.
fn never_kept(plan: &Plan) -> Option<String> {
    let first = plan.stages.iter().find(|stage| stage.keep == plan::Keep::No)?;
    Some(format!("what {} and the stages behind it make is never kept", first.name))
}

/// Returns how many bytes of the image each stage, or each step, has made, the largest first.
///
/// # Errors
/// Fails if the build is not known, or its disks are not in the store any more.
pub(crate) async fn sizes(
    settings: &Settings,
    ctx: &RunContext,
    build: &str,
    by_step: bool,
) -> Result<Vec<(Printable, u64)>, CommandError> {
    let built = find(settings, build)?;
    let mut shares: BTreeMap<Printable, u64> = BTreeMap::new();
    let mut seen = HashSet::new();
    for entry in look(settings, ctx, &built, None).await?.values() {
        if !seen.insert(entry.inode.clone()) {
            continue;
        }
        let name = match attribute(&built.stages, entry) {
            Some((_, Some(ran))) if by_step => ran.name.clone(),
            Some((stage, _)) => stage.name.clone(),
            None => "not known".into(),
        };
        *shares.entry(name).or_default() += entry.bytes;
    }
    let mut shares: Vec<_> = shares.into_iter().collect();
    shares.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(shares)
}

/// Lists the files of a build in a machine: all of them, or the one at `path`.
async fn look(
    settings: &Settings,
    ctx: &RunContext,
    built: &Built,
    path: Option<String>,
) -> Result<BTreeMap<String, Entry>, CommandError> {
    let gone = || {
        CommandError::message(Kind::Build, "the disks of the build are not in the store any more")
            .hint("build it again; --no-cache keeps nothing")
    };
    let planned = &built.plan.stages;
    // The last stages of some recipes only take files from the machine, and have no image.
    let with_image = |kept: &StageRecord| {
        planned.iter().position(|stage| {
            kept.name == stage.name.as_str() && stage.context.image_at().is_some()
        })
    };
    let mut resumable = built.stages.iter().rev().filter(|stage| stage.resumable());
    let (kept, index) =
        resumable.find_map(|kept| Some((kept, with_image(kept)?))).ok_or_else(gone)?;
    let root = planned.iter().rev().find_map(|stage| stage.context.image_root.as_ref());
    let root = root.map(ToString::to_string);
    let looker = Arc::new(Looker {
        sources: sources(&built.plan),
        root,
        path,
        found: Mutex::new(Ok(BTreeMap::new())),
    });
    let visit = Pause {
        hook: looker.clone(),
        after: Some(index + 1),
        before: Vec::new(),
        on_failure: false,
        from: Some(kept.clone()),
    };
    let settings = Settings { network: false, ..settings.clone() };
    let mut machine = Prepared::new(&built.plan, &settings, ctx).await?;
    if let Some(cache) = &mut machine.cache {
        cache.lease = Arc::clone(&built.lease);
    }
    let trees = Trees::of_plan(Arc::clone(&ctx.observer), &built.plan);
    let config = machine.config(&settings, ctx, Arc::new(trees), Some(visit))?;
    engine::run(&built.plan, &config).await?;
    let mut found = looker.found.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::replace(&mut *found, Ok(BTreeMap::new()))
        .map_err(|text| CommandError::message(Kind::Build, text))
}

/// Returns the directories that trees are copied from, as paths in the tools root, last first.
fn sources(plan: &Plan) -> Vec<String> {
    let from = plan.steps().filter_map(|step| match step {
        Step::CopyTree { from, .. } => Some(from.to_string()),
        _ => None,
    });
    let mut sources: Vec<String> = from.collect();
    sources.reverse();
    sources
}

/// A hook that lists files in the machine.
struct Looker {
    sources: Vec<String>,
    /// The root of the image, as a path in the tools root.
    root: Option<String>,
    path: Option<String>,
    found: Mutex<Result<BTreeMap<String, Entry>, String>>,
}

/// A script that runs `find` and prints the change time, blocks, inode and path of each file.
const LIST: &str = r#"cd "$1" || exit 0; shift
exec find "$@" \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./run \) -prune \
    -o -printf '%C@\t%b\t%D:%i\t%p\0'"#;

#[async_trait::async_trait]
impl PauseHook for Looker {
    async fn inspect(&self, place: PauseContext<'_>) {
        let found = self.list(&place).await;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }
}

impl Looker {
    async fn list(&self, place: &PauseContext<'_>) -> Result<BTreeMap<String, Entry>, String> {
        let image = image_in(&place.stage.context, self.root.as_deref())
            .ok_or("the build has no image at that place")?;
        let image = format!("{}{image}", place.tools);
        let sources = self.sources.iter().map(|source| format!("{}{source}", place.tools));
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        for (index, root) in std::iter::once(image).chain(sources).enumerate() {
            let what = match &self.path {
                Some(path) => vec![format!("./{path}"), "-maxdepth".into(), "0".into()],
                None => vec![".".into()],
            };
            let mut argv: Vec<String> =
                vec!["sh".into(), "-c".into(), LIST.into(), "list".into(), root];
            argv.extend(what);
            let command = place.session.command(argv).envs(shell::environment());
            for (name, entry) in parse(&listing(command).await?) {
                match entries.get_mut(&name) {
                    Some(known) => known.changed_ms.extend(entry.changed_ms),
                    // Only files in the image count.
                    None if index == 0 => drop(entries.insert(name, entry)),
                    None => {}
                }
            }
        }
        Ok(entries)
    }
}

/// Returns where a stage sees the image, whose root is `root` in the stages that run in it. If
/// several filesystems are mounted below one directory, the root is one of them.
fn image_in<'a>(context: &'a plan::Context, root: Option<&'a str>) -> Option<&'a str> {
    let at = context.image_at()?.as_str();
    Some(root.filter(|root| Path::new(root).starts_with(at)).unwrap_or(at))
}

/// Runs a command and returns its standard output.
async fn listing(command: session::Command) -> Result<Vec<u8>, String> {
    let mut child = command.spawn().await.map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    loop {
        match child.next().await.map_err(|e| e.to_string())? {
            ChildEvent::Output(Channel::Stdout, more) => bytes.extend_from_slice(&more),
            ChildEvent::Output(..) => {}
            ChildEvent::Exited(_) => return Ok(bytes),
        }
        if bytes.len() > LISTING_MAX_BYTES {
            return Err("the image has too many files to list".into());
        }
    }
}

/// Parses the output of [`LIST`].
fn parse(bytes: &[u8]) -> Vec<(String, Entry)> {
    /// The unit of `%b` in bytes.
    const BLOCK_BYTES: u64 = 512;
    let text = String::from_utf8_lossy(bytes);
    let entry = |line: &str| {
        let mut fields = line.splitn(4, '\t');
        let (seconds, fraction) = fields.next()?.split_once('.')?;
        let seconds: u64 = seconds.parse().ok()?;
        let milliseconds: u64 = fraction.get(..3)?.parse().ok()?;
        let bytes = fields.next()?.parse::<u64>().ok()?.checked_mul(BLOCK_BYTES)?;
        let inode = fields.next()?.to_owned();
        let name = fields.next()?.trim_start_matches("./").to_owned();
        let changed_ms = vec![seconds.checked_mul(1000)?.checked_add(milliseconds)?];
        Some((name, Entry { inode, bytes, changed_ms }))
    };
    text.split('\0').filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use store::{Digest, RECORD_VERSION, Ran, RecordKind};

    use super::*;

    #[test]
    fn the_image_is_found_behind_the_stage_that_made_it() {
        let at = |path: &str| Some(plan::GuestPath::new(path).unwrap());
        let within = plan::Context { image_root: at("/images/0"), ..plan::Context::default() };
        assert_eq!(image_in(&within, Some("/images/0")), Some("/images/0"));
        let behind = plan::Context { layout_at: at("/images"), ..plan::Context::default() };
        assert_eq!(image_in(&behind, Some("/images/0")), Some("/images/0"));
        assert_eq!(image_in(&behind, Some("/elsewhere")), Some("/images"));
        assert_eq!(image_in(&plan::Context::default(), Some("/images/0")), None);
    }

    fn stage(name: &str, ran: &[(&str, u64, u64)]) -> StageRecord {
        let kind = |name: &str| match name.starts_with("copy the tree") {
            true => store::RanKind::TreeCopy,
            false => store::RanKind::Script,
        };
        let ran = ran.iter().map(|(name, started_ms, ended_ms)| Ran {
            kind: kind(name),
            name: (*name).into(),
            origin: None,
            started_ms: *started_ms,
            ended_ms: *ended_ms,
        });
        StageRecord {
            version: RECORD_VERSION,
            key: Digest([0; 32]),
            parent: None,
            build: "b".into(),
            kind: RecordKind::Stage,
            name: name.into(),
            created: 0,
            elapsed_ms: 0,
            disks: BTreeMap::new(),
            state: serde_json::Value::Null,
            inputs: BTreeMap::new(),
            fetched: None,
            connections: Vec::new(),
            more_connections: 0,
            ran: ran.collect(),
            log: None,
            files: Vec::new(),
            origin: None,
        }
    }

    #[test]
    fn a_copied_file_is_looked_up_where_it_came_from() {
        let stages = [
            stage("root.d", &[("root.d/10-a", 1000, 2000), ("root.d/20-b", 2010, 9000)]),
            stage("copy", &[("copy the tree to /m", 20_000, 30_000)]),
            stage("finalise.d", &[("finalise.d/10-c", 40_000, 50_000)]),
        ];
        let who = |times: &[u64]| {
            let entry = Entry { changed_ms: times.to_vec(), ..Entry::default() };
            attribute(&stages, &entry)
                .map(|(stage, ran)| ran.map_or(&stage.name, |ran| &ran.name).to_string())
        };
        assert_eq!(who(&[25_000, 1500]), Some("root.d/10-a".into()));
        assert_eq!(who(&[45_000, 1500]), Some("finalise.d/10-c".into()));
        assert_eq!(who(&[25_000]), Some("copy the tree to /m".into()));
        assert_eq!(who(&[15_000]), Some("copy".into()));
        assert_eq!(who(&[99_000]), None);
    }

    #[test]
    fn what_a_stage_without_a_record_changed_is_not_said_of_another() {
        let first = stage("install.d", &[("install.d/10-a", 5000, 9000)]);
        let behind = StageRecord { parent: Some(Digest([1; 32])), ..first.clone() };
        let entry = Entry { changed_ms: vec![1000], ..Entry::default() };
        assert!(attribute(&[first], &entry).is_some());
        assert!(attribute(&[behind], &entry).is_none());
    }

    #[test]
    fn lines_of_find_are_read() {
        let line = b"1795237290.8060132470\t8\t64:12\t./etc/a b\0";
        let entry =
            Entry { inode: "64:12".into(), bytes: 4096, changed_ms: vec![1_795_237_290_806] };
        assert_eq!(parse(line), [("etc/a b".to_owned(), entry)]);
        assert_eq!(parse(b"x\t8\t64:12\t./a\0\0"), []);
    }
}
