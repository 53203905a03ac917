//! Small changes to the file tree of the guest.

use plan::{FileStep, GuestPath};
use session::FileKind;

use crate::{EngineError, step_context::StepContext};

/// Makes a change to the file tree.
pub(crate) async fn file(step: &FileStep, cx: &StepContext<'_>) -> Result<(), EngineError> {
    let session = cx.session();
    let done = match step {
        FileStep::MakeDirectory { path, mode } => {
            let (root, path) = cx.locate(path);
            session.make_directory(&root, &path, *mode).await
        }
        FileStep::Write { path, content, mode } => return write(path, content, *mode, cx).await,
        FileStep::Symlink { path, target } => {
            let (root, path) = cx.locate(path);
            session.symlink(&root, &path, target).await
        }
        FileStep::Remove { path, content_only: false } => {
            let (root, path) = cx.locate(path);
            session.remove(&root, &path).await
        }
        FileStep::Remove { path, content_only: true } => {
            let (root, path) = cx.locate(path);
            session.remove_content(&root, &path).await
        }
        FileStep::Rename { from, to } => {
            let ((root, from), (_, to)) = (cx.locate(from), cx.locate(to));
            session.rename(&root, &from, &to).await
        }
        FileStep::TruncateAll { path } => {
            let (root, path) = cx.locate(path);
            session.truncate_all(&root, &path).await
        }
        FileStep::RemoveBySuffix { path, suffix } => {
            return remove_by_suffix(path, suffix, cx).await;
        }
    };
    done.map_err(cx.failed("change files"))
}

/// Writes a file.
pub(crate) async fn write(
    path: &GuestPath,
    content: &str,
    mode: u32,
    cx: &StepContext<'_>,
) -> Result<(), EngineError> {
    let (root, path) = cx.locate(path);
    let written = cx.session().put_file(&root, &path, mode, content.as_bytes()).await;
    written.map_err(cx.failed(format!("write {path}")))
}

async fn remove_by_suffix(
    directory: &GuestPath,
    suffix: &str,
    cx: &StepContext<'_>,
) -> Result<(), EngineError> {
    let (root, path) = cx.locate(directory);
    for (name, stat) in cx.entries(&root, &path).await? {
        if name.ends_with(suffix) && stat.kind == FileKind::File {
            let removed = cx.session().remove(&root, &format!("{path}/{name}")).await;
            removed.map_err(cx.failed(format!("remove {name}")))?;
        }
    }
    Ok(())
}

/// Fails unless a directory has an entry that is not ignored.
pub(crate) async fn require_content(
    path: &GuestPath,
    ignore: &[String],
    message: &str,
    cx: &StepContext<'_>,
) -> Result<(), EngineError> {
    let (root, path) = cx.locate(path);
    let found = cx.entries(&root, &path).await?;
    if found.iter().any(|(name, _)| !ignore.contains(name)) {
        Ok(())
    } else {
        Err(EngineError::Recipe(message.to_owned()))
    }
}
