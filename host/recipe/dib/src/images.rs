//! The file of several images that the `diskimage-builder` command takes: a list
//! of definitions, each of which becomes arguments of disk-image-create.
//!
//! Definitions of one image are merged: lists grow, mappings are updated, other
//! values are replaced. A definition without a name belongs to the one before.

use crate::yaml::Value;

/// One image of the file, as a command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageRequest {
    /// Its name.
    pub name: String,
    /// Whether it is a ramdisk: what `ramdisk-image-create` is for.
    pub ramdisk: bool,
    /// Arguments of disk-image-create, elements last.
    pub arguments: Vec<String>,
    /// Variables.
    pub environment: Vec<(String, String)>,
}

/// What is wrong with a file of images.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImagesError {
    /// Not YAML.
    #[error("the image definitions are not YAML: {0}")]
    Yaml(String),
    /// Not a list of mappings.
    #[error("image definitions must be a list of mappings, found {0}")]
    NotAList(String),
    /// A key that does not exist.
    #[error("image definition {number}: unknown key `{key}`")]
    UnknownKey {
        /// Which definition, counted from 1 over all files.
        number: usize,
        /// The key.
        key: String,
    },
    /// A value of the wrong kind.
    #[error("image definition {number}: `{key}` must be {expected}, found {found}")]
    BadValue {
        /// Which definition, counted from 1 over all files.
        number: usize,
        /// The key.
        key: String,
        /// What would be right.
        expected: String,
        /// What stands there.
        found: String,
    },
}

/// What a key takes and which arguments it gives.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Text after an option; empty text gives nothing.
    Text,
    /// One of these texts after an option.
    OneOf(&'static [&'static str]),
    /// A number of at least 1 after an option.
    Number,
    /// An option, when true.
    Flag,
    /// True or false, without an argument.
    Silent,
    /// An option so many times, this often at most.
    Repeated(i64),
    /// Texts with commas between them after an option.
    List,
    /// The same, of these texts.
    ListOf(&'static [&'static str]),
    /// `a=b,c=d` after an option.
    Pairs,
    /// Variables.
    Environment,
    /// Texts that follow the options.
    Positional,
}

const ARCHITECTURES: &[&str] = &[
    "aarch64", "amd64", "arm64", "armhf", "powerpc", "ppc64", "ppc64el", "ppc64le", "s390x",
    "x86_64",
];
const TYPES: &[&str] = &["qcow2", "tar", "tgz", "squashfs", "vhd", "docker", "aci", "raw"];

/// The keys in the order in which their arguments are given.
const KEYS: &[(&str, &str, Kind)] = &[
    ("imagename", "-o", Kind::Text),
    ("arch", "-a", Kind::OneOf(ARCHITECTURES)),
    ("types", "-t", Kind::ListOf(TYPES)),
    ("environment", "", Kind::Environment),
    ("ramdisk", "", Kind::Silent),
    ("debug-trace", "-x", Kind::Repeated(2)),
    ("uncompressed", "-u", Kind::Flag),
    ("clear", "-c", Kind::Flag),
    ("logfile", "--logfile", Kind::Text),
    ("checksum", "--checksum", Kind::Flag),
    ("image-size", "--image-size", Kind::Number),
    ("image-extra-size", "--image-extra-size", Kind::Number),
    ("image-cache", "--image-cache", Kind::Text),
    ("max-online-resize", "--max-online-resize", Kind::Number),
    ("min-tmpfs", "--min-tmpfs", Kind::Number),
    ("mkfs-journal-size", "--mkfs-journal-size", Kind::Number),
    ("mkfs-options", "--mkfs-options", Kind::Text),
    ("no-tmpfs", "--no-tmpfs", Kind::Flag),
    ("offline", "--offline", Kind::Flag),
    ("qemu-img-options", "--qemu-img-options", Kind::Pairs),
    ("root-label", "--root-label", Kind::Text),
    ("ramdisk-element", "--ramdisk-element", Kind::Text),
    ("install-type", "--install-type", Kind::OneOf(&["source", "package"])),
    ("docker-target", "--docker-target", Kind::Text),
    ("packages", "-p", Kind::List),
    ("skip-base", "-n", Kind::Flag),
    ("elements", "", Kind::Positional),
];

/// The name of images before one is given.
const DEFAULT_NAME: &str = "image";

