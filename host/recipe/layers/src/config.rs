//! `vbuild.yaml`: the declarations of a project. Unknown keys and invalid values are errors with
//! their line.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de};

use crate::base_recipe::{FrontEnd, Recipe};

/// Maximum size in bytes: the limit of ext4 with its usual 4 KiB blocks.
const SIZE_MAX_BYTES: u64 = 16 << 40;
/// Maximum time limit in seconds: one week.
const TIMEOUT_MAX_S: u64 = 7 * 24 * 60 * 60;

/// The content of `vbuild.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The image on which the first layer builds.
    pub base: Option<Base>,
    /// Size in bytes to which the disk and its root filesystem grow.
    #[serde(default, deserialize_with = "size")]
    pub size: Option<u64>,
    /// Which filesystem of the base is the root, if it has several: its partition number,
    /// `GROUP/VOLUME`, or `LABEL=`, `UUID=`, `PARTLABEL=` or `PARTUUID=` with a value.
    #[serde(default, deserialize_with = "root")]
    pub root: Option<String>,
    /// Whether scripts have network access.
    pub network: Option<bool>,
    /// Time limit of a script, in seconds.
    #[serde(default, deserialize_with = "duration")]
    pub timeout: Option<u32>,
    /// Time limits of individual layers, in seconds, by name.
    #[serde(default, deserialize_with = "durations")]
    pub timeouts: BTreeMap<String, u32>,
    /// Debian packages that modify-disk scripts need in the appliance.
    #[serde(default)]
    pub packages: Vec<String>,
}

/// The base image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// An image file: qcow2, raw or vmdk, possibly compressed. The path is relative to the project.
    Image {
        /// The file.
        path: String,
        /// Its digest, if it is to be verified.
        digest: Option<String>,
    },
    /// An image that is downloaded once.
    Url {
        /// Its URL: http or https.
        url: String,
        /// `sha256:…` or `sha512:…` of the file as downloaded.
        digest: String,
    },
    /// The output of another build of vbuild.
    Recipe(Recipe),
}

/// The base as written in YAML.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BaseText {
    image: Option<String>,
    url: Option<String>,
    sha256: Option<String>,
    sha512: Option<String>,
    recipe: Option<String>,
    #[serde(default)]
    arguments: Vec<String>,
}

impl<'de> Deserialize<'de> for Base {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = BaseText::deserialize(from)?;
        let digest = match (text.sha256, text.sha512) {
            (Some(_), Some(_)) => {
                return Err(de::Error::custom("one of sha256 and sha512 is enough"));
            }
            (Some(hex), None) => Some(checked("sha256", &hex, 64).map_err(de::Error::custom)?),
            (None, Some(hex)) => Some(checked("sha512", &hex, 128).map_err(de::Error::custom)?),
            (None, None) => None,
        };
        if text.recipe.is_none() && !text.arguments.is_empty() {
            return Err(de::Error::custom("`arguments` are for a `recipe`"));
        }
        match (text.image, text.url, text.recipe) {
            (Some(path), None, None) => Ok(Self::Image { path, digest }),
            (None, Some(url), None) => {
                if !url.starts_with("https://") && !url.starts_with("http://") {
                    return Err(de::Error::custom("a base's url begins with http:// or https://"));
                }
                let digest = digest.ok_or_else(|| {
                    de::Error::custom("a base from a url needs its `sha256` or `sha512`")
                })?;
                Ok(Self::Url { url, digest })
            }
            (None, None, Some(front_end)) => {
                if digest.is_some() {
                    return Err(de::Error::custom(
                        "the result of a recipe has no digest beforehand",
                    ));
                }
                let recipe = FrontEnd::parse(&front_end)
                    .and_then(|front_end| Recipe::parse(front_end, text.arguments));
                recipe.map(Self::Recipe).map_err(de::Error::custom)
            }
            _ => Err(de::Error::custom("a base has exactly one of `image`, `url` and `recipe`")),
        }
    }
}

impl FromStr for Base {
    type Err = String;

