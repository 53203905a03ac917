//! `base.recipe` and its `arguments`: a base image that another build of vbuild produces.
//!
//! A project may come from a third party, so its arguments are not a command line. They are parsed
//! into options of a closed list, which only affect *what* is built. Options that control how
//! vbuild runs, what it reads on the host, or where it writes (`--share`, `--drive`, `--logfile`,
//! `--allow-host`, …) are reserved for the user.

use std::path::{Component, Path};

/// A front end that can build a base image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontEnd {
    /// diskimage-builder elements.
    Dib,
    /// A vmdb2 spec.
    Vmdb,
    /// Another project of layer directories.
    Layers,
}

/// Whether an option takes a value, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// No value.
    Nothing,
    /// Any text, which the recipe interprets.
    Text,
    /// `NAME=VALUE`; a bare NAME would pass on a variable of the caller.
    Assignment,
    /// A path below the project.
    Path,
}

/// A permitted option: its long name, its short name if any, and its value.
type Permitted = (&'static str, Option<char>, Takes);

const DIB: &[Permitted] = &[
    ("arch", Some('a'), Takes::Text),
    ("element-path", Some('p'), Takes::Path),
    ("envvar", None, Takes::Assignment),
    ("exclude-element", None, Takes::Text),
    ("exclude-script", None, Takes::Text),
    ("extra-packages", None, Takes::Text),
    ("fs-type", None, Takes::Text),
    ("image-extra-size", None, Takes::Text),
    ("image-size", None, Takes::Text),
    ("install-type", None, Takes::Text),
    ("max-online-resize", None, Takes::Text),
    ("mkfs-journal-size", None, Takes::Text),
    ("mkfs-options", None, Takes::Text),
    ("offline", None, Takes::Nothing),
    ("root-label", None, Takes::Text),
    ("size", None, Takes::Text),
    ("skip-base", Some('n'), Takes::Nothing),
    ("trace", Some('x'), Takes::Nothing),
];

const VMDB: &[Permitted] =
    &[("lenient", None, Takes::Nothing), ("variable", None, Takes::Assignment)];

const LAYERS: &[Permitted] =
    &[("last", None, Takes::Text), ("root", None, Takes::Text), ("size", None, Takes::Text)];

/// How the base image is built: a front end, permitted options, and operands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The front end.
    pub front_end: FrontEnd,
    /// Options by long name, with their values.
    options: Vec<(&'static str, Option<String>)>,
    /// Elements, or the path of one spec or project below the project.
    operands: Vec<String>,
}

impl FrontEnd {
    /// Parses the name of a front end.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        match name {
            "dib" => Ok(Self::Dib),
            "vmdb" => Ok(Self::Vmdb),
            "layers" => Ok(Self::Layers),
            _ => Err("a base's recipe is one of dib, vmdb and layers".to_owned()),
        }
    }

    /// The name of the front end.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dib => "dib",
            Self::Vmdb => "vmdb",
            Self::Layers => "layers",
        }
    }

    fn permitted(self) -> &'static [Permitted] {
        match self {
            Self::Dib => DIB,
            Self::Vmdb => VMDB,
            Self::Layers => LAYERS,
        }
    }
}

impl Recipe {
    /// Parses the arguments of a recipe.
    pub(crate) fn parse(front_end: FrontEnd, arguments: Vec<String>) -> Result<Self, String> {
        let mut recipe = Self { front_end, options: Vec::new(), operands: Vec::new() };
        let mut words = arguments.into_iter();
        while let Some(word) = words.next() {
            let Some(option) = word.strip_prefix('-').filter(|option| !option.is_empty()) else {
                recipe.operands.push(recipe.operand(word)?);
                continue;
            };
            let (name, mut value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (option, None),
            };
            let (long, takes) = recipe.find(name)?;
            if takes != Takes::Nothing && value.is_none() {
                value = words.next();
            }
            check(long, takes, value.as_deref())?;
            recipe.options.push((long, value));
        }
        if front_end != FrontEnd::Dib && recipe.operands.len() > 1 {
            return Err(format!("`arguments` of {} name one thing to build", front_end.name()));
        }
        Ok(recipe)
    }

    /// The command line that builds it, without the program and the output. Its only options are
    /// the permitted ones.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let option = |(name, value): &(&str, Option<String>)| match value {
            Some(value) => format!("--{name}={value}"),
            None => format!("--{name}"),
        };
        self.options.iter().map(option).chain(self.operands.iter().cloned()).collect()
    }

    fn find(&self, name: &str) -> Result<(&'static str, Takes), String> {
        let permitted = self.front_end.permitted();
        let is = |(long, letter, _): &&Permitted| match name.strip_prefix('-') {
            Some(name) => *long == name,
            None => letter.is_some_and(|letter| name.chars().eq([letter])),
        };
        permitted.iter().find(is).map(|(long, _, takes)| (*long, *takes)).ok_or_else(|| {
            let names: Vec<String> =
                permitted.iter().map(|(long, ..)| format!("--{long}")).collect();
            let list = names.join(", ");
            let short: String = name.chars().take(OPTION_SHOWN_CHARS).collect();
            format!(
                "`-{}` is not an option that a project may give to the recipe {}; there are {list}. \
                 Build the base with it by hand and name the image: `base: {{image: FILE}}`",
                short.escape_default(),
                self.front_end.name(),
            )
        })
    }

    fn operand(&self, word: String) -> Result<String, String> {
        match self.front_end {
            FrontEnd::Dib => {
                let fine = |b: u8| b.is_ascii_alphanumeric() || b"-_.+".contains(&b);
                let first = word.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
                if first && word.bytes().all(fine) {
                    return Ok(word);
                }
                Err(format!("`{}` is not a name of an element", word.escape_default()))
            }
            FrontEnd::Vmdb | FrontEnd::Layers => check("", Takes::Path, Some(&word)).map(|()| word),
        }
    }
}

