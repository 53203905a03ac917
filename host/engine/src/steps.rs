//! One function per kind of step that is not a command.

use std::sync::Arc;

use checked::Printable;
use plan::{FileStep, GuestPath, ImageSize, ResolvConf, Stage};
use session::SessionError;
use wire::{FileKind, FileOperation, FileStat, Reply, Request};

use crate::{
    Config, EngineError, State,
    events::{Event, SharedObserver},
    guest::{Guest, TOOLS, run_tool, tool},
};

/// The image's size is a multiple of this, as diskimage-builder rounds it.
const SIZE_UNIT_KIB: u64 = 64;
/// The largest tree that an image is sized after, in KiB: 16 TiB, the largest file
/// of ext4 with blocks of 4 KiB, so no image of a larger tree could be written
/// beside most builds.
pub(crate) const TREE_MAX_KIB: u64 = 16 << 30;

/// A path of the tools root as root directory and path below it: inside the
/// image its own root, so that absolute links of the image stay in the image.
pub(crate) fn split(path: &GuestPath, stage: &Stage) -> (String, String) {
    match &stage.context.image_root {
        Some(root) if root.contains(path) => {
            let below = &path.as_str()[root.as_str().trim_end_matches('/').len()..];
            (Guest::tools_path(root), if below.is_empty() { "/".into() } else { below.into() })
        }
        _ => (TOOLS.into(), path.to_string()),
    }
}

pub(crate) fn failed(
    stage: &Stage,
    step: impl Into<String>,
) -> impl FnOnce(SessionError) -> EngineError {
    let (stage, step) = (stage.name.clone(), step.into());
    move |source| EngineError::Session { stage, step, source }
}

/// A small change to the file tree.
pub(crate) async fn file(step: &FileStep, guest: &Guest, stage: &Stage) -> Result<(), EngineError> {
    let operation = match step {
        FileStep::MakeDirectory { path, mode } => {
            let (root, path) = split(path, stage);
            FileOperation::MakeDirectory { root, path, mode: *mode, parents: true }
        }
        FileStep::Write { path, content, mode } => {
            let (root, path) = split(path, stage);
            let written = guest.session.put_file(&root, &path, *mode, content.as_bytes()).await;
            return written.map_err(failed(stage, format!("write {path}")));
        }
        FileStep::Symlink { path, target } => {
            let (root, path) = split(path, stage);
            FileOperation::Symlink { root, path, target: target.clone() }
        }
        FileStep::Remove { path, content_only } => {
            let (root, path) = split(path, stage);
            let content_only = *content_only;
            FileOperation::Remove { root, path, content_only, one_file_system: true }
        }
        FileStep::Rename { from, to } => {
            let ((root, from), (_, to)) = (split(from, stage), split(to, stage));
            FileOperation::Rename { root, from, to }
        }
        FileStep::TruncateAll { path } => {
            let (root, path) = split(path, stage);
            FileOperation::TruncateAll { root, path }
        }
        FileStep::RemoveBySuffix { path, suffix } => {
            return remove_by_suffix(guest, stage, path, suffix).await;
        }
    };
    guest.session.file(operation).await.map_err(failed(stage, "change files"))
}

async fn remove_by_suffix(
    guest: &Guest,
    stage: &Stage,
    directory: &GuestPath,
    suffix: &str,
) -> Result<(), EngineError> {
    let (root, path) = split(directory, stage);
    for (name, stat) in entries(guest, stage, &root, &path).await? {
        if name.ends_with(suffix) && stat.kind == FileKind::File {
            let remove = FileOperation::Remove {
                root: root.clone(),
                path: format!("{path}/{name}"),
                content_only: false,
                one_file_system: true,
            };
            guest.session.file(remove).await.map_err(failed(stage, format!("remove {name}")))?;
        }
    }
    Ok(())
}

/// The status of a file, if it is there.
pub(crate) async fn stat(
    guest: &Guest,
    stage: &Stage,
    root: &str,
    path: &str,
) -> Result<Option<FileStat>, EngineError> {
    let operation = FileOperation::Stat { root: root.to_owned(), path: path.to_owned() };
    let reply = guest.session.request(&Request::File(operation)).await;
    match reply.map_err(failed(stage, format!("look at {path}")))? {
        Reply::Stat { stat } => Ok(stat),
        _ => Ok(None),
    }
}

/// What is in a directory; nothing when it is missing.
pub(crate) async fn entries(
    guest: &Guest,
    stage: &Stage,
    root: &str,
    path: &str,
) -> Result<Vec<(String, FileStat)>, EngineError> {
    if stat(guest, stage, root, path).await?.is_none() {
        return Ok(Vec::new());
    }
    let operation = FileOperation::List { root: root.to_owned(), path: path.to_owned() };
    let reply = guest.session.request(&Request::File(operation)).await;
    match reply.map_err(failed(stage, format!("list {path}")))? {
        Reply::Entries { entries } => Ok(entries),
        _ => Ok(Vec::new()),
    }
}

