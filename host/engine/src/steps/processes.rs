//! Processes that scripts have left behind.

use plan::GuestPath;
use session::SessionError;

use crate::{
    events::{Event, SharedObserver},
    guest::{Guest, tool},
};

/// A shell script that ends the processes that use files below its first argument, and prints them.
const END_PROCESSES: &str = include_str!("../../scripts/end-processes.sh");
/// Maximum number of processes that a warning names; the rest is only counted.
const NAMED_MAX: usize = 5;

/// Ends the processes that scripts have left behind and that use files below a directory, because
/// they would keep it from being unmounted. Warns about them.
pub(crate) async fn kill_left_over(
    guest: &Guest,
    observer: &SharedObserver,
    root: &GuestPath,
) -> Result<(), SessionError> {
    let root = Guest::tools_path(root);
    let ended = tool(&guest.session, &["sh", "-c", END_PROCESSES, "sh", &root]).output().await?;
    let printed = String::from_utf8_lossy(&ended.stdout);
    if let Some(text) = ended_in_words(&printed) {
        observer.event(&Event::Warning { text });
    }
    Ok(())
}

/// Returns the warning about ended processes, if there were any.
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
