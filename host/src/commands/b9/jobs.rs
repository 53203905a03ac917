//! Decides which artifacts are built in parallel: those that are independent of each other, as many
//! as memory and processors allow.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::mpsc,
};

use b9::{
    Images,
    types::{
        ArtifactAssembly, CloudInitType, ImageDestination, ImageSource, SharedDirectory, VmScript,
    },
};

use super::recipe::Artifact;
use crate::{machine::memory, settings::Settings};

/// Returns how many artifacts are built at once, at most as many as free memory allows.
///
/// Without `wanted`, this is the number of machines for which there are processors. If a shell may
/// be opened, it is 1, because the shell needs the terminal for itself.
pub(super) fn limit(wanted: Option<usize>, settings: &Settings) -> usize {
    if settings.may_open_shell() {
        return 1;
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = wanted.unwrap_or_else(|| processors / usize::from(settings.vcpus.max(1)));
    let machine = (u64::from(settings.memory_mib) << 20) + memory::BESIDE_GUEST_BYTES;
    allowed(wanted, memory::available(), machine)
}

/// Limits the number of machines to those that fit in the available memory, but to no less than 1.
/// If the available memory is unknown, it is 1.
fn allowed(wanted: usize, available: Option<u64>, machine: u64) -> usize {
    let room = available.map_or(1, |bytes| usize::try_from(bytes / machine).unwrap_or(usize::MAX));
    wanted.min(room).max(1)
}

/// The host files and the shared images that an artifact reads and writes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Touched {
    reads: BTreeSet<PathBuf>,
    writes: BTreeSet<PathBuf>,
    /// The shared images from which it starts.
    begins: BTreeSet<String>,
    /// The shared images that it creates.
    shares: BTreeSet<String>,
}

impl Touched {
    fn of(artifact: &Artifact, here: &Path) -> Self {
        let mut touched = Self::default();
        let at = |path: &str| place(&here.join(path));
        if let ArtifactAssembly::CloudInit(types, path) = &artifact.instance.assembly {
            touched.writes = types
                .iter()
                .map(|kind| match kind {
                    CloudInitType::Iso => at(&format!("{}.iso", path.text)),
                    CloudInitType::Vfat => at(&format!("{}.vfat", path.text)),
                    CloudInitType::Dir => at(path),
                })
                .collect();
        }
        let Some(images) = Images::of(&artifact.instance.assembly) else { return touched };
        for target in images.targets {
            match &target.source {
                ImageSource::From(name, _) => {
                    touched.begins.insert(name.text.clone());
                }
                ImageSource::SourceImage(image, ..) | ImageSource::CopyOnWrite(image) => {
                    touched.reads.insert(at(&image.path.text));
                }
                ImageSource::EmptyImage(..) => {}
            }
            match &target.destination {
                ImageDestination::LocalFile(image, _) => {
                    touched.writes.insert(at(&image.path.text));
                }
                ImageDestination::Share(name, ..) => {
                    touched.shares.insert(name.text.clone());
                }
                ImageDestination::LiveInstallerImage(name, directory, _) => {
                    touched.writes.insert(at(&directory.text).join("machines").join(&name.text));
                }
                ImageDestination::Transient => {}
            }
        }
        if let VmScript::Run(_, shares, _) = images.script {
            for share in shares {
                match share {
                    SharedDirectory::ReadWrite(path, _) => {
                        touched.writes.insert(at(path));
                    }
                    SharedDirectory::ReadOnly(path, _) => {
                        touched.reads.insert(at(path));
                    }
                    SharedDirectory::Sources(_) => {}
                }
            }
        }
        // A fixup may read and write anything in the working directory.
        if images.fixup.is_some() {
            touched.writes.insert(place(here));
        }
        touched
    }

    /// Whether it makes a difference which of the two artifacts is built first.
    fn meets(&self, other: &Self) -> bool {
        let meet = |some: &BTreeSet<PathBuf>, more: &BTreeSet<PathBuf>| {
            let one_in_other =
                |a: &PathBuf| more.iter().any(|b| a.starts_with(b) || b.starts_with(a));
            some.iter().any(one_in_other)
        };
        meet(&self.writes, &other.writes)
            || meet(&self.writes, &other.reads)
            || meet(&self.reads, &other.writes)
            || !self.shares.is_disjoint(&other.shares)
            || !self.shares.is_disjoint(&other.begins)
            || !self.begins.is_disjoint(&other.shares)
    }
}

/// Normalises a path for comparison: removes `.` and `..`, and resolves links.
fn place(path: &Path) -> PathBuf {
    rooted::real_place(&rooted::plain(path))
}

/// Returns for each artifact the earlier ones that must be finished before it starts.
pub(super) fn order(artifacts: &[Artifact], here: &Path) -> Vec<Vec<usize>> {
    let touched: Vec<Touched> =
        artifacts.iter().map(|artifact| Touched::of(artifact, here)).collect();
    before(&touched)
}

