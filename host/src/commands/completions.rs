//! `vbuild completions SHELL`.

use clap::Args;
use clap_complete::Shell;

use super::{Context, Outcome};

/// `vbuild completions`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "For bash: vbuild completions bash > ~/.local/share/bash-completion/completions/vbuild"
)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// Prints the script that completes vbuild's command line.
///
/// # Errors
/// None; the type is that of all verbs.
pub fn run(context: &Context, args: &CompletionsArgs) -> Outcome {
    context.console.print_own(&script(args.shell));
    Ok(0)
}

/// The completion script of a shell.
#[must_use]
pub fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut crate::cli::command(), "vbuild", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_learns_options_and_verbs() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            assert!(script.contains("drive-format"), "{shell}");
            assert!(script.contains("completions"), "{shell}");
        }
    }
}
