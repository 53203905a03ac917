//! Converts scripts to bash.

use crate::{
    place::Text,
    types::{CmdVerbosity, Script},
};

/// The settings under which a command runs.
#[derive(Debug, Clone, Copy)]
struct Around<'s> {
    directory: Option<&'s Text>,
    user: Option<&'s Text>,
    ignores_errors: bool,
    verbosity: CmdVerbosity,
}

/// Converts the script to bash, without a final newline. Unlike B9, it escapes quotes in a
/// directory of `In`.
#[must_use]
pub fn to_bash(script: &Script) -> String {
    bash(script, &[])
}

/// Converts the script as B9's containers start it: with root's variables.
#[must_use]
pub fn to_container_bash(script: &Script) -> String {
    bash(script, &["export HOME=/root", "export USER=root"])
}

fn bash(script: &Script, before: &[&str]) -> String {
    let head = ["#!/usr/bin/env bash", "set -e"];
    let mut blocks: Vec<String> =
        head.iter().chain(before).map(|line| (*line).to_owned()).collect();
    let around = Around {
        directory: None,
        user: None,
        ignores_errors: false,
        verbosity: CmdVerbosity::Debug,
    };
    write(script, around, &mut blocks);
    blocks.join("\n\n")
}

/// Whether the script runs any command.
#[must_use]
pub fn runs_anything(script: &Script) -> bool {
    match script {
        Script::Run(..) => true,
        Script::NoOp => false,
        Script::In(_, body)
        | Script::As(_, body)
        | Script::IgnoreErrors(_, body)
        | Script::Verbosity(_, body)
        | Script::Begin(body) => body.iter().any(runs_anything),
    }
}

fn write<'s>(script: &'s Script, around: Around<'s>, blocks: &mut Vec<String>) {
    let (inner, body) = match script {
        Script::In(directory, body) => (Around { directory: Some(directory), ..around }, body),
        Script::As(user, body) => (Around { user: Some(user), ..around }, body),
        Script::IgnoreErrors(ignores_errors, body) => {
            (Around { ignores_errors: *ignores_errors, ..around }, body)
        }
        Script::Verbosity(verbosity, body) => (Around { verbosity: *verbosity, ..around }, body),
        Script::Begin(body) => (around, body),
        Script::Run(command, arguments) => {
            blocks.push(block(command, arguments, around));
            return;
        }
        Script::NoOp => return,
    };
    body.iter().for_each(|script| write(script, inner, blocks));
}

fn block(command: &Text, arguments: &[Text], around: Around<'_>) -> String {
    let quiet = match around.verbosity {
        CmdVerbosity::Quiet => " &> /dev/null",
        CmdVerbosity::OnlyStdErr => " > /dev/null",
        CmdVerbosity::Debug | CmdVerbosity::Verbose => "",
    };
    let directory = around.directory.map(|text| text.replace('\'', "'\\''"));
    let mut lines = Vec::new();
    if around.ignores_errors {
        lines.push("set +e".to_owned());
    }
    if let Some(directory) = &directory {
        lines.push(format!("pushd '{directory}'{quiet}"));
    }
    let prefix = match around.user {
        Some(user) if user.text != "root" => format!("runuser -p -u {} -- ", user.text),
        _ => String::new(),
    };
    let words: Vec<&str> =
        std::iter::once(command).chain(arguments).map(|text| text.text.as_str()).collect();
    lines.push(format!("{prefix}{}{quiet}", words.join(" ")));
    if let Some(directory) = &directory {
        // The text after `#` is a comment, which a newline would end.
        lines.push(format!("popd{quiet} # '{}'", directory.replace('\n', " ")));
    }
    if around.ignores_errors {
        lines.push("set -e".to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row 95: B9's output for such a directory is not valid bash.
    #[test]
    fn a_quote_in_a_directory_is_escaped() {
        let script: Script = crate::haskell::read("In \"/it's\" [Run \"x\" []]", 0).unwrap();
        assert!(to_bash(&script).contains("pushd '/it'\\''s'\nx\npopd # '/it'\\''s'"));
    }
}
