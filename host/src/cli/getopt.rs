//! The option syntax of virt-dib, as a pass over argv before clap sees it.
//!
//! virt-dib reads its command line with `getopt_long_only`: options and elements mix freely, long
//! options take one dash or two, any unambiguous prefix of a name is accepted, `-vx` is `-v -x`,
//! and `--` ends the options. clap supports only a part of that, so this pass rewrites every option
//! to its full `--name` or `--name=value`, and moves the elements behind a `--`:
//!
//! ```text
//! -name deb debian-minimal --net vm   ->   --name=deb --network -- debian-minimal vm
//! ```
//!
//! The list of options is read from the clap command itself, so there is one
//! source of truth for names, aliases and whether a value follows.

mod nearest;
mod originals;
mod words;

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
};

use clap::{Arg, ArgAction, Command};

pub(crate) use originals::Syntax;
#[cfg(test)]
pub(crate) use originals::VIRT_DIB_OPTIONS;
use words::{before_equals, joined, long_name, printable};

/// The option that prints help.
const HELP: &str = "help";

/// The error for an option that cannot be parsed. The messages are those of getopt, which scripts
/// and users know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GetoptError {
    /// No option has this name.
    #[error("unrecognized option '{typed}'")]
    Unrecognized {
        /// The option as typed.
        typed: String,
        /// The option that was probably meant.
        meant: Option<String>,
    },
    /// No option has this letter.
    #[error("invalid option -- '{0}'")]
    InvalidLetter(char),
    /// The option is a prefix of several names.
    #[error("option '{typed}' is ambiguous; possibilities: {}", quoted(candidates))]
    Ambiguous {
        /// The option as typed.
        typed: String,
        /// The names that the prefix could stand for.
        candidates: Vec<String>,
    },
    /// The value of the option is missing.
    #[error("option '{0}' requires an argument")]
    MissingValue(String),
    /// A flag was given a value.
    #[error("option '{0}' doesn't allow an argument")]
    UnexpectedValue(String),
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("'--{name}'")).collect::<Vec<_>>().join(" ")
}

/// Whether an option takes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    /// A value only in the form `--name=value`.
    OptionalValue,
    Value,
}

/// An option with all its names.
#[derive(Debug, Clone)]
struct Opt {
    long: String,
    aliases: Vec<String>,
    letters: Vec<char>,
    takes: Takes,
}

impl Opt {
    fn of(arg: &Arg) -> Option<Self> {
        let long = arg.get_long()?.to_owned();
        let aliases: Vec<String> =
            arg.get_all_aliases().unwrap_or_default().into_iter().map(str::to_owned).collect();
        let mut letters = arg.get_all_short_aliases().unwrap_or_default();
        letters.extend(arg.get_short());
        let takes = match arg.get_action() {
            ArgAction::Set | ArgAction::Append if arg.is_require_equals_set() => {
                Takes::OptionalValue
            }
            ArgAction::Set | ArgAction::Append => Takes::Value,
            _ => Takes::Nothing,
        };
        Some(Self { long, aliases, letters, takes })
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.long.as_str()).chain(self.aliases.iter().map(String::as_str))
    }
}

/// The options of a command.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    options: Vec<Opt>,
    syntax: Syntax,
}

impl Options {
    /// Reads the options from a clap command.
    pub(crate) fn of(command: &Command, syntax: Syntax) -> Self {
        let options = command.get_arguments().filter_map(Opt::of).collect();
        Self { options, syntax }
    }

