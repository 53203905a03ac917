//! The real diskimage-builder release for tests, fetched once for all of them.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::{
    options::DibOptions,
    source::{FetchFailure, Fetcher, Located, World, locate},
};

/// The HTTP client of vbuild.
struct Http(download::Client);

impl Fetcher for Http {
    fn get(&self, url: &str, limit: u64) -> Result<Vec<u8>, FetchFailure> {
        let failure = |e: download::DownloadError| FetchFailure {
            url: url.to_owned(),
            reason: e.to_string(),
        };
        self.0.bytes(url, limit, Some("text/html, */*;q=0.5")).map_err(failure)
    }
}

/// A fetcher that uses the proxies of the environment.
pub(crate) fn network() -> impl Fetcher {
    let options = download::Options::from_environment(None).expect("proxies that can be used");
    Http(download::Client::new(&options).expect("a client without extra certificates"))
}

/// The release with its package directory, or `None` if it cannot be fetched; the reason is
/// printed.
pub(crate) fn located() -> Option<Located> {
    static FOUND: OnceLock<Result<(tempfile::TempDir, Located), String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let cache = tempfile::tempdir().map_err(|error| error.to_string())?;
        let world = World {
            cache: cache.path(),
            root: Path::new("/nowhere"),
            env: |name: &str| name.starts_with("PIP_").then(|| std::env::var(name).ok()).flatten(),
        };
        match locate(&DibOptions::default(), &world, &network()) {
            Ok(located) => Ok((cache, located)),
            Err(error) => Err(format!("{error}: {:?}", std::error::Error::source(&error))),
        }
    });
    match found {
        Ok((_, located)) => Some(located.clone()),
        Err(reason) => {
            println!("skipped: {reason}");
            None
        }
    }
}

/// The package directory of the release.
pub(crate) fn release() -> Option<PathBuf> {
    located().map(|located| located.package)
}