/// How many characters of a refused option its message shows.
const OPTION_SHOWN_CHARS: usize = 40;

fn check(option: &str, takes: Takes, value: Option<&str>) -> Result<(), String> {
    match (takes, value) {
        (Takes::Nothing, None) | (Takes::Text, Some(_)) => Ok(()),
        (Takes::Nothing, Some(_)) => Err(format!("--{option} has no value")),
        (_, None) => Err(format!("--{option} needs a value")),
        (Takes::Assignment, Some(value)) if value.contains('=') => Ok(()),
        (Takes::Assignment, Some(value)) => Err(format!(
            "--{option} {}: a project gives NAME=VALUE, it cannot read variables of the caller",
            value.escape_default()
        )),
        (Takes::Path, Some(value)) => {
            let below = |part| matches!(part, Component::Normal(_) | Component::CurDir);
            let path = Path::new(value);
            if !value.is_empty() && !value.starts_with('-') && path.components().all(below) {
                return Ok(());
            }
            Err(format!("`{}` is not a path below the project", value.escape_default()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(front_end: FrontEnd, line: &str) -> Result<Vec<String>, String> {
        let words = line.split_whitespace().map(str::to_owned).collect();
        Recipe::parse(front_end, words).map(|recipe| recipe.words())
    }

    #[test]
    fn what_is_built_may_be_said() {
        let line = "-a arm64 --size=2G -p elements --envvar DIB_RELEASE=sid -n debian-minimal vm";
        let expected = "--arch=arm64 --size=2G --element-path=elements --envvar=DIB_RELEASE=sid \
                        --skip-base debian-minimal vm";
        assert_eq!(parse(FrontEnd::Dib, line).unwrap().join(" "), expected);
        let line = parse(FrontEnd::Vmdb, "specs/a.vmdb --variable a=b").unwrap();
        assert_eq!(line, ["--variable=a=b", "specs/a.vmdb"]);
        assert_eq!(parse(FrontEnd::Layers, "--last 10_a other").unwrap(), ["--last=10_a", "other"]);
        // The word after an option with a value is its value, whatever it looks like.
        let line = parse(FrontEnd::Dib, "--root-label --logfile vm").unwrap();
        assert_eq!(line, ["--root-label=--logfile", "vm"]);
    }

    #[test]
    fn how_it_is_built_is_the_users_word_alone() {
        let options = "--share /h/.ssh:/x|--share=/h/.ssh|--drive d.img|--logfile /h/.bashrc|\
                       --machine-readable=file:/h/x|--allow-host 127.0.0.1|--allow-private|\
                       --cache-dir /c|-o x|--name x|--formats raw|-t raw|--base-path /lib|-B /lib|\
                       --ca-bundle host|--remote-cache /r|--remote-unsigned|--debug-shell after-root|\
                       --on-failure shell|--accel kvm|--mirror http://x|--no-cache|--siz 2G|-size 2G|\
                       --appliance-package x|--image-cache /x|--timeout 1|--|-np x|--network";
        for option in options.split('|') {
            let error = parse(FrontEnd::Dib, &format!("{option} vm")).unwrap_err();
            let name = option.split(['=', ' ']).next().unwrap();
            assert!(error.contains(name) && error.contains("by hand"), "{option}: {error}");
        }
        for (front_end, line) in [
            (FrontEnd::Vmdb, "a.vmdb --output /h/x"),
            (FrontEnd::Vmdb, "a.vmdb --image /h/x"),
            (FrontEnd::Vmdb, "a.vmdb --rootfs-tarball /h/x"),
            (FrontEnd::Vmdb, "a.vmdb --log /h/x"),
            (FrontEnd::Vmdb, "/h/a.vmdb"),
            (FrontEnd::Vmdb, "a.vmdb b.vmdb"),
            (FrontEnd::Layers, "../other"),
            (FrontEnd::Layers, "--base /h/x.img"),
            (FrontEnd::Dib, "-p /h vm"),
            (FrontEnd::Dib, "-p ../.. vm"),
            (FrontEnd::Dib, "--element-path=../.. vm"),
            (FrontEnd::Dib, "../../h/.ssh"),
            (FrontEnd::Dib, ".ssh"),
            (FrontEnd::Dib, "--envvar AWS_SECRET_ACCESS_KEY vm"),
            (FrontEnd::Dib, "--size"),
        ] {
            assert!(parse(front_end, line).is_err(), "{line}");
        }
    }
}