    /// Parses the value of `--base`: a file, or a URL with `#sha256=…`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (place, digest) = match text.rsplit_once('#') {
            Some((place, digest)) => match digest.split_once('=') {
                Some(("sha256", hex)) => (place, Some(checked("sha256", hex, 64)?)),
                Some(("sha512", hex)) => (place, Some(checked("sha512", hex, 128)?)),
                _ => (text, None),
            },
            None => (text, None),
        };
        if place.starts_with("http://") || place.starts_with("https://") {
            let url = place.to_owned();
            return match digest {
                Some(digest) => Ok(Self::Url { url, digest }),
                None => Err(format!("{text}: a url needs its digest: URL#sha256=HEX")),
            };
        }
        Ok(Self::Image { path: place.to_owned(), digest })
    }
}

fn checked(name: &str, hex: &str, digits: usize) -> Result<String, String> {
    if hex.len() == digits && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(format!("{name}:{}", hex.to_ascii_lowercase()))
    } else {
        Err(format!("`{hex}` is not a {name}: it has {digits} hexadecimal digits"))
    }
}

/// A scalar in its original spelling, whatever its YAML type.
struct Written(String);

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Written;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number with a unit")
            }
            fn visit_str<E>(self, text: &str) -> Result<Written, E> {
                Ok(Written(text.to_owned()))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Written, E> {
                Ok(Written(number.to_string()))
            }
        }
        from.deserialize_str(Visitor)
    }
}

fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let Written(text) = Written::deserialize(from)?;
    with_unit(&text, &[("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("T", 1 << 40)])
        .filter(|bytes| (1..=SIZE_MAX_BYTES).contains(bytes))
        .map(|bytes| Some(bytes.next_multiple_of(512)))
        .ok_or_else(|| de::Error::custom(format!("`{text}` is not a size, such as 20G or 512M")))
}

/// Kinds of names by which a filesystem can be found.
const ROOT_KINDS: [&str; 4] = ["LABEL", "UUID", "PARTLABEL", "PARTUUID"];

fn root<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let Written(text) = Written::deserialize(from)?;
    parse_root(&text).map(Some).map_err(de::Error::custom)
}

/// Parses the name of a root filesystem, as in `vbuild.yaml` and in `--root`.
///
/// # Errors
/// Fails if the text is not such a name.
pub fn parse_root(text: &str) -> Result<String, String> {
    let good = match text.split_once('=') {
        Some((kind, value)) => ROOT_KINDS.contains(&kind) && !value.is_empty(),
        None => match text.split_once('/') {
            Some((group, volume)) => {
                !group.is_empty() && !volume.is_empty() && !volume.contains('/')
            }
            None => text.parse::<u32>().is_ok_and(|number| number > 0),
        },
    };
    good.then(|| text.to_owned()).ok_or_else(|| {
        format!(
            "`{text}` names no filesystem: it is the number of a partition, GROUP/VOLUME, or \
             LABEL=, UUID=, PARTLABEL= or PARTUUID= and a value"
        )
    })
}

fn seconds<E: de::Error>(text: &str) -> Result<u32, E> {
    with_unit(text, &[("s", 1), ("m", 60), ("h", 60 * 60)])
        .filter(|seconds| (1..=TIMEOUT_MAX_S).contains(seconds))
        .and_then(|seconds| u32::try_from(seconds).ok())
        .ok_or_else(|| de::Error::custom(format!("`{text}` is not a time, such as 90s, 30m or 2h")))
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    seconds(&Written::deserialize(from)?.0).map(Some)
}

fn durations<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, u32>, D::Error> {
    BTreeMap::<String, Written>::deserialize(from)?
        .into_iter()
        .map(|(name, Written(text))| Ok((name, seconds(&text)?)))
        .collect()
}

/// Parses a whole number with one of the given units. The unit is required, because a bare number
/// would be ambiguous.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    units.iter().find_map(|(unit, factor)| {
        let number = text.strip_suffix(unit)?;
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| number.parse::<u64>().ok()?.checked_mul(*factor)).flatten()
    })
}