/// Fails unless a directory holds something that counts.
pub(crate) async fn require_content(
    guest: &Guest,
    stage: &Stage,
    path: &GuestPath,
    ignore: &[String],
    message: &str,
) -> Result<(), EngineError> {
    let (root, path) = split(path, stage);
    let found = entries(guest, stage, &root, &path).await?;
    if found.iter().any(|(name, _)| !ignore.contains(name)) {
        Ok(())
    } else {
        Err(EngineError::Recipe(message.to_owned()))
    }
}

/// The resolver of the image; see [`ResolvConf`].
pub(crate) async fn resolv_conf(
    action: ResolvConf,
    guest: &Guest,
    stage: &Stage,
    config: &Config,
) -> Result<(), EngineError> {
    const FILE: &str = "/etc/resolv.conf";
    const ORIGINAL: &str = "/etc/resolv.conf.ORIG";
    let Some(root) = &stage.context.image_root else {
        return Err(EngineError::Recipe(format!("stage {} has no image root", stage.name)));
    };
    let root = Guest::tools_path(root);
    let rename = |from: &str, to: &str| FileOperation::Rename {
        root: root.clone(),
        from: from.into(),
        to: to.into(),
    };
    let remove = |path: &str| FileOperation::Remove {
        root: root.clone(),
        path: path.into(),
        content_only: false,
        one_file_system: true,
    };
    let perform = async |operation| {
        guest.session.file(operation).await.map_err(failed(stage, "change resolv.conf"))
    };
    let current = stat(guest, stage, &root, FILE).await?;
    match action {
        ResolvConf::Prepare => {
            if current.is_some() {
                perform(rename(FILE, ORIGINAL)).await?;
            }
            let etc = FileOperation::MakeDirectory {
                root: root.clone(),
                path: "/etc".into(),
                mode: 0o755,
                parents: true,
            };
            perform(etc).await?;
            let content =
                if config.network.is_some() { "nameserver 127.0.0.1\n" } else { "# no network\n" };
            let written = guest.session.put_file(&root, FILE, 0o777, content.as_bytes()).await;
            written.map_err(failed(stage, "write resolv.conf"))
        }
        ResolvConf::Restore => {
            let original = stat(guest, stage, &root, ORIGINAL).await?.is_some();
            // A link was made by a package or an element on purpose; so was a
            // file that cannot be removed (chattr +i).
            let link = current.as_ref().is_some_and(|stat| stat.kind == FileKind::Symlink);
            let kept = link || (current.is_some() && perform(remove(FILE)).await.is_err());
            match (kept, original) {
                (false, true) => perform(rename(ORIGINAL, FILE)).await,
                (true, true) => perform(remove(ORIGINAL)).await,
                (_, false) => Ok(()),
            }
        }
    }
}

/// Computes the size of the image; see [`ImageSize`].
pub(crate) async fn image_size(
    size: &ImageSize,
    guest: &Guest,
    stage: &Stage,
    state: &mut State,
) -> Result<(), EngineError> {
    let tree_kib = if size.explicit_kib.is_some() {
        0
    } else {
        let operation = FileOperation::Usage { root: TOOLS.into(), path: size.tree.to_string() };
        let reply = guest.session.request(&Request::File(operation)).await;
        match reply.map_err(failed(stage, "measure the tree"))? {
            Reply::Usage { kib, .. } => kib,
            _ => 0,
        }
    };
    let kib = size_kib(size, tree_kib).ok_or(EngineError::ImageSize { tree_kib })?;
    state.facts.insert(size.fact.clone(), kib.to_string());
    Ok(())
}

/// The size of the image in KiB; `None` when the guest's number is beyond
/// [`TREE_MAX_KIB`] or the sum beyond what a number holds.
fn size_kib(size: &ImageSize, tree_kib: u64) -> Option<u64> {
    if tree_kib > TREE_MAX_KIB {
        return None;
    }
    let base = match (size.explicit_kib, size.extra_kib) {
        (Some(explicit), _) => explicit,
        (None, Some(extra)) => tree_kib.checked_add(extra)?.checked_add(size.journal_kib)?,
        // Divided by 0.6, in whole numbers.
        (None, None) => (tree_kib.checked_mul(10)? / 6).checked_add(size.journal_kib)?,
    };
    let formula = base.checked_add(size.fixed_kib)?;
    let least = match size.explicit_kib {
        Some(_) => 0,
        None => least_kib(size, tree_kib)?,
    };
    formula.max(least).checked_next_multiple_of(SIZE_UNIT_KIB)
}

