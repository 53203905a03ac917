//! `vbuild explain` and `vbuild du`: show which parts of a build made the files of an image.

use std::fmt::Write as _;

use clap::Args;

use super::context::{Outcome, ProcessContext};
use crate::{
    build::{options, runtime, stage_cache},
    cli::{AccelArgs, CacheDirArgs, PackageArgs, SourceArgs},
    explain::{self, Answer},
    settings::Settings,
    ui::bytes,
};

/// The arguments that both verbs have.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct BuiltArgs {
    /// An image that vbuild has written, or the name of a build
    #[arg(value_name = "IMAGE|BUILD")]
    pub(crate) build: String,

    /// The cache directory with the store.
    #[command(flatten)]
    pub(crate) cache_dir: CacheDirArgs,
    /// The accelerator of the machine that inspects the disks.
    #[command(flatten)]
    pub(crate) accel: AccelArgs,
    /// The packages of that machine's appliance.
    #[command(flatten)]
    pub(crate) packages: PackageArgs,
    /// The sources of that appliance.
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// The arguments of `vbuild explain`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "The build must be in the store. A machine looks at its disks; nothing runs again. \
                        What counts is when the file's inode was last changed."
)]
pub(crate) struct ExplainArgs {
    /// The build, and the machine that inspects it.
    #[command(flatten)]
    pub(crate) built: BuiltArgs,

    /// The file in the image
    #[arg(value_name = "PATH")]
    pub(crate) path: String,
}

/// The arguments of `vbuild du`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = "Files count for what changed them last.")]
pub(crate) struct DuArgs {
    /// The build, and the machine that inspects it.
    #[command(flatten)]
    pub(crate) built: BuiltArgs,

    /// Count for each script instead of for each stage
    #[arg(long)]
    pub(crate) by_step: bool,
}

fn settings(args: &BuiltArgs) -> Settings {
    options::appliance_settings(&args.accel, &args.packages, &args.source, &args.cache_dir)
}

/// Prints which step of the build last changed a file.
///
/// # Errors
/// Fails if the build is not in the store, or if the path is not in its image.
pub(crate) fn run(context: &ProcessContext, args: &ExplainArgs) -> Outcome {
    let settings = settings(&args.built);
    runtime::quietly(&context.console, async |ctx| {
        let answer = explain::path(&settings, &ctx, &args.built.build, &args.path).await?;
        context.console.print(&tell(&args.path, &answer))?;
        Ok(())
    })?;
    Ok(0)
}

fn tell(path: &str, answer: &Answer) -> String {
    let origin = answer.origin.as_ref().map(|o| format!(" (element {o})")).unwrap_or_default();
    let mut text = format!("{path}: last changed by {}{origin}", answer.name);
    if answer.name != answer.stage {
        let _ = write!(text, ", in the stage {}", answer.stage);
    }
    text.push_str(&stage_cache::origin(answer.shared.as_ref()));
    text.push('\n');
    for connection in &answer.connections {
        let (host, port) = (&connection.host, connection.port);
        let received = bytes(connection.received);
        let _ = writeln!(text, "  the stage was connected to {host}:{port} ({received} came)");
        for fetched in &connection.fetched {
            let digest = fetched
                .sha256
                .map_or_else(|| "not complete".to_owned(), |digest| digest.to_string());
            let size = bytes(fetched.bytes);
            let _ = writeln!(text, "    {} {size} sha256 {digest}", fetched.path);
        }
        if connection.more_fetched > 0 {
            let _ = writeln!(text, "    and {} more", connection.more_fetched);
        }
    }
    if answer.more_connections > 0 {
        let _ = writeln!(text, "  and {} more connections", answer.more_connections);
    }
    text
}

/// Prints how many bytes of the image each stage or step has made.
///
/// # Errors
/// Fails if the build is not in the store.
pub(crate) fn run_du(context: &ProcessContext, args: &DuArgs) -> Outcome {
    let settings = settings(&args.built);
    runtime::quietly(&context.console, async |ctx| {
        let shares = explain::sizes(&settings, &ctx, &args.built.build, args.by_step).await?;
        let total: u64 = shares.iter().map(|(_, size)| size).sum();
        for (name, size) in &shares {
            context.console.print(&format!("{:>12}  {name}\n", bytes(*size)))?;
        }
        context.console.print(&format!("{:>12}  in all\n", bytes(total)))?;
        Ok(())
    })?;
    Ok(0)
}