/// Reads the definitions of several files and merges those of one image.
///
/// # Errors
/// The first fault of any definition, before anything is built.
pub fn read_images<'a>(
    texts: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<ImageRequest>, ImagesError> {
    let mut merged: Vec<(String, Vec<(String, Value)>)> = Vec::new();
    let mut name = DEFAULT_NAME.to_owned();
    let mut number = 0;
    for text in texts {
        let definitions = match Value::parse(text) {
            Ok(Value::List(definitions)) => definitions,
            Ok(other) => return Err(ImagesError::NotAList(other.to_string())),
            Err(error) => return Err(ImagesError::Yaml(error.to_string())),
        };
        for definition in definitions {
            number += 1;
            let Value::Map(entries) = definition else {
                return Err(ImagesError::NotAList(definition.to_string()));
            };
            for (key, value) in &entries {
                check(number, key, value)?;
            }
            if let Some((_, value)) = entries.iter().rev().find(|(key, _)| key == "imagename") {
                name = value.text();
            }
            match merged.iter_mut().find(|(known, _)| *known == name) {
                Some((_, old)) => entries.into_iter().for_each(|(k, v)| merge(old, k, v)),
                None => merged.push((name.clone(), entries)),
            }
        }
    }
    Ok(merged.into_iter().map(|(name, entries)| request(name, &entries)).collect())
}

fn merge(entries: &mut Vec<(String, Value)>, key: String, value: Value) {
    let Some((_, old)) = entries.iter_mut().find(|(known, _)| *known == key) else {
        entries.push((key, value));
        return;
    };
    match (old, value) {
        (Value::List(old), Value::List(new)) => old.extend(new),
        (Value::Map(old), Value::Map(new)) => {
            new.into_iter().for_each(|(k, v)| match old.iter_mut().find(|(known, _)| *known == k) {
                Some((_, old)) => *old = v,
                None => old.push((k, v)),
            })
        }
        (old, value) => *old = value,
    }
}

fn kind(key: &str) -> Option<Kind> {
    KEYS.iter().find(|(name, _, _)| *name == key).map(|(_, _, kind)| *kind)
}

fn check(number: usize, key: &str, value: &Value) -> Result<(), ImagesError> {
    let Some(kind) = kind(key) else {
        return Err(ImagesError::UnknownKey { number, key: key.to_owned() });
    };
    let is_text = |value: &Value| matches!(value, Value::Text(_));
    let in_list = |value: &Value, allowed: &[&str]| match value {
        Value::Text(text) => allowed.contains(&text.as_str()),
        _ => false,
    };
    let all =
        |test: &dyn Fn(&Value) -> bool| value.as_list().is_some_and(|items| items.iter().all(test));
    let (right, expected) = match kind {
        Kind::Text => (is_text(value), "text".to_owned()),
        Kind::OneOf(allowed) => (in_list(value, allowed), format!("one of {}", allowed.join(", "))),
        Kind::Number => {
            (matches!(value, Value::Int(1..)), "a whole number of at least 1".to_owned())
        }
        Kind::Flag | Kind::Silent => (truth(value).is_some(), "`true` or `false`".to_owned()),
        Kind::Repeated(most) => (
            matches!(value, Value::Int(count) if (0..=most).contains(count)),
            format!("a whole number from 0 to {most}"),
        ),
        Kind::List | Kind::Positional => (all(&is_text), "a list of texts".to_owned()),
        Kind::ListOf(allowed) => (
            all(&|item| in_list(item, allowed)),
            format!("a list of some of {}", allowed.join(", ")),
        ),
        Kind::Pairs | Kind::Environment => (
            value.as_map().is_some_and(|entries| entries.iter().all(|(_, v)| is_text(v))),
            "a mapping of texts".to_owned(),
        ),
    };
    if right {
        return Ok(());
    }
    Err(ImagesError::BadValue { number, key: key.to_owned(), expected, found: value.to_string() })
}