/// Why a `vbuild.yaml` is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct ConfigError {
    /// The file.
    pub file: String,
    /// The message, with line and excerpt.
    pub problem: String,
}

/// Parses a `vbuild.yaml`.
///
/// # Errors
/// Fails on the first error, with its line.
pub fn parse(file: &str, text: &str) -> Result<Config, ConfigError> {
    let only_comments =
        text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#'));
    if only_comments {
        return Ok(Config::default());
    }
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let text = error.to_string().replace("<input>", file);
        let problem = text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned();
        ConfigError { file: file.to_owned(), problem }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_can_be_said() {
        let text = "base:\n  url: https://example.org/a.qcow2\n  sha256: \
                    e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\nsize: 20G\nroot: 2\n\
                    network: false\ntimeout: 30m\ntimeouts:\n  20_app: 2h\n  30_x: 90s\npackages: [zerofree]\n";
        let config = parse("vbuild.yaml", text).unwrap();
        assert!(
            matches!(&config.base, Some(Base::Url { digest, .. }) if digest.starts_with("sha256:e3b0"))
        );
        assert_eq!(config.size, Some(20 << 30));
        assert_eq!(config.root.as_deref(), Some("2"));
        assert_eq!(parse_root("LABEL=a=b"), Ok("LABEL=a=b".into()));
        assert_eq!(parse_root("vg/root"), Ok("vg/root".into()));
        assert_eq!(config.network, Some(false));
        assert_eq!(config.timeout, Some(1800));
        assert_eq!(config.timeouts["20_app"], 7200);
        assert_eq!(config.timeouts["30_x"], 90);
        assert_eq!(config.packages, ["zerofree"]);
        assert_eq!(parse("f", "# nothing\n\n").unwrap(), Config::default());
        let recipe = parse("f", "base:\n  recipe: vmdb\n  arguments: [a.vmdb]\n").unwrap();
        let expected = Recipe::parse(FrontEnd::Vmdb, vec!["a.vmdb".into()]).unwrap();
        assert_eq!(recipe.base, Some(Base::Recipe(expected)));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let cases = [
            ("size: 20G\nsise: 3\n", "line 2", "sise"),
            ("network: true\nsize: 20\n", "line 2", "not a size"),
            ("network: yes\n", "line 1", "bool"),
            ("\n\ntimeout: soon\n", "line 3", "not a time"),
            ("base:\n  image: a\n  url: http://x/y\n", "line 2", "exactly one"),
            ("base:\n  url: https://x/y\n", "line 2", "needs its"),
            ("base:\n  url: ftp://x/y\n  sha256: aa\n", "line 2", "sha256"),
            ("base:\n  recipe: cargo\n", "line 2", "one of dib"),
            ("base:\n  recipe: dib\n  arguments: [--share, /x, vm]\n", "line 2", "`--share`"),
            ("timeouts:\n  10_a: 0s\n", "line 2", "not a time"),
            ("size: 1G\nsize: 2G\n", "line 2", "size"),
            ("size: 1G\nroot: /dev/sda1\n", "line 2", "filesystem"),
            ("root: NAME=x\n", "line 1", "filesystem"),
        ];
        for (text, line, word) in cases {
            let problem = parse("vbuild.yaml", text).unwrap_err().to_string();
            assert!(problem.starts_with("vbuild.yaml: "), "{problem}");
            assert!(problem.contains(line) && problem.contains(word), "{text:?}: {problem}");
        }
    }

    #[test]
    fn the_option_for_the_base() {
        assert_eq!(
            "dir/a.qcow2".parse(),
            Ok(Base::Image { path: "dir/a.qcow2".into(), digest: None })
        );
        let hex = "ab".repeat(64);
        assert_eq!(
            format!("https://x/y#sha512={hex}").parse(),
            Ok(Base::Url { url: "https://x/y".into(), digest: format!("sha512:{hex}") })
        );
        assert!("https://x/y".parse::<Base>().unwrap_err().contains("needs its digest"));
        assert!("https://x/y#sha256=zz".parse::<Base>().unwrap_err().contains("64"));
    }
}
