//! Verbs by name: help on a verb, the verbs of a group, and suggestions for a mistyped verb.

use std::{ffi::OsString, fmt::Write as _, path::Path};

use clap::Command;

use super::{personality::Personality, usage::usage};
use crate::error::CommandError;

/// Minimum similarity, from 0 to 1, at which a word counts as a mistyped verb. `complete` and
/// `completions` have 0.64, and no other pair that should match is less similar.
const ALIKE: f64 = 0.6;

/// Elements of diskimage-builder whose names are that similar to a verb.
const ELEMENTS_LIKE_VERBS: &[&str] = &["bootc", "docker", "rhel", "uboot"];

/// Returns the verb that a word was probably meant to be; `None` if there is no such verb, or if
/// the word is the name of a known element of diskimage-builder.
pub(crate) fn near_verb(command: &Command, word: &str) -> Option<String> {
    if ELEMENTS_LIKE_VERBS.contains(&word) {
        return None;
    }
    let verbs = command.get_subcommands().map(|verb| verb.get_name().to_owned());
    let alike = |verb: &String| strsim::normalized_damerau_levenshtein(word, verb);
    verbs
        .chain(["help".to_owned(), "version".to_owned()])
        .filter(|verb| alike(verb) >= ALIKE && verb != word)
        .max_by(|a, b| alike(a).total_cmp(&alike(b)))
}

/// Returns a hint if the first word is not a verb but similar to one, unless one of the `paths` has
/// an element of that name.
pub(crate) fn hint(
    personality: Personality,
    command: &Command,
    args: &[OsString],
    paths: &[&Path],
) -> Option<String> {
    let word = args.first()?.to_str().filter(|word| !word.starts_with('-'))?;
    let is_element = paths.iter().any(|path| path.join(word).is_dir());
    if personality != Personality::Vbuild || is_element {
        return None;
    }
    near_verb(command, word)
        .map(|verb| format!("did you mean the verb `{verb}`? `vbuild help` lists all"))
}

/// Translates `help VERB...` and `version` to the options that they stand for; returns `None` for
/// any other command line.
///
/// # Errors
/// Fails if a word after `help` is not a verb.
pub(super) fn as_options(
    command: &Command,
    args: &[OsString],
) -> Result<Option<Vec<OsString>>, CommandError> {
    let Some((first, rest)) = args.split_first() else { return Ok(None) };
    if first == "version" && rest.is_empty() {
        return Ok(Some(vec!["--version".into()]));
    }
    if first != "help" {
        return Ok(None);
    }
    let mut at = command;
    for word in rest {
        let found = word.to_str().and_then(|word| at.find_subcommand(word));
        at = found.ok_or_else(|| {
            let word = word.to_string_lossy();
            let above = if rest.len() > 1 { at.get_name() } else { "vbuild" };
            usage(format!("{above} has no verb `{word}`"))
                .maybe_hint(near_verb(command, &word).map(|verb| format!("did you mean `{verb}`?")))
        })?;
    }
    Ok(Some(rest.iter().cloned().chain(["--help".into()]).collect()))
}

/// Returns the error for a group without a verb, with a list of the group's verbs.
pub(super) fn lacks_verb(command: &Command, words: &[OsString]) -> CommandError {
    let mut name = "vbuild".to_owned();
    let mut at = command;
    for word in words.iter().skip(1).filter_map(|word| word.to_str()) {
        let Some(below) = at.find_subcommand(word) else { continue };
        let _ = write!(name, " {word}");
        at = below;
    }
    let verbs: Vec<(&str, String)> = at
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set())
        .map(|verb| {
            (verb.get_name(), verb.get_about().map(ToString::to_string).unwrap_or_default())
        })
        .collect();
    let width = verbs.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = format!("`{name}` needs one of its verbs:");
    for (name, about) in verbs {
        let _ = write!(text, "\n  {name:<width$}  {about}");
    }
    CommandError::usage(text).hint(format!("`{name} VERB --help` tells of each"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::command_line;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn mistyped_verbs_are_known_and_elements_are_none() {
        let command = command_line::command();
        for (typed, meant) in [
            ("docter", "doctor"),
            ("vmbd", "vmdb"),
            ("layer", "layers"),
            ("appliances", "appliance"),
            ("complete", "completions"),
            ("stroe", "store"),
            ("image", "images"),
            ("bot", "boot"),
            ("halp", "help"),
        ] {
            assert_eq!(near_verb(&command, typed).as_deref(), Some(meant), "{typed}");
        }
        for element in
            ["bootc", "docker", "rhel", "uboot", "debian-minimal", "vm", "base", "cache-url"]
        {
            assert_eq!(near_verb(&command, element), None, "{element}");
        }
    }

    #[test]
    fn an_element_of_the_users_own_is_no_mistyped_verb() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("stores")).unwrap();
        let (command, args) = (command_line::command(), words("stores vm"));
        let hint = |personality, args: &[OsString], paths: &[&Path]| {
            hint(personality, &command, args, paths)
        };
        assert!(hint(Personality::Vbuild, &args, &[]).unwrap().contains("`store`"));
        assert_eq!(hint(Personality::Vbuild, &args, &[folder.path()]), None);
        assert_eq!(hint(Personality::DiskImageCreate, &args, &[]), None);
        assert_eq!(hint(Personality::Vbuild, &words("--stores"), &[]), None);
    }

    #[test]
    fn help_and_version_are_words_too() {
        let command = command_line::command();
        let read = |line: &str| as_options(&command, &words(line)).map_err(|e| e.to_string());
        assert_eq!(read("help"), Ok(Some(words("--help"))));
        assert_eq!(read("help store gc"), Ok(Some(words("store gc --help"))));
        assert_eq!(read("version"), Ok(Some(words("--version"))));
        assert_eq!(read("vmdb help"), Ok(None));
        assert_eq!(read("help docter"), Err("vbuild has no verb `docter`".into()));
        assert!(read("help store frob").is_err());
    }

    #[test]
    fn a_group_lists_its_verbs() {
        let command = command_line::command();
        for group in command.get_subcommands().filter(|verb| verb.is_subcommand_required_set()) {
            let line = words(&format!("vbuild {}", group.get_name()));
            let text = lacks_verb(&command, &line).to_string();
            for verb in group.get_subcommands().filter(|verb| verb.get_name() != "help") {
                assert!(text.contains(&format!("\n  {}", verb.get_name())), "{text}");
            }
        }
    }
}
