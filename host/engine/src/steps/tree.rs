//! Transfers trees: copies them within the guest, fetches them to the host, and writes them as
//! outputs.

use std::{path::Path, sync::Arc};

use checked::Printable;
use plan::{GuestPath, TreeOutput};

use crate::{
    EngineError,
    guest::{Guest, TOOLS, tool},
    step_context::StepContext,
};

/// Copies the content of a directory with all attributes that cp can preserve.
pub(crate) async fn copy_tree(
    from: &GuestPath,
    to: &GuestPath,
    cx: &StepContext<'_>,
) -> Result<(), EngineError> {
    let (from, to) = (format!("{}/.", Guest::tools_path(from)), Guest::tools_path(to));
    let argv = ["cp", "--archive", "--sparse=auto", "--no-target-directory", &from, &to];
    cx.guest.run_tool(&argv).await.map(drop)
}

/// Fetches a directory to the host, unless it is empty.
pub(crate) async fn fetch(
    from: &GuestPath,
    to: &Path,
    cx: &StepContext<'_>,
) -> Result<(), EngineError> {
    let path = from.as_str();
    if cx.entries(TOOLS, path).await?.is_empty() {
        return Ok(());
    }
    let archive = cx.session().get_tar(TOOLS, path, Vec::new()).await;
    let archive = archive.map_err(cx.failed(format!("fetch {path}")))?;
    let (trees, directory) = (Arc::clone(&cx.config.trees), to.to_owned());
    let unpacked =
        tokio::task::spawn_blocking(move || trees.unpack(&directory, Box::new(archive))).await;
    flatten(unpacked, to)
}

/// Writes an output from a mounted tree.
pub(crate) async fn export(
    root: &GuestPath,
    exclude: &[String],
    output: &TreeOutput,
    cx: &StepContext<'_>,
) -> Result<(), EngineError> {
    let tree = Guest::tools_path(root);
    warn_of_sockets(&tree, &output.path, cx).await?;
    let archive = cx.session().get_tar(&tree, "/", exclude.to_vec()).await;
    let archive = archive.map_err(cx.failed("read the image's tree"))?;
    let (trees, what) = (Arc::clone(&cx.config.trees), output.clone());
    let written = tokio::task::spawn_blocking(move || trees.export(&what, Box::new(archive))).await;
    flatten(written, &output.path)
}

/// Warns about sockets. They are left out, because an archive cannot contain them, and because they
/// are useless without the process that listens.
async fn warn_of_sockets(
    tree: &str,
    output: &Path,
    cx: &StepContext<'_>,
) -> Result<(), EngineError> {
    let script = r#"cd "$1" && find . -type s -printf . | wc -c && find . -type s -print -quit"#;
    let found = tool(cx.session(), &["sh", "-c", script, "sh", tree]).output().await;
    let found = found.map_err(cx.failed("look for sockets"))?;
    let found = String::from_utf8_lossy(&found.stdout);
    let mut lines = found.lines();
    let count: u64 = lines.next().and_then(|count| count.trim().parse().ok()).unwrap_or(0);
    if count > 0 {
        let first = Printable::from(lines.next().unwrap_or_default().trim_start_matches("./"));
        cx.warn(format!(
            "{}: an archive cannot hold sockets: {count} left out, the first is `{first}`",
            output.display()
        ));
    }
    Ok(())
}

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn flatten(
    outcome: Result<Outcome, tokio::task::JoinError>,
    path: &Path,
) -> Result<(), EngineError> {
    let error = match outcome {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error,
        Err(panic) => panic.into(),
    };
    Err(EngineError::Output { path: path.to_owned(), source: error })
}
