//! The state of a release on its mirror: verified Release files, and the package index that they
//! authenticate.

use std::{
    fs::File,
    io::{self, BufReader},
    path::{Path, PathBuf},
};

use architecture::MachineArchitecture;
use download::{Client, DownloadError};

use crate::{
    fetch::{self, Item, Progress},
    index::{Index, Package},
    keys::Trust,
    mirror::{Mirror, Suite},
    packed,
    release::{Expiry, Release, ReleaseError},
    seen::SeenDates,
};

/// Maximum size of an uncompressed package index; that of Debian's main has some 60 MB.
const INDEX_MAX_BYTES: u64 = 1 << 30;
/// The only component used: firmware and non-free tools are of no use in a virtual machine.
const COMPONENT: &str = "main";
/// Maximum size of an InRelease file; real ones have about 150 KB.
const RELEASE_MAX_BYTES: u64 = 8 << 20;

/// An error while determining the state of the archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A download failed.
    #[error(transparent)]
    Fetch(#[from] DownloadError),
    /// A Release file is not trusted.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// A suite has no index for the architecture.
    #[error("the release file of `{suite}` lists no `{path}`")]
    NoIndex {
        /// The suite.
        suite: String,
        /// The missing file.
        path: String,
    },
    /// An index with the correct digest cannot be parsed.
    #[error("cannot read the package index of `{suite}`")]
    BadIndex {
        /// The suite.
        suite: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The record of mirror states cannot be used.
    #[error("cannot use `{}`; remove it if it is damaged", path.display())]
    SeenDates {
        /// The path of the record.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The current state of a release on its mirror.
#[derive(Debug)]
pub(crate) struct Archive {
    /// The suites, in the order that [`Package::archive`] indexes.
    pub suites: Vec<Suite>,
    /// All packages.
    pub index: Index,
    /// The `Date` of each suite's Release file.
    pub dates: Vec<String>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// The parameters of loading an archive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    /// The mirror.
    pub mirror: &'a Mirror,
    /// The release's code name.
    pub release: &'a str,
    /// The architecture whose packages are listed.
    pub architecture: MachineArchitecture,
    /// The trusted keys.
    pub trust: &'a Trust,
    /// Whether expired Release files are accepted.
    pub expiry: Expiry,
    /// The current time in seconds since the epoch.
    pub now: u64,
    /// The path of the record with the newest state of each suite.
    pub seen: &'a Path,
}

impl Archive {
    /// Downloads and verifies the Release files and indices of the release.
    ///
    /// # Errors
    /// Fails if the mirror is unreachable, if data is not signed by Debian, or if an index cannot
    /// be parsed.
    pub(crate) fn load(
        client: &Client,
        source: Source<'_>,
        dir: &Path,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<Self, ArchiveError> {
        let suites = source.mirror.suites(source.release);
        let path = format!("{COMPONENT}/binary-{}/Packages.xz", source.architecture);
        let unusable = |source_error| ArchiveError::SeenDates {
            path: source.seen.to_owned(),
            source: source_error,
        };
        let mut seen = SeenDates::read(source.seen).map_err(unusable)?;
        let (mut items, mut dates, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
        for suite in &suites {
            let base = format!("{}/dists/{}", suite.archive, suite.name);
            let message = client.text(&format!("{base}/InRelease"), RELEASE_MAX_BYTES)?;
            let keyring = source.trust.keyring(suite.role);
            let release =
                Release::verify(&message, &suite.name, keyring, source.expiry, source.now)?;
            let listed = release.file(&path).ok_or_else(|| ArchiveError::NoIndex {
                suite: suite.name.clone(),
                path: path.clone(),
            })?;
            let mut urls = vec![format!("{base}/{path}")];
            if release.by_hash {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                urls.insert(0, format!("{base}/{folder}/by-hash/SHA256/{}", listed.sha256));
            }
            items.push(Item { urls, sha256: listed.sha256.clone(), size: listed.size });
            match (seen.newer(&base, &release.date), source.expiry) {
                (None, _) => seen.note(&base, &release.date),
                (Some(newer), expiry) => {
                    let old = ReleaseError::rolled_back(&suite.name, &release.date, &seen, newer);
                    match expiry {
                        Expiry::Refuse => return Err(old.into()),
                        Expiry::Warn => warnings.push(old.to_string()),
                    }
                }
            }
            dates.push(release.date);
            warnings.extend(release.warning);
        }
        seen.write().map_err(unusable)?;
        fetch::fetch_all(client, dir, &items, tell)?;
        let mut index = Index::default();
        for (number, (suite, item)) in (0..).zip(suites.iter().zip(&items)) {
            read_index(&mut index, &fetch::path_of(dir, &item.sha256), number)
                .map_err(|source| ArchiveError::BadIndex { suite: suite.name.clone(), source })?;
        }
        let last = suites.last().map_or(String::new(), |suite| suite.name.clone());
        index.finish().map_err(|source| ArchiveError::BadIndex { suite: last, source })?;
        Ok(Self { suites, index, dates, warnings })
    }

    /// Returns the download of a package.
    #[must_use]
    pub(crate) fn item(&self, package: &Package) -> Item {
        let archive = self
            .suites
            .get(usize::from(package.archive))
            .map_or("", |suite| suite.archive.as_str());
        Item {
            urls: vec![format!("{archive}/{}", package.filename)],
            sha256: package.sha256.clone(),
            size: package.size,
        }
    }
}

fn read_index(index: &mut Index, path: &Path, archive: u8) -> io::Result<()> {
    let file = BufReader::new(File::open(path)?);
    let index_text = packed::at_most(packed::xz(file)?, INDEX_MAX_BYTES);
    index.add(BufReader::with_capacity(256 << 10, index_text), archive)
}
