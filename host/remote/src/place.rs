//! Places of shared caches, and the options to access them.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::{RemoteError, Secret};

/// The place of a shared cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A bucket of S3, and a prefix of all names in it.
    S3 {
        /// The name of the bucket.
        bucket: String,
        /// The prefix, without slashes at its ends; may be empty.
        prefix: String,
    },
    /// A directory of this host.
    Folder(PathBuf),
    /// A directory of another machine.
    Ssh {
        /// The host as ssh takes it: `host` or `user@host`.
        host: String,
        /// The port, if it is not ssh's default.
        port: Option<u16>,
        /// The absolute path of the directory.
        folder: String,
    },
}

/// Options for the access to a place.
#[derive(Debug, Clone)]
pub struct Options {
    /// The ssh program.
    pub ssh: PathBuf,
    /// The only private key that ssh offers; `None` for the user's default keys.
    pub ssh_key: Option<PathBuf>,
    /// Certificates (PEM) that are trusted in addition to those of the host.
    pub ca_bundle: Option<Vec<u8>>,
    /// The secret with which records must be signed; `None` for unsigned records.
    pub secret: Option<Secret>,
}

impl Default for Options {
    fn default() -> Self {
        Self { ssh: "ssh".into(), ssh_key: None, ca_bundle: None, secret: None }
    }
}

impl FromStr for Place {
    type Err = RemoteError;

    /// Parses `s3://BUCKET/PREFIX`, `ssh://[USER@]HOST[:PORT]/FOLDER`, `file:///FOLDER`, or the
    /// path of a directory.
    fn from_str(text: &str) -> Result<Self, RemoteError> {
        let wrong = |reason: &str| RemoteError::Place { text: text.into(), reason: reason.into() };
        let Some((scheme, rest)) = text.split_once("://") else {
            return match text.is_empty() {
                true => Err(wrong("it is empty")),
                false => Ok(Self::Folder(text.into())),
            };
        };
        let (first, path) = rest.split_once('/').unwrap_or((rest, ""));
        match scheme {
            "s3" if first.is_empty() => Err(wrong("it names no bucket")),
            "s3" => {
                Ok(Self::S3 { bucket: first.to_owned(), prefix: path.trim_matches('/').to_owned() })
            }
            "file" if first.is_empty() && !path.is_empty() => {
                Ok(Self::Folder(format!("/{path}").into()))
            }
            "file" => Err(wrong("a file:// place has three slashes and a folder")),
            "ssh" => {
                let (host, port) = match first.rsplit_once(':') {
                    None => (first, None),
                    Some((host, port)) => {
                        (host, Some(port.parse().map_err(|_| wrong("its port is no number"))?))
                    }
                };
                // ssh would take a host that begins with a dash as an option.
                if host.is_empty() || host.starts_with('-') {
                    return Err(wrong("it names no host"));
                }
                if path.is_empty() {
                    return Err(wrong("it names no folder"));
                }
                let folder = format!("/{}", path.trim_end_matches('/'));
                Ok(Self::Ssh { host: host.to_owned(), port, folder })
            }
            _ => Err(wrong("known are s3://, ssh://, file:// and folders")),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::Ssh { host, port: None, folder } => write!(f, "ssh://{host}{folder}"),
            Self::Ssh { host, port: Some(port), folder } => {
                write!(f, "ssh://{host}:{port}{folder}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_as_they_are_written() {
        for text in [
            "s3://bucket",
            "s3://bucket/some/prefix",
            "ssh://me@host:2222/srv/cache",
            "ssh://host/srv/cache",
            "relative/folder",
            "/absolute/folder",
        ] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        assert_eq!("file:///srv/x".parse::<Place>().unwrap(), Place::Folder("/srv/x".into()));
        let bad = [
            "",
            "s3://",
            "ssh://host",
            "ssh:///x",
            "ssh://-oProxyCommand=x/y",
            "ssh://h:x/y",
            "http://x/y",
            "file://x",
        ];
        for text in bad {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
