//! Determines the mirror: the one that the host's apt uses, read from its configuration when a
//! build needs the network, or the one that the user names. No mirror is built into the program.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{apt_conf, deb822, keys::Role};

/// The directory of the host's apt configuration.
const APT_DIR: &str = "/etc/apt";
/// The path of the main archive, relative to a mirror's root.
const MAIN_PATH: &str = "debian";
/// The path of the security archive, relative to a mirror's root.
const SECURITY_PATH: &str = "debian-security";

/// An error while determining the mirror.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The host's configuration does not name a Debian archive.
    #[error("the apt sources below `{}` name no Debian archive over http or https", dir.display())]
    NoneFound {
        /// The directory.
        dir: PathBuf,
    },
    /// The given mirror is not an http URL.
    #[error("`{url}` is not an http or https URL of a mirror")]
    BadUrl {
        /// The given text.
        url: String,
    },
    /// A source list cannot be read.
    #[error("cannot read `{}`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The root URLs of the two archives, without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The main archive, which contains `dists/RELEASE`.
    pub main: String,
    /// The security archive, which contains `dists/RELEASE-security`.
    pub security: String,
}

/// A suite of the release, with its archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suite {
    /// The code name, such as `bookworm-security`.
    pub name: String,
    /// The root URL of its archive.
    pub archive: String,
    /// The role of the keys that may sign it.
    pub role: Role,
}

impl Mirror {
    /// Returns the mirror at a URL, which is the mirror's root, below which both archives are, or
    /// the URL of one of its archives.
    ///
    /// # Errors
    /// Fails if it is not an http or https URL.
    pub fn from_url(url: &str) -> Result<Self, MirrorError> {
        let root = url.trim_end_matches('/');
        if !is_http(root) {
            return Err(MirrorError::BadUrl { url: url.to_owned() });
        }
        let root = match root.rsplit_once('/') {
            Some((parent, MAIN_PATH | SECURITY_PATH)) => parent,
            _ => root,
        };
        Ok(Self {
            main: format!("{root}/{MAIN_PATH}"),
            security: format!("{root}/{SECURITY_PATH}"),
        })
    }

    /// Returns the mirror in the host's apt sources.
    ///
    /// # Errors
    /// Fails if a source list cannot be read, or if none of the sources is a Debian archive.
    pub fn from_host() -> Result<Self, MirrorError> {
        Self::from_apt(Path::new(APT_DIR))
    }

    /// Returns the mirror in the sources of a directory laid out like `/etc/apt`.
    ///
    /// # Errors
    /// Fails if a source list cannot be read, or if none of the sources is a Debian archive.
    pub fn from_apt(dir: &Path) -> Result<Self, MirrorError> {
        let uris = source_uris(dir)?;
        let ends = |path: &str| {
            uris.iter()
                .map(|uri| uri.trim_end_matches('/'))
                .find(|uri| uri.rsplit('/').next() == Some(path))
                .map(str::to_owned)
        };
        let (main, security) = (ends(MAIN_PATH), ends(SECURITY_PATH));
        let beside = |archive: &str, path: &str| {
            archive.rsplit_once('/').map(|(parent, _)| format!("{parent}/{path}"))
        };
        let main = main.or_else(|| beside(security.as_deref()?, MAIN_PATH));
        let security = security.or_else(|| beside(main.as_deref()?, SECURITY_PATH));
        match (main, security) {
            (Some(main), Some(security)) => Ok(Self { main, security }),
            _ => Err(MirrorError::NoneFound { dir: dir.to_owned() }),
        }
    }

    /// Returns the suites of a release.
    #[must_use]
    pub fn suites(&self, release: &str) -> Vec<Suite> {
        let suite =
            |name: String, archive: &str, role| Suite { name, archive: archive.to_owned(), role };
        vec![
            suite(release.to_owned(), &self.main, Role::Archive),
            suite(format!("{release}-updates"), &self.main, Role::Archive),
            suite(format!("{release}-security"), &self.security, Role::Security),
        ]
    }
}

fn is_http(uri: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| {
        uri.strip_prefix(scheme).is_some_and(|rest| {
            !rest.starts_with('/') && !rest.is_empty() && !rest.contains(char::is_whitespace)
        })
    })
}

/// Returns the http and https URIs of all enabled binary sources in apt's order: `sources.list`,
/// then `sources.list.d` by name.
fn source_uris(dir: &Path) -> Result<Vec<String>, MirrorError> {
    let mut files = vec![dir.join("sources.list")];
    if let Ok(entries) = fs::read_dir(dir.join("sources.list.d")) {
        let mut more: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        more.sort();
        files.extend(more);
    }
    let mut uris = Vec::new();
    for file in files {
        let extension = file.extension().and_then(|extension| extension.to_str());
        let parse = match extension {
            Some("list") => parse_list,
            Some("sources") => parse_sources,
            _ => continue,
        };
        let text = match fs::read(&file) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(MirrorError::Unreadable { path: file, source }),
        };
        uris.extend(parse(&text));
    }
    Ok(uris.into_iter().flat_map(|uri| expand(dir, uri)).filter(|uri| is_http(uri)).collect())
}

