//! `vbuild exec`: one command in a fresh appliance.

use clap::Args;

use super::{Context, Outcome, machine_run, resolve};
use crate::{
    cli::GuestArgs,
    error::{CommandError, Kind},
    exec,
};

/// `vbuild exec`.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(
    after_help = "The command's output and exit status are passed through. 125 means that vbuild \
                        itself failed, 124 that the command's time was up. The drive is on /helper."
)]
pub struct ExecArgs {
    /// Where it runs, and the drive to look into.
    #[command(flatten)]
    pub guest: GuestArgs,

    /// The command and its arguments
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// When vbuild itself fails; the exit status then is 125.
pub fn run(context: &Context, args: &ExecArgs) -> Outcome {
    let settings = resolve::guest_settings(&args.guest);
    machine_run::quietly(&context.console, async |ctx| {
        exec::exec(&settings, &args.command, &ctx).await
    })
    .map_err(as_exec)
}

/// Whatever fails, the exit status must not look like the command's.
fn as_exec(error: CommandError) -> CommandError {
    CommandError { kind: Kind::Exec, ..error }
}
