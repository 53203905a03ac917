//! Downloads files into a directory, named by digest: in parallel, with resuming, and visible under
//! their name only after the digest is verified.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use download::{Client, Digest, DownloadError, Part, Size, Step, Wanted, Watch};
use reach::{InvalidProxy, Proxies, Proxy};
use sha2::{Digest as _, Sha256};

use crate::apt_conf::AptConf;

/// Parallel connections. Most files are small, so latency matters; more connections would be
/// impolite to a public mirror.
const CONNECTIONS: usize = 6;
/// Bytes read from a file per call.
const BUFFER_BYTES: usize = 128 << 10;

/// Creates a client with the proxies of the environment, or otherwise those of apt, and with the
/// additional certificates of a PEM file.
///
/// # Errors
/// Fails if the file cannot be read or contains no certificate, or if a proxy is unusable.
pub(crate) fn client(ca_file: Option<&Path>, apt: &AptConf) -> Result<Client, DownloadError> {
    let certificates = ca_file.map(|path| {
        fs::read(path).map_err(|error| DownloadError::Certificates {
            why: format!("cannot read `{}`: {error}", path.display()),
        })
    });
    let of_apt = |scheme: &str| -> Result<Option<Proxy>, InvalidProxy> {
        let setting = format!("Acquire::{scheme}::Proxy");
        let proxy = apt.proxy(scheme).map(Proxy::parse).transpose();
        proxy.map_err(|reason| InvalidProxy { setting, reason })
    };
    let proxies = Proxies::from_environment(|name| std::env::var_os(name))?;
    // The environment takes precedence, also over an unusable value in apt's configuration.
    let proxies = match proxies.decides() {
        true => proxies,
        false => proxies.or(of_apt("http")?, of_apt("https")?),
    };
    Client::new(&download::Options { certificates: certificates.transpose()?, proxies })
}

/// A file to download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// The URLs of the file; the next one is tried if a server responds that it does not have the
    /// file.
    pub urls: Vec<String>,
    /// The SHA-256 digest of the file in lower-case hexadecimal digits.
    pub sha256: String,
    /// The size of the file in bytes.
    pub size: u64,
}

/// Progress of [`fetch_all`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes present, from this or earlier downloads.
    pub bytes: u64,
    /// Total bytes.
    pub total_bytes: u64,
    /// Bytes downloaded by this call.
    pub fetched_bytes: u64,
}

/// Returns the path of a file in the directory.
#[must_use]
pub(crate) fn path_of(dir: &Path, sha256: &str) -> PathBuf {
    dir.join(sha256)
}

/// Downloads all items into the directory in parallel, with progress reports. Existing files are
/// verified instead.
///
/// # Errors
/// Returns the first error; completed downloads are kept for the next attempt.
pub(crate) fn fetch_all(
    client: &Client,
    dir: &Path,
    items: &[Item],
    tell: &mut dyn FnMut(Progress),
) -> Result<(), DownloadError> {
    // Two suites may have the same, empty index: each file is downloaded once.
    let mut digests = BTreeSet::new();
    let items: Vec<&Item> = items.iter().filter(|item| digests.insert(&item.sha256)).collect();
    let mut progress =
        Progress { total_bytes: items.iter().map(|item| item.size).sum(), ..Progress::default() };
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel::<Result<Step, DownloadError>>();
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS.min(items.len()) {
            let sender = sender.clone();
            let (items, next, stop) = (&items, &next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                    let mut tell = |step| drop(sender.send(Ok(step)));
                    if let Err(error) = fetch(client, dir, item, stop, &mut tell) {
                        stop.store(true, Ordering::Relaxed);
                        drop(sender.send(Err(error)));
                    }
                }
            });
        }
        drop(sender);
        let mut failure = None;
        for step in receiver {
            match step {
                Ok(Step::Present(bytes)) => progress.bytes += bytes,
                Ok(Step::Fetched(bytes)) => {
                    progress.bytes += bytes;
                    progress.fetched_bytes += bytes;
                }
                Ok(Step::Discarded(bytes)) => {
                    progress.bytes = progress.bytes.saturating_sub(bytes);
                }
                Err(error) => failure = failure.or(Some(error)),
            }
            tell(progress);
        }
        failure.map_or(Ok(()), Err)
    })
}

/// Downloads one item, unless it exists.
fn fetch(
    client: &Client,
    dir: &Path,
    item: &Item,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(Step),
) -> Result<(), DownloadError> {
    let path = path_of(dir, &item.sha256);
    if is_intact(&path, item) {
        tell(Step::Present(item.size));
        return Ok(());
    }
    let part = dir.join(format!("{}.part", item.sha256));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| DownloadError::File { path, source }
    };
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(false).read(true).write(true);
    let mut file = options
        .open(&part)
        .or_else(|_| {
            discard(&part);
            options.open(&part)
        })
        .map_err(failed(&part))?;
    let digest = Digest::parse(&format!("sha256:{}", item.sha256));
    let digest = digest.map_err(|error| DownloadError::Url {
        url: item.urls.first().cloned().unwrap_or_default(),
        why: error.to_string(),
    })?;
    let wanted = Wanted { urls: &item.urls, size: Size::Exactly(item.size), digest: &digest };
    let mut to = Part { file: &mut file, path: &part };
    match client.fetch(wanted, &mut to, &mut Watch { tell, stop }) {
        Ok(_) => fs::rename(&part, &path).map_err(failed(&path)),
        Err(error) => {
            if matches!(error, DownloadError::WrongDigest { .. }) {
                drop(fs::remove_file(&part));
            }
            Err(error)
        }
    }
}

/// Whether a cached file is intact. A damaged one is removed, to be downloaded again.
fn is_intact(path: &Path, item: &Item) -> bool {
    let Ok(meta) = fs::metadata(path) else { return false };
    let intact = meta.len() == item.size && digest_of(path).is_ok_and(|found| found == item.sha256);
    if !intact {
        discard(path);
    }
    intact
}

/// Removes a file that is of no use, or a directory in its place. If that fails, so does the
/// attempt to write a new one.
fn discard(path: &Path) {
    if fs::remove_file(path).is_err() {
        drop(fs::remove_dir_all(path));
    }
}

/// Returns the SHA-256 digest of a file in hexadecimal digits.
///
/// # Errors
/// Fails if the file cannot be read.
pub(crate) fn digest_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}
