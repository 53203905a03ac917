//! `vbuild exec`: runs one command in a fresh appliance.

use clap::Args;

use super::context::{Outcome, ProcessContext};
use crate::{
    build::{options, runtime},
    cli::{ArchArgs, GuestArgs},
    error::{CommandError, Kind},
    machine::exec,
    settings::Settings,
};

/// The arguments of `vbuild exec`.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(
    after_help = "The command's output and exit status are passed through. 125 means that vbuild \
                        itself failed, 124 that the command's time was up. The drive is on /helper."
)]
pub(crate) struct ExecArgs {
    /// The machine's architecture.
    #[command(flatten)]
    pub(crate) arch: ArchArgs,

    /// The machine in which the command runs, and the drive to inspect.
    #[command(flatten)]
    pub(crate) guest: GuestArgs,

    /// The command and its arguments
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        help_heading = None::<&'static str>
    )]
    pub(crate) command: Vec<String>,
}

/// Runs the command, and returns its exit status.
///
/// # Errors
/// Fails if vbuild itself fails; the exit status is then 125.
pub(crate) fn run(context: &ProcessContext, args: &ExecArgs) -> Outcome {
    let architecture = args.arch.machine();
    let settings = Settings { architecture, ..options::guest_settings(&args.guest) };
    runtime::quietly(&context.console, async |ctx| exec::exec(&settings, &args.command, &ctx).await)
        .map_err(as_exec)
}

/// Changes the kind of any error to [`Kind::Exec`], so that the exit status does not look like the
/// command's.
fn as_exec(error: CommandError) -> CommandError {
    CommandError { kind: Kind::Exec, ..error }
}