/// The least that a disk for a tree must have.
fn least_kib(size: &ImageSize, tree_kib: u64) -> Option<u64> {
    /// Superblocks and group descriptors, whatever the size.
    const METADATA_KIB: u64 = 2048;
    let content = tree_kib.checked_add(size.journal_kib)?.checked_add(METADATA_KIB)?;
    // Of a filesystem of ext4 with an inode of 256 bytes for 4 KiB, a sixteenth is inodes;
    // bitmaps and a reserve for growing are less than a fortieth.
    let root = content.checked_mul(11)? / 10;
    root.max(size.root_least_kib).checked_add(size.beside_kib)
}

/// Copies what is in a directory, with everything that cp can keep.
pub(crate) async fn copy_tree(
    guest: &Guest,
    from: &GuestPath,
    to: &GuestPath,
) -> Result<(), EngineError> {
    let (from, to) = (format!("{}/.", Guest::tools_path(from)), Guest::tools_path(to));
    let argv = ["cp", "--archive", "--sparse=auto", "--no-target-directory", &from, &to];
    run_tool(&guest.session, &argv).await.map(drop)
}

/// Ends its first argument's users; see there.
const END_PROCESSES: &str = include_str!("../scripts/end-processes.sh");
/// So many processes are named.
const NAMED_MAX: usize = 5;

/// Ends processes that scripts have left behind and that use files below a directory, which
/// would keep it from being unmounted. Tells which.
pub(crate) async fn kill_processes(
    guest: &Guest,
    observer: &SharedObserver,
    root: &GuestPath,
) -> Result<(), SessionError> {
    let root = Guest::tools_path(root);
    let ended = guest.session.output(tool(&["sh", "-c", END_PROCESSES, "sh", &root]), b"").await?;
    let printed = String::from_utf8_lossy(&ended.stdout);
    if let Some(text) = ended_in_words(&printed) {
        observer.event(&Event::Warning { text });
    }
    Ok(())
}

/// What is told of ended processes.
fn ended_in_words(printed: &str) -> Option<String> {
    let processes: Vec<String> = printed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(pid, name)| format!("{name} ({pid})"))
        .collect();
    let more = match processes.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = processes.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    (!processes.is_empty())
        .then(|| format!("ended processes that scripts have left behind: {named}{more}"))
}

/// Sends a directory to the host, if anything is in it.
pub(crate) async fn fetch(
    guest: &Guest,
    stage: &Stage,
    config: &Config,
    from: &GuestPath,
    to: &std::path::Path,
) -> Result<(), EngineError> {
    let path = from.to_string();
    if entries(guest, stage, TOOLS, &path).await?.is_empty() {
        return Ok(());
    }
    let archive = guest.session.get_tar(TOOLS, &path, Vec::new(), false).await;
    let archive = archive.map_err(failed(stage, format!("fetch {path}")))?;
    let (trees, directory) = (Arc::clone(&config.trees), to.to_owned());
    let unpacked =
        tokio::task::spawn_blocking(move || trees.unpack(&directory, Box::new(archive))).await;
    flatten(unpacked, to)
}

/// Writes an output from a mounted tree.
pub(crate) async fn export(
    guest: &Guest,
    stage: &Stage,
    config: &Config,
    root: &GuestPath,
    exclude: &[String],
    output: &plan::TreeOutput,
) -> Result<(), EngineError> {
    let tree = Guest::tools_path(root);
    tell_sockets(guest, stage, config, &tree, &output.path).await?;
    let archive = guest.session.get_tar(&tree, "/", exclude.to_vec(), false).await;
    let archive = archive.map_err(failed(stage, "read the image's tree"))?;
    let (trees, what) = (Arc::clone(&config.trees), output.clone());
    let written = tokio::task::spawn_blocking(move || trees.export(&what, Box::new(archive))).await;
    flatten(written, &output.path)
}