/// Truth as YAML 1.1 has it, which the original reads.
fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::Text(text) => match text.to_ascii_lowercase().as_str() {
            "yes" | "on" => Some(true),
            "no" | "off" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn request(name: String, entries: &[(String, Value)]) -> ImageRequest {
    let mut request = ImageRequest { name, ..ImageRequest::default() };
    for (key, option, kind) in KEYS {
        if let Some((_, value)) = entries.iter().rev().find(|(known, _)| known == key) {
            add(&mut request, option, *kind, value);
        }
    }
    request
}

fn add(request: &mut ImageRequest, option: &str, kind: Kind, value: &Value) {
    let texts = || value.as_list().unwrap_or_default().iter().map(Value::text).collect::<Vec<_>>();
    let pairs = || {
        let entries = value.as_map().unwrap_or_default();
        entries.iter().map(|(name, value)| (name.clone(), value.text())).collect::<Vec<_>>()
    };
    let argument = match kind {
        Kind::Text | Kind::OneOf(_) | Kind::Number => value.text(),
        Kind::List | Kind::ListOf(_) => texts().join(","),
        Kind::Pairs => {
            let pairs: Vec<String> =
                pairs().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
            pairs.join(",")
        }
        Kind::Flag => {
            if truth(value) == Some(true) {
                request.arguments.push(option.to_owned());
            }
            return;
        }
        Kind::Silent => {
            request.ramdisk = truth(value) == Some(true);
            return;
        }
        Kind::Repeated(_) => {
            let count = if let Value::Int(count) = value { *count } else { 0 };
            request.arguments.extend((0..count).map(|_| option.to_owned()));
            return;
        }
        Kind::Environment => {
            request.environment = pairs();
            return;
        }
        Kind::Positional => {
            request.arguments.extend(texts());
            return;
        }
    };
    if !argument.is_empty() {
        request.arguments.extend([option.to_owned(), argument]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<ImageRequest>, String> {
        read_images([text]).map_err(|error| error.to_string())
    }

    #[test]
    fn definitions_of_one_image_are_merged() {
        let requests = read(
            "
- imagename: centos-minimal
  elements: [centos, vm]
  environment: {foo: bar, zip: zap}
  checksum: true
- elements: [devuser]
  logfile: centos-minimal.log
  checksum: false
- imagename: agent
  ramdisk: true
  elements: [agent-ramdisk]
- imagename: centos-minimal
  environment: {foo: baz, one: two}
",
        )
        .unwrap();
        let environment = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect()
        };
        assert_eq!(
            requests[0].arguments.join(" "),
            "-o centos-minimal --logfile centos-minimal.log centos vm devuser"
        );
        assert_eq!(
            requests[0].environment,
            environment(&[("foo", "baz"), ("zip", "zap"), ("one", "two")])
        );
        assert_eq!(requests[1].arguments.join(" "), "-o agent agent-ramdisk");
        assert!(requests[1].ramdisk && !requests[0].ramdisk);
        assert_eq!(requests.len(), 2);
    }

    #[test]
    fn the_name_is_inherited_over_files() {
        let requests =
            read_images(["- elements: [a]\n- {imagename: x, elements: [b]}", "- elements: [c]"])
                .unwrap();
        let lines: Vec<String> =
            requests.iter().map(|request| request.arguments.join(" ")).collect();
        assert_eq!(lines, ["a", "-o x b c"]);
        assert_eq!(requests[0].name, "image");
    }

    #[test]
    fn every_key() {
        let requests = read(
            "
- imagename: all
  arch: amd64
  types: [qcow2, raw]
  debug-trace: 2
  uncompressed: true
  clear: true
  logfile: ./l.log
  checksum: true
  image-size: 40
  image-extra-size: 1
  image-cache: ~/.cache/dib
  max-online-resize: 1000
  min-tmpfs: 7
  mkfs-journal-size: 1
  mkfs-options: -D
  no-tmpfs: true
  offline: yes
  qemu-img-options: {size: '10', a: b}
  root-label: root
  ramdisk-element: dracut-ramdisk
  install-type: package
  docker-target: everything:latest
  packages: [wget, tmux]
  skip-base: true
  elements: [centos, vm]
",
        )
        .unwrap();
        assert_eq!(
            requests[0].arguments.join(" "),
            "-o all -a amd64 -t qcow2,raw -x -x -u -c --logfile ./l.log --checksum \
             --image-size 40 --image-extra-size 1 --image-cache ~/.cache/dib \
             --max-online-resize 1000 --min-tmpfs 7 --mkfs-journal-size 1 --mkfs-options -D \
             --no-tmpfs --offline --qemu-img-options size=10,a=b --root-label root \
             --ramdisk-element dracut-ramdisk --install-type package \
             --docker-target everything:latest -p wget,tmux -n centos vm"
        );
    }

    #[test]
    fn faults_are_found_before_anything_is_built() {
        let cases = [
            ("a: b", "image definitions must be a list of mappings, found {'a': 'b'}"),
            ("- x", "image definitions must be a list of mappings, found 'x'"),
            ("- {}\n- {size: 1}", "image definition 2: unknown key `size`"),
            (
                "- {image-size: 1.5}",
                "image definition 1: `image-size` must be a whole number of at least 1, found 1.5",
            ),
            (
                "- {debug-trace: 3}",
                "image definition 1: `debug-trace` must be a whole number from 0 to 2, found 3",
            ),
            (
                "- {install-type: x}",
                "image definition 1: `install-type` must be one of source, package, found 'x'",
            ),
            (
                "- {environment: {A: 1}}",
                "image definition 1: `environment` must be a mapping of texts, found {'A': 1}",
            ),
            (
                "- {elements: [1]}",
                "image definition 1: `elements` must be a list of texts, found [1]",
            ),
            (
                "- {offline: maybe}",
                "image definition 1: `offline` must be `true` or `false`, found 'maybe'",
            ),
            ("- {imagename: 7}", "image definition 1: `imagename` must be text, found 7"),
        ];
        for (text, message) in cases {
            assert_eq!(read(text).unwrap_err(), message);
        }
        assert!(read("[").unwrap_err().starts_with("the image definitions are not YAML: "));
        assert!(read("- {types: [qcow3]}").is_err());
    }
}
