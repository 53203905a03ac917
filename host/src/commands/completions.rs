//! `vbuild completions SHELL`: prints a completion script.

use clap::{Args, Command};
use clap_complete::Shell;

use super::context::{Outcome, ProcessContext};

/// The arguments of `vbuild completions`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "For bash: vbuild completions bash > ~/.local/share/bash-completion/completions/vbuild"
)]
pub(crate) struct CompletionsArgs {
    /// The shell to print completions for
    pub(crate) shell: Shell,
}

/// Prints the script that completes vbuild's command line.
pub(crate) fn run(context: &ProcessContext, args: &CompletionsArgs) -> Outcome {
    context.console.print_own(&script(args.shell, &context.command))?;
    Ok(0)
}

/// Returns the completion script of a shell.
#[must_use]
fn script(shell: Shell, command: &Command) -> String {
    let mut script = Vec::new();
    let mut command = match shell {
        Shell::Zsh => without_words(command),
        _ => command.clone(),
    };
    clap_complete::generate(shell, &mut command, "vbuild", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Copies a command without the positional arguments that can occur in the place of a verb
/// (elements, a project). zsh's script counts positional arguments, and would offer the verbs as
/// the second.
fn without_words(command: &Command) -> Command {
    let has_verbs = command.has_subcommands();
    let mut copy = Command::new(command.get_name().to_owned())
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true);
    if let Some(about) = command.get_about() {
        copy = copy.about(about.clone());
    }
    let args = command.get_arguments().filter(|arg| !has_verbs || !arg.is_positional());
    copy = copy.args(args.cloned());
    copy.subcommands(command.get_subcommands().map(without_words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::command_line::command;

    #[test]
    fn in_zsh_no_word_stands_before_a_verb() {
        let script = script(Shell::Zsh, &command());
        // `'*::elements -- …'` before `":: :_vbuild_commands"`.
        for (at, _) in script.match_indices("_commands\" \\\n") {
            let before = script[..at].rsplit("_arguments").next().unwrap_or_default();
            let words =
                before.lines().filter(|line| line.starts_with("'*::") || line.starts_with("'::"));
            assert_eq!(words.count(), 0, "{before}");
        }
    }

    #[test]
    fn every_shell_learns_options_and_verbs() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell, &command());
            assert!(script.contains("drive-format"), "{shell}");
            assert!(script.contains("completions"), "{shell}");
        }
    }
}
