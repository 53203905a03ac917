//! Lists directories of scripts in the guest.

use plan::is_script_name;
use session::{FileKind, FileStat};

use crate::{EngineError, step_context::StepContext};

/// Maximum number of files that are looked at to find the target of a symbolic link, including the
/// link.
const LINKS_MAX: usize = 8;

/// Returns the names of the scripts in a directory: executable files with the names of scripts.
pub(super) async fn scripts(
    root: &str,
    directory: &str,
    cx: &StepContext<'_>,
) -> Result<Vec<String>, EngineError> {
    let mut names = Vec::new();
    for (name, stat) in cx.entries(root, directory).await? {
        if !is_script_name(&name) {
            continue;
        }
        let path = format!("{directory}/{name}");
        let stat = follow(root, path, stat, cx).await?;
        if stat.is_some_and(|stat| stat.kind == FileKind::File && stat.mode & 0o111 != 0) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Follows symbolic links, and returns the status of their target. `None` if the target does not
/// exist, or if there are too many links.
pub(super) async fn follow(
    root: &str,
    mut path: String,
    mut stat: FileStat,
    cx: &StepContext<'_>,
) -> Result<Option<FileStat>, EngineError> {
    for _ in 0..LINKS_MAX {
        let Some(link) = stat.link.take() else { return Ok(Some(stat)) };
        path = join(&path, &link);
        let Some(next) = cx.stat(root, &path).await? else { return Ok(None) };
        stat = next;
    }
    Ok(None)
}

/// Returns the path of a link's target, which never leaves the root.
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