/// Expands `mirror+file:/etc/apt/mirrors/debian.list`, which Debian's cloud images use to name a
/// file of URIs. Other URIs are unchanged.
fn expand(apt_dir: &Path, uri: String) -> Vec<String> {
    let Some(path) = uri.strip_prefix("mirror+file:") else { return vec![uri] };
    let path = Path::new("/").join(path.trim_start_matches('/'));
    // If the apt directory is another one than the host's, the path is in that directory.
    let path = match path.strip_prefix(APT_DIR) {
        Ok(rest) => apt_dir.join(rest),
        Err(_) => path,
    };
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_ascii_whitespace().next())
        .filter(|word| !word.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

/// Parses the one-line style: `deb [options] URI suite component…`.
fn parse_list(text: &str) -> Vec<String> {
    let mut uris = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t', '[']))
        else {
            continue;
        };
        let rest = rest.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
            None => rest,
        };
        uris.extend(rest.split_ascii_whitespace().next().map(str::to_owned));
    }
    uris
}

/// Parses the deb822 style: paragraphs with `Types`, `URIs` and optionally `Enabled`.
fn parse_sources(text: &str) -> Vec<String> {
    let mut reader = deb822::Reader::new(text.as_bytes());
    let mut uris = Vec::new();
    // Stops at a malformed paragraph, where apt would refuse the file; the sources before it are
    // still usable.
    while let Ok(Some(paragraph)) = reader.next_paragraph() {
        let words = |name: &str| paragraph.get(name).unwrap_or_default().split_ascii_whitespace();
        let enabled = paragraph.get("Enabled").is_none_or(|value| !apt_conf::is_false(value));
        if enabled && words("Types").any(|kind| kind == "deb") {
            uris.extend(words("URIs").map(str::to_owned));
        }
    }
    uris
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apt_dir(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("vbuild-mirror-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        for (path, text) in files {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn deb822_sources() {
        let dir = apt_dir(
            "deb822",
            &[
                (
                    "sources.list.d/a.sources",
                    "Enabled: no\nTypes: deb\nURIs: http://off.test/debian\n\nTypes: deb-src\nURIs: http://src.test/debian\n",
                ),
                (
                    "sources.list.d/debian.sources",
                    "Types: deb deb-src\nURIs: http://one.test/debian/\nSuites: bookworm\n\nTypes: deb\nURIs: https://two.test/debian-security\n",
                ),
            ],
        );
        let mirror = Mirror::from_apt(&dir).unwrap();
        assert_eq!(mirror.main, "http://one.test/debian");
        assert_eq!(mirror.security, "https://two.test/debian-security");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn one_line_sources_and_the_sibling_archive() {
        let dir = apt_dir(
            "list",
            &[(
                "sources.list",
                "# deb http://no.test/debian x\ndeb-src http://src.test/debian x main\ndeb [arch=amd64 signed-by=/k] http://one.test/debian bookworm main # end\n",
            )],
        );
        let mirror = Mirror::from_apt(&dir).unwrap();
        assert_eq!(mirror.main, "http://one.test/debian");
        assert_eq!(mirror.security, "http://one.test/debian-security");
        let suites = mirror.suites("bookworm");
        assert_eq!(suites[2].name, "bookworm-security");
        assert_eq!(suites[2].archive, "http://one.test/debian-security");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn mirror_lists_of_cloud_images() {
        let dir = apt_dir(
            "cloud",
            &[
                (
                    "sources.list.d/debian.sources",
                    "Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\n",
                ),
                ("mirrors/debian.list", "https://one.test/debian\n"),
            ],
        );
        assert_eq!(Mirror::from_apt(&dir).unwrap().main, "https://one.test/debian");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn no_debian_source() {
        let dir = apt_dir(
            "none",
            &[(
                "sources.list",
                "deb cdrom:[x]/ bookworm main\ndeb http://a.test/ubuntu noble main\n",
            )],
        );
        let error = Mirror::from_apt(&dir).unwrap_err();
        assert!(matches!(error, MirrorError::NoneFound { .. }), "{error}");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_given_url() {
        for url in [
            "http://m.test",
            "http://m.test/",
            "http://m.test/debian",
            "http://m.test/debian-security/",
        ] {
            let mirror = Mirror::from_url(url).unwrap();
            assert_eq!(mirror.main, "http://m.test/debian", "{url}");
            assert_eq!(mirror.security, "http://m.test/debian-security", "{url}");
        }
        for url in ["m.test", "ftp://m.test", "http://", "/srv/mirror", "http://a b"] {
            assert!(Mirror::from_url(url).is_err(), "{url}");
        }
    }
}
