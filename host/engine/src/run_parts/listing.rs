//! What stands in a directory of scripts, in the guest.

use plan::{Stage, is_script_name};
use wire::{FileKind, FileStat};

use crate::{EngineError, guest::Guest, steps};

/// How many symbolic links are followed to a script.
const LINKS_MAX: usize = 8;

/// The scripts that stand in a directory.
pub(super) async fn scripts(
    guest: &Guest,
    stage: &Stage,
    root: &str,
    directory: &str,
) -> Result<Vec<String>, EngineError> {
    let mut names = Vec::new();
    for (name, stat) in steps::entries(guest, stage, root, directory).await? {
        if !is_script_name(&name) {
            continue;
        }
        let path = format!("{directory}/{name}");
        let stat = follow(guest, stage, root, path, stat).await?;
        if stat.is_some_and(|stat| stat.kind == FileKind::File && stat.mode & 0o111 != 0) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Follows symbolic links to what they lead to.
pub(super) async fn follow(
    guest: &Guest,
    stage: &Stage,
    root: &str,
    mut path: String,
    mut stat: FileStat,
) -> Result<Option<FileStat>, EngineError> {
    for _ in 0..LINKS_MAX {
        let Some(link) = stat.link.take() else { return Ok(Some(stat)) };
        path = join(&path, &link);
        let Some(next) = steps::stat(guest, stage, root, &path).await? else { return Ok(None) };
        stat = next;
    }
    Ok(None)
}

/// Where a link leads, without leaving the root.
fn join(path: &str, link: &str) -> String {
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    let whole = if link.starts_with('/') { link.to_owned() } else { format!("{parent}/{link}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() {
        assert_eq!(join("/in/install.d/10-x", "../x-install/10-x"), "/in/x-install/10-x");
        assert_eq!(join("/a/b", "/c/./d"), "/c/d");
        assert_eq!(join("/a", "../../../e"), "/e");
    }
}