    /// Returns all long options as they are typed, sorted, as `--long-options` lists them.
    pub(crate) fn long_names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.options.iter().flat_map(Opt::names).map(|name| format!("--{name}")).collect();
        names.sort();
        names
    }

    /// Returns all short options as they are typed, sorted, as `--short-options` lists them.
    pub(crate) fn short_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .options
            .iter()
            .flat_map(|o| &o.letters)
            .map(|letter| format!("-{letter}"))
            .collect();
        names.sort();
        names
    }

    /// Returns the error for an unknown option, with the known option that was probably meant.
    fn unrecognized(&self, typed: &str) -> GetoptError {
        let typed = before_equals(typed);
        let name = typed.trim_start_matches('-');
        let meant = nearest::option(name, self.options.iter().flat_map(Opt::names));
        GetoptError::Unrecognized { typed, meant }
    }

    fn by_letter(&self, letter: u8) -> Option<&Opt> {
        self.options.iter().find(|option| option.letters.contains(&char::from(letter)))
    }

    /// Returns the option that a name, or an unambiguous prefix of a name, stands for. The error is
    /// the list of names with an ambiguous prefix.
    fn by_name(&self, typed: &[u8]) -> Result<Option<&Opt>, Vec<String>> {
        let exact = self.options.iter().find(|o| o.names().any(|n| n.as_bytes() == typed));
        let old = self.syntax.options_of_old();
        let is_old = |name: &str| old.contains(&name);
        let added = |o: &Opt| self.syntax == Syntax::Long && !o.names().any(is_old);
        if let Some(option) = exact.filter(|option| !added(option)) {
            return Ok(Some(option));
        }
        let starts = |name: &str| !typed.is_empty() && name.as_bytes().starts_with(typed);
        let with_prefix = |wanted: &dyn Fn(&str) -> bool| -> Vec<&Opt> {
            self.options.iter().filter(|o| o.names().any(|n| starts(n) && wanted(n))).collect()
        };
        let known_of_old = with_prefix(&is_old);
        if let (Some(option), []) = (exact, &known_of_old[..]) {
            return Ok(Some(option));
        }
        let all = with_prefix(&|_| true);
        match (&known_of_old[..], &all[..]) {
            ([one], _) | (_, [one]) => Ok(Some(one)),
            (_, []) => Ok(None),
            _ => Err(all
                .iter()
                .flat_map(|option| option.names().filter(|name| starts(name)))
                .map(str::to_owned)
                .collect()),
        }
    }

    /// Rewrites arguments (without the program's name) to the form that clap parses.
    ///
    /// # Errors
    /// Fails for an unknown or ambiguous option, or one with a missing or unexpected value.
    pub(crate) fn normalise(&self, args: &[OsString]) -> Result<Vec<OsString>, GetoptError> {
        let mut options = Vec::new();
        let mut words = Vec::new();
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            match arg.as_bytes() {
                b"--" => {
                    words.extend(rest.by_ref().cloned());
                    break;
                }
                [b'-', b'-', name @ ..] => {
                    let typed = printable(arg);
                    let Some(()) = self.long(name, &typed, &mut rest, &mut options)? else {
                        return Err(self.unrecognized(&typed));
                    };
                }
                [b'-', name @ ..] if !name.is_empty() => {
                    self.single_dash(name, arg, &mut rest, &mut options)?;
                }
                _ => words.push(arg.clone()),
            }
        }
        if !words.is_empty() {
            options.push("--".into());
            options.append(&mut words);
        }
        Ok(options)
    }

    /// Returns the arguments without the unwanted options and their values, otherwise as typed.
    pub(crate) fn without(&self, args: &[OsString], unwanted: &[&str]) -> Vec<OsString> {
        let mut kept = Vec::new();
        self.each(args, &mut |typed, read| {
            if !read.iter().any(|word| unwanted.contains(&long_name(word).as_str())) {
                kept.extend_from_slice(typed);
            }
        });
        kept
    }

    /// Returns how the user spelled an option that was given by one of its letters or names: `-t`
    /// for `--formats`. Returns `None` if the option is absent or was given by a prefix.
    pub(crate) fn spelled(&self, args: &[OsString], long: &str) -> Option<String> {
        let option = self.options.iter().find(|option| option.long == long)?;
        let mut spelled = None;
        self.each(args, &mut |typed, read| {
            if !read.iter().any(|word| long_name(word) == long) {
                return;
            }
            let word = before_equals(&printable(&typed[0]));
            let name = word.trim_start_matches('-');
            let letter = option.letters.iter().find(|letter| name.contains(**letter));
            spelled = match letter {
                _ if option.names().any(|other| other == name) => Some(word),
                Some(letter) if !word.starts_with("--") => Some(format!("-{letter}")),
                _ => None,
            };
        });
        spelled
    }

    /// Reads the arguments option by option. Calls `take` with the words of an option as typed, and
    /// with the normalised words that were read from them; there are none for words that are not
    /// options.
    fn each(&self, args: &[OsString], take: &mut dyn FnMut(&[OsString], &[OsString])) {
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let before = args.len() - rest.as_slice().len() - 1;
            let mut read = Vec::new();
            // Errors are ignored here; `normalise` reports them.
            let _ = match arg.as_bytes() {
                b"--" => return take(&args[before..], &[]),
                [b'-', b'-', name @ ..] => {
                    self.long(name, &printable(arg), &mut rest, &mut read).map(drop)
                }
                [b'-', name @ ..] if !name.is_empty() => {
                    self.single_dash(name, arg, &mut rest, &mut read)
                }
                _ => Ok(()),
            };
            take(&args[before..args.len() - rest.as_slice().len()], &read);
        }
    }

    /// Reads an argument with one dash: as a lone letter, else as a long name if the syntax permits
    /// that, else as a group of letters.
    fn single_dash<'a>(
        &self,
        name: &[u8],
        arg: &OsStr,
        rest: &mut impl Iterator<Item = &'a OsString>,
        out: &mut Vec<OsString>,
    ) -> Result<(), GetoptError> {
        let lone_letter = name.len() == 1 && self.by_letter(name[0]).is_some();
        let may_be_long = self.syntax == Syntax::LongOnly && !lone_letter;
        if may_be_long && self.long(name, &printable(arg), rest, out)?.is_some() {
            return Ok(());
        }
        let mut letters = name;
        while let [letter, tail @ ..] = letters {
            let Some(option) = self.by_letter(*letter) else {
                let whole = out.is_empty() && letters.len() == name.len() && name.len() > 1;
                return Err(if whole && self.syntax == Syntax::LongOnly {
                    self.unrecognized(&printable(arg))
                } else {
                    GetoptError::InvalidLetter(char::from(*letter))
                });
            };
            letters = tail;
            if option.takes != Takes::Value {
                out.push(match option.long.as_str() {
                    // For `-h`, unlike `--help`, clap prints the short help.
                    HELP => "-h".into(),
                    long => format!("--{long}").into(),
                });
                continue;
            }
            let value = if tail.is_empty() {
                let missing = || GetoptError::MissingValue(format!("-{}", char::from(*letter)));
                rest.next().ok_or_else(missing)?.as_bytes()
            } else {
                tail
            };
            out.push(joined(&option.long, value));
            break;
        }
        Ok(())
    }

    /// Reads a long name, with or without `=value`. Returns `None` if no option has this name.
    fn long<'a>(
        &self,
        name: &[u8],
        typed: &str,
        rest: &mut impl Iterator<Item = &'a OsString>,
        out: &mut Vec<OsString>,
    ) -> Result<Option<()>, GetoptError> {
        let (name, value) = match name.iter().position(|byte| *byte == b'=') {
            Some(at) => (&name[..at], Some(&name[at + 1..])),
            None => (name, None),
        };
        let ambiguous =
            |candidates| GetoptError::Ambiguous { typed: before_equals(typed), candidates };
        let Some(option) = self.by_name(name).map_err(ambiguous)? else { return Ok(None) };
        let full = format!("--{}", option.long);
        out.push(match (option.takes, value) {
            (Takes::Nothing, None) | (Takes::OptionalValue, None) => full.into(),
            (Takes::Nothing, Some(_)) => return Err(GetoptError::UnexpectedValue(full)),
            (_, Some(value)) => joined(&option.long, value),
            (Takes::Value, None) => {
                let value = rest.next().ok_or(GetoptError::MissingValue(full))?;
                joined(&option.long, value.as_bytes())
            }
        });
        Ok(Some(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        let command = Command::new("t").disable_help_flag(true).args([
            Arg::new("name").long("name").short_alias('o'),
            Arg::new("network").long("network").action(ArgAction::SetTrue),
            Arg::new("verbose").long("verbose").short('v').action(ArgAction::SetTrue),
            Arg::new("trace").long("trace").short('x').action(ArgAction::Count),
            Arg::new("drive").long("drive"),
            Arg::new("drive-format").long("drive-format"),
            Arg::new("colours").long("colours").alias("colors").action(ArgAction::SetTrue),
            Arg::new("image-cache").long("image-cache"),
            Arg::new("image-size").long("image-size"),
            Arg::new("base").long("base-path").short('B'),
            Arg::new("mr").long("machine-readable").require_equals(true).num_args(0..=1),
        ]);
        Options::of(&command, Syntax::LongOnly)
    }

    #[track_caller]
    fn check(typed: &str, expected: &str) {
        let args: Vec<OsString> = typed.split_whitespace().map(OsString::from).collect();
        let answer = match options().normalise(&args) {
            Ok(words) => words.iter().map(|w| printable(w)).collect::<Vec<_>>().join(" "),
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(answer, expected, "for `{typed}`");
    }

    #[test]
    fn options_and_elements_mix() {
        check("deb --name x vm -v", "--name=x --verbose -- deb vm");
        check("a -- --name -v", "-- a --name -v");
        check("- a", "-- - a");
        check("", "");
    }

    #[test]
    fn one_dash_and_prefixes() {
        check("-name x", "--name=x");
        check("-name=x", "--name=x");
        check("--net", "--network");
        check("-net a", "--network -- a");
        check("--colo", "--colours");
        check("--nam x", "--name=x");
    }

    #[test]
    fn letters() {
        check("-vx", "--verbose --trace");
        check("-xx", "--trace --trace");
        check("-B/lib", "--base-path=/lib");
        check("-B /lib", "--base-path=/lib");
        check("-vB /lib a", "--verbose --base-path=/lib -- a");
        check("-o img", "--name=img");
    }

    #[test]
    fn prefixes_of_old_options_keep_their_meaning() {
        check("--image /c", "--image-cache=/c");
        check("--image-s 3", "--image-size=3");
        check(
            "--driv x",
            "error: option '--driv' is ambiguous; possibilities: '--drive' '--drive-format'",
        );
    }

    #[test]
    fn optional_values_need_an_equals_sign() {
        check("--machine-readable a", "--machine-readable -- a");
        check("--machine-readable=fd:3 a", "--machine-readable=fd:3 -- a");
    }

    #[test]
    fn errors_read_as_getopt_says_them() {
        check("--bogus", "error: unrecognized option '--bogus'");
        check("-bogus=1", "error: unrecognized option '-bogus'");
        check("-vz", "error: invalid option -- 'z'");
        check("--name", "error: option '--name' requires an argument");
        check("-B", "error: option '-B' requires an argument");
        check("--verbose=1", "error: option '--verbose' doesn't allow an argument");
    }

    #[test]
    fn an_empty_value_stays_a_value() {
        let args = ["--name", ""].map(OsString::from);
        assert_eq!(options().normalise(&args), Ok(vec!["--name=".into()]));
    }

    /// What disk-image-create's own getopt makes of a line.
    #[track_caller]
    fn check_long(typed: &str, expected: &str) {
        let command = Command::new("t").disable_help_flag(true).args([
            Arg::new("name").long("name").short('o'),
            Arg::new("skip-base").long("skip-base").short('n').action(ArgAction::SetTrue),
            Arg::new("no-cache").long("no-cache").action(ArgAction::SetTrue),
            Arg::new("no-tmpfs").long("no-tmpfs").action(ArgAction::SetTrue),
            Arg::new("ramdisk").long("ramdisk").action(ArgAction::SetTrue),
            Arg::new("ramdisk-element").long("ramdisk-element"),
            Arg::new("mkfs-options").long("mkfs-options"),
            Arg::new("mkfs-journal-size").long("mkfs-journal-size"),
            Arg::new("image-cache").long("image-cache"),
            Arg::new("image-size").long("image-size"),
        ]);
        let args: Vec<OsString> = typed.split_whitespace().map(OsString::from).collect();
        let answer = match Options::of(&command, Syntax::Long).normalise(&args) {
            Ok(words) => words.iter().map(|w| printable(w)).collect::<Vec<_>>().join(" "),
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(answer, expected, "for `{typed}`");
    }

    #[test]
    fn disk_image_creates_dashes_and_prefixes() {
        check_long("-no img", "--skip-base --name=img");
        check_long("-oimg", "--name=img");
        check_long("-name", "error: invalid option -- 'a'");
        check_long("--no", "--no-tmpfs");
        check_long("--no-c", "--no-cache");
        check_long("--ramdisk x", "--ramdisk-element=x");
        check_long("--mkfs -K", "--mkfs-options=-K");
        check_long("--mkfs-journal-size 8", "--mkfs-journal-size=8");
        let both =
            "error: option '--image' is ambiguous; possibilities: '--image-cache' '--image-size'";
        check_long("--image 3", both);
    }

    #[test]
    fn how_an_option_was_spelled() {
        let spelled = |line: &str, long: &str| {
            let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            options().spelled(&args, long)
        };
        assert_eq!(spelled("-vo x", "name").as_deref(), Some("-o"));
        assert_eq!(spelled("--name=x", "name").as_deref(), Some("--name"));
        assert_eq!(spelled("--colors", "colours").as_deref(), Some("--colors"));
        assert_eq!(spelled("--nam x", "name"), None);
        assert_eq!(spelled("-- -o x", "name"), None);
    }
}
