//! Replaces the image's resolv.conf while scripts run in the image, and restores it afterwards.

use plan::ResolvConf;
use session::{FileKind, SessionError};

use crate::{EngineError, guest::Guest, step_context::StepContext};

const FILE: &str = "/etc/resolv.conf";
const ORIGINAL: &str = "/etc/resolv.conf.ORIG";

/// Runs the step [`ResolvConf`].
pub(crate) async fn resolv_conf(
    action: ResolvConf,
    cx: &StepContext<'_>,
) -> Result<(), EngineError> {
    let Some(root) = &cx.stage.context.image_root else {
        return Err(EngineError::Recipe(format!("stage {} has no image root", cx.stage.name)));
    };
    let root = Guest::tools_path(root);
    match action {
        ResolvConf::Prepare => prepare(&root, cx).await,
        ResolvConf::Restore => restore(&root, cx).await,
    }
}

async fn prepare(root: &str, cx: &StepContext<'_>) -> Result<(), EngineError> {
    let session = cx.session();
    if cx.stat(root, FILE).await?.is_some() {
        session.rename(root, FILE, ORIGINAL).await.map_err(change_failed(cx))?;
    }
    session.make_directory(root, "/etc", 0o755).await.map_err(change_failed(cx))?;
    let content =
        if cx.config.network.is_some() { "nameserver 127.0.0.1\n" } else { "# no network\n" };
    let written = session.put_file(root, FILE, 0o777, content.as_bytes()).await;
    written.map_err(cx.failed("write resolv.conf"))
}

async fn restore(root: &str, cx: &StepContext<'_>) -> Result<(), EngineError> {
    let session = cx.session();
    let current = cx.stat(root, FILE).await?;
    let original = cx.stat(root, ORIGINAL).await?.is_some();
    // A link was made on purpose by a package or an element. So was a file that cannot be removed
    // (chattr +i).
    let is_link = current.as_ref().is_some_and(|stat| stat.kind == FileKind::Symlink);
    let stays = is_link || (current.is_some() && session.remove(root, FILE).await.is_err());
    let restored = match (stays, original) {
        (false, true) => session.rename(root, ORIGINAL, FILE).await,
        (true, true) => session.remove(root, ORIGINAL).await,
        (_, false) => Ok(()),
    };
    restored.map_err(change_failed(cx))
}

fn change_failed(cx: &StepContext<'_>) -> impl FnOnce(SessionError) -> EngineError + use<> {
    cx.failed("change resolv.conf")
}