fn before(touched: &[Touched]) -> Vec<Vec<usize>> {
    let of = |number: usize| -> Vec<usize> {
        (0..number).filter(|earlier| touched[*earlier].meets(&touched[number])).collect()
    };
    (0..touched.len()).map(of).collect()
}

/// Runs jobs in parallel, at most `at_once` at a time, each after the jobs that it waits for. After
/// a failure no further job starts, and the running ones are finished.
///
/// # Errors
/// Returns the error of the first of the failed jobs, by number.
pub(super) fn side_by_side<E: Send>(
    waits: &[Vec<usize>],
    at_once: usize,
    work: impl Fn(usize) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let count = waits.len();
    let (mut begun, mut done) = (vec![false; count], vec![false; count]);
    let mut failures: Vec<(usize, E)> = Vec::new();
    std::thread::scope(|scope| {
        let (send, receive) = mpsc::channel();
        let mut running = 0;
        loop {
            let ready = (0..count).find(|number| {
                !begun[*number] && waits[*number].iter().all(|earlier| done[*earlier])
            });
            if let Some(number) = ready.filter(|_| failures.is_empty() && running < at_once.max(1))
            {
                begun[number] = true;
                running += 1;
                let (send, work) = (send.clone(), &work);
                scope.spawn(move || {
                    // The receiver resumes a panic. Otherwise it would wait for this job forever.
                    let outcome =
                        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(number)));
                    let _ = send.send((number, outcome));
                });
                continue;
            }
            if running == 0 {
                break;
            }
            let Ok((number, outcome)) = receive.recv() else { break };
            running -= 1;
            match outcome {
                Ok(Ok(())) => done[number] = true,
                Ok(Err(error)) => failures.push((number, error)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    let first = failures.into_iter().min_by_key(|(number, _)| *number);
    first.map_or(Ok(()), |(_, error)| Err(error))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use super::*;

    fn touched(reads: &[&str], writes: &[&str]) -> Touched {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        Touched { reads: paths(reads), writes: paths(writes), ..Touched::default() }
    }

    #[test]
    fn what_meets_is_built_in_order() {
        let shares = |names: &[&str], begins: &[&str]| Touched {
            shares: names.iter().map(ToString::to_string).collect(),
            begins: begins.iter().map(ToString::to_string).collect(),
            ..Touched::default()
        };
        let all = [
            shares(&["base"], &[]),
            shares(&[], &["base"]),
            shares(&[], &["base"]),
            touched(&["/p/in"], &["/p/out/a"]),
            touched(&["/p/in"], &["/p/out/b"]),
            touched(&["/p/out/a"], &[]),
            touched(&[], &["/p"]),
            touched(&[], &["/p/outer"]),
        ];
        let expected: [&[usize]; 8] = [&[], &[0], &[0], &[], &[], &[3], &[3, 4, 5], &[6]];
        assert_eq!(before(&all), expected);
    }

    #[test]
    fn so_many_as_have_memory() {
        assert_eq!(allowed(8, Some(10 << 30), 3 << 30), 3);
        assert_eq!(allowed(2, Some(10 << 30), 3 << 30), 2);
        assert_eq!(allowed(8, Some(1 << 30), 3 << 30), 1);
        assert_eq!(allowed(0, Some(10 << 30), 3 << 30), 1);
        assert_eq!(allowed(8, None, 3 << 30), 1);
    }

    #[test]
    fn work_is_done_side_by_side() {
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let order = Mutex::new(Vec::new());
        let waits = [vec![], vec![], vec![0], vec![1, 2]];
        let done = side_by_side(&waits, 2, |number| {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(30));
            order.lock().unwrap().push(number);
            running.fetch_sub(1, Ordering::SeqCst);
            Ok::<(), ()>(())
        });
        assert_eq!(done, Ok(()));
        assert_eq!(most.into_inner(), 2);
        let order = order.into_inner().unwrap();
        let at = |number| order.iter().position(|one| *one == number).unwrap();
        assert!(at(0) < at(2) && at(2) < at(3) && at(1) < at(3), "{order:?}");
    }

    /// Row 111: the first ones stay, and nothing is begun after a failure.
    #[test]
    fn after_a_failure_nothing_is_begun() {
        let seen = Mutex::new(Vec::new());
        let waits = [vec![], vec![], vec![], vec![1]];
        let failed = side_by_side(&waits, 1, |number| {
            seen.lock().unwrap().push(number);
            if number == 1 { Err("bad") } else { Ok(()) }
        });
        assert_eq!(failed, Err("bad"));
        assert_eq!(seen.into_inner().unwrap(), [0, 1]);
    }
}