/// No archive has sockets, which are nothing without the process that listens: they are left
/// out, and that is told.
async fn tell_sockets(
    guest: &Guest,
    stage: &Stage,
    config: &Config,
    tree: &str,
    output: &std::path::Path,
) -> Result<(), EngineError> {
    let script = r#"cd "$1" && find . -type s -printf . | wc -c && find . -type s -print -quit"#;
    let said = guest.session.output(tool(&["sh", "-c", script, "sh", tree]), b"").await;
    let said = said.map_err(failed(stage, "look for sockets"))?;
    let said = String::from_utf8_lossy(&said.stdout);
    let mut lines = said.lines();
    let count: u64 = lines.next().and_then(|count| count.trim().parse().ok()).unwrap_or(0);
    if count > 0 {
        let first = Printable::from(lines.next().unwrap_or_default().trim_start_matches("./"));
        config.observer.event(&Event::Warning {
            text: format!(
                "{}: an archive cannot hold sockets: {count} left out, the first is `{first}`",
                output.display()
            ),
        });
    }
    Ok(())
}

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn flatten(
    outcome: Result<Outcome, tokio::task::JoinError>,
    path: &std::path::Path,
) -> Result<(), EngineError> {
    let error = match outcome {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error,
        Err(panic) => panic.into(),
    };
    Err(EngineError::Output { path: path.to_owned(), source: error })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(explicit_kib: Option<u64>, extra_kib: Option<u64>, fixed_kib: u64) -> ImageSize {
        ImageSize {
            tree: GuestPath::new("/t").unwrap(),
            explicit_kib,
            extra_kib,
            journal_kib: 65536,
            fixed_kib,
            beside_kib: 0,
            root_least_kib: 0,
            fact: "f".into(),
        }
    }

    #[test]
    fn the_disk_of_a_tiny_tree_has_room_for_what_is_not_the_tree() {
        assert_eq!(size_kib(&size(None, None, 0), 1000), Some(75_456));
        let beside = ImageSize { beside_kib: 12_288, ..size(None, None, 0) };
        assert_eq!(size_kib(&beside, 1000), Some(87_744));
        let xfs =
            ImageSize { journal_kib: 0, root_least_kib: 307_200, ..size(None, Some(1024), 0) };
        assert_eq!(size_kib(&xfs, 1000), Some(307_200));
        // What the user asks for is not touched.
        assert_eq!(size_kib(&size(Some(64), None, 0), 1000), Some(64));
        assert_eq!(size_kib(&size(None, None, 0), TREE_MAX_KIB).unwrap() % 64, 0);
    }

    #[test]
    fn processes_that_were_left_behind_are_named() {
        assert_eq!(ended_in_words(""), None);
        assert_eq!(
            ended_in_words("7 sleep\n12 gpg-agent\n").unwrap(),
            "ended processes that scripts have left behind: sleep (7), gpg-agent (12)"
        );
        let many: String = (0..7).map(|pid| format!("{pid} x\n")).collect();
        assert!(ended_in_words(&many).unwrap().ends_with("x (4) and 2 more"));
    }

    #[test]
    fn processes_that_use_a_directory_are_ended_and_no_others() {
        use std::process::{Command, Stdio};
        let folder = tempfile::tempdir().unwrap();
        let used = folder.path().canonicalize().unwrap().join("used");
        let beside = folder.path().canonicalize().unwrap().join("used-not");
        for directory in [&used, &beside] {
            std::fs::create_dir(directory).unwrap();
        }
        let start = |directory: &std::path::Path, how: &str| {
            let mut shell = Command::new("sh");
            let child =
                shell.args(["-c", how]).current_dir(directory).stdout(Stdio::null()).spawn();
            child.unwrap()
        };
        let mut polite = start(&used, "exec sleep 60");
        let mut deaf = start(&used, "trap '' TERM; sleep 60; sleep 60");
        let mut other = start(&beside, "exec sleep 60");
        std::thread::sleep(std::time::Duration::from_millis(200));
        let output =
            Command::new("sh").args(["-c", END_PROCESSES, "sh"]).arg(&used).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        for child in [&polite, &deaf] {
            assert!(printed.contains(&child.id().to_string()), "{printed}");
        }
        assert!(!printed.contains(&format!("{} ", other.id())), "{printed}");
        for child in [&mut polite, &mut deaf] {
            assert!(!child.wait().unwrap().success());
        }
        assert!(other.try_wait().unwrap().is_none(), "it still runs");
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn sizes_follow_the_formula() {
        assert_eq!(size_kib(&size(None, None, 0), 600_000), Some(1_065_536));
        assert_eq!(size_kib(&size(None, Some(204_800), 0), 600_000), Some(870_336));
        assert_eq!(size_kib(&size(Some(1_000_000), None, 537_600), 9), Some(1_537_600));
        assert_eq!(size_kib(&size(Some(65), None, 0), 9), Some(128));
    }

    #[test]
    fn no_number_of_the_guest_overflows_the_size() {
        for tree_kib in [TREE_MAX_KIB + 1, u64::MAX / 10 + 1, u64::MAX - 1, u64::MAX] {
            assert_eq!(size_kib(&size(None, None, 0), tree_kib), None);
            assert_eq!(size_kib(&size(None, Some(1), 0), tree_kib), None);
        }
        assert!(size_kib(&size(None, None, 0), TREE_MAX_KIB).is_some());
        assert_eq!(size_kib(&size(Some(u64::MAX - 9), None, 0), 0), None);
        assert_eq!(size_kib(&size(None, Some(u64::MAX - 9), 0), 9), None);
        assert_eq!(size_kib(&size(Some(9), None, u64::MAX - 9), 0), None);
    }
}
