//! Downloads into a folder where every file is named by its digest: parallel,
//! resumed where they stopped, and never visible under their name before the
//! digest was checked.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use sha2::{Digest, Sha256};

use crate::http::Client;

/// Connections at a time. Most files are small, so that latency counts; more
/// would be impolite to a public mirror.
const CONNECTIONS: usize = 6;
/// How often a file is asked for without a single new byte before giving up.
const ATTEMPTS: u32 = 4;
/// The pause before the second attempt; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_millis(400);
/// One read from the network, and one step of progress.
const BUFFER_BYTES: usize = 128 << 10;

/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection, no name, or no answer.
    #[error("cannot reach `{url}` ({why})")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What the network said.
        why: String,
    },
    /// The server answered, but not with the file.
    #[error("`{url}` was answered with status {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The transfer ended early every time.
    #[error("the transfer of `{url}` breaks off ({why})")]
    Broken {
        /// What was asked for.
        url: String,
        /// What the network said.
        why: String,
    },
    /// The bytes are not those that were signed for.
    #[error("`{url}` has the SHA256 digest `{found}` instead of `{wanted}`")]
    WrongDigest {
        /// What was asked for.
        url: String,
        /// The signed digest.
        wanted: String,
        /// The digest of what came.
        found: String,
    },
    /// A file of the cache cannot be written or read.
    #[error("cannot write `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The extra certificates cannot be used.
    #[error("cannot use the certificates of `{}` ({why})", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl FetchError {
    pub(crate) fn unreachable(url: &str, source: ureq::Error) -> Self {
        Self::Unreachable { url: url.to_owned(), why: source.to_string() }
    }

    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::File { path: path.to_owned(), source }
    }
}

/// A file to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// Where it is; the second and later addresses are tried when the one
    /// before answers that it has no such file.
    pub urls: Vec<String>,
    /// Its digest in lower-case hexadecimal digits.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

/// How far [`fetch_all`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes that are there, fetched now or before.
    pub bytes: u64,
    /// Bytes there will be.
    pub total_bytes: u64,
    /// Bytes that came over the network this time.
    pub fetched_bytes: u64,
}

/// The name of a file in the folder.
#[must_use]
pub(crate) fn path_of(dir: &Path, sha256: &str) -> PathBuf {
    dir.join(sha256)
}

/// Fetches all items into the folder, some at a time, telling how far it is.
/// What is there already is checked and not fetched again.
///
/// # Errors
/// The first failure; what was fetched until then stays for the next time.
pub(crate) fn fetch_all(
    client: &Client,
    dir: &Path,
    items: &[Item],
    tell: &mut dyn FnMut(Progress),
) -> Result<(), FetchError> {
    // Two suites may have the same, empty index: one file is fetched once.
    let mut digests = BTreeSet::new();
    let items: Vec<&Item> = items.iter().filter(|item| digests.insert(&item.sha256)).collect();
    let mut progress =
        Progress { total_bytes: items.iter().map(|item| item.size).sum(), ..Progress::default() };
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel::<Step>();
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS.min(items.len()) {
            let sender = sender.clone();
            let (items, next, stop) = (&items, &next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                    let mut tell = |step| drop(sender.send(step));
                    if let Err(error) = fetch(client, dir, item, stop, &mut tell) {
                        stop.store(true, Ordering::Relaxed);
                        drop(sender.send(Step::Failed(error)));
                    }
                }
            });
        }
        drop(sender);
        let mut failure = None;
        for step in receiver {
            match step {
                Step::Present(bytes) => progress.bytes += bytes,
                Step::Fetched(bytes) => {
                    progress.bytes += bytes;
                    progress.fetched_bytes += bytes;
                }
                Step::Discarded(bytes) => progress.bytes = progress.bytes.saturating_sub(bytes),
                Step::Failed(error) => failure = failure.or(Some(error)),
            }
            tell(progress);
        }
        failure.map_or(Ok(()), Err)
    })
}

/// What a worker tells.
enum Step {
    Present(u64),
    Fetched(u64),
    Discarded(u64),
    Failed(FetchError),
}

/// What one request came to.
enum Outcome {
    /// All bytes of the file are there.
    Complete,
    /// Fewer came than there are; the reason is for the message.
    Short(FetchError),
    /// This address does not have the file.
    Missing(FetchError),
}

/// Fetches one item, unless it is there.
fn fetch(
    client: &Client,
    dir: &Path,
    item: &Item,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(Step),
) -> Result<(), FetchError> {
    let path = path_of(dir, &item.sha256);
    if is_intact(&path, item) {
        tell(Step::Present(item.size));
        return Ok(());
    }
    let part = dir.join(format!("{}.part", item.sha256));
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .open(&part)
        .map_err(FetchError::file(&part))?;
    let length =
        |file: &File| file.metadata().map(|meta| meta.len()).map_err(FetchError::file(&part));
    if length(&file)? > item.size {
        file.set_len(0).map_err(FetchError::file(&part))?;
    }
    let mut have = length(&file)?;
    tell(Step::Present(have));
    let mut from_scratch = have == 0;
    let (mut attempt, mut address) = (0, 0);
    loop {
        let url = &item.urls[address];
        let outcome = if have == item.size {
            Outcome::Complete
        } else {
            transfer(client, url, &mut file, &part, item.size, tell)?
        };
        let now = length(&file)?;
        match outcome {
            Outcome::Complete => {
                let found = digest_of(&part).map_err(FetchError::file(&part))?;
                if found == item.sha256 {
                    fs::rename(&part, &path).map_err(FetchError::file(&path))?;
                    return Ok(());
                }
                tell(Step::Discarded(now));
                file.set_len(0).map_err(FetchError::file(&part))?;
                // A resumed file may be made of two versions; one that was
                // fetched in one go is simply wrong.
                if from_scratch {
                    drop(fs::remove_file(&part));
                    let (url, wanted) = (url.clone(), item.sha256.clone());
                    return Err(FetchError::WrongDigest { url, wanted, found });
                }
                from_scratch = true;
                have = 0;
                continue;
            }
            Outcome::Missing(error) => {
                address += 1;
                if address == item.urls.len() {
                    return Err(error);
                }
                continue;
            }
            Outcome::Short(error) => {
                attempt = if now > have { 1 } else { attempt + 1 };
                if attempt >= ATTEMPTS || stop.load(Ordering::Relaxed) {
                    return Err(error);
                }
                thread::sleep(FIRST_PAUSE * 2_u32.pow(attempt - 1));
            }
        }
        have = now;
    }
}

/// One request: appends what comes to the file, up to its full size.
fn transfer(
    client: &Client,
    url: &str,
    file: &mut File,
    part: &Path,
    size: u64,
    tell: &mut dyn FnMut(Step),
) -> Result<Outcome, FetchError> {
    let mut have = file.metadata().map_err(FetchError::file(part))?.len();
    let mut response = match client.get(url, have) {
        Ok(response) => response,
        Err(error) => return Ok(Outcome::Short(error)),
    };
    let status = response.status().as_u16();
    let continues = format!("bytes {have}-");
    let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
    match status {
        206 if range.is_some_and(|range| range.starts_with(&continues)) => {}
        // The server begins anew (200), or the offset does not fit its file.
        200 | 206 | 416 => {
            tell(Step::Discarded(have));
            file.set_len(0).map_err(FetchError::file(part))?;
            if status != 200 {
                let url = url.to_owned();
                return Ok(Outcome::Short(FetchError::Status { url, status }));
            }
            have = 0;
        }
        404 | 410 => {
            return Ok(Outcome::Missing(FetchError::Status { url: url.to_owned(), status }));
        }
        _ => return Ok(Outcome::Short(FetchError::Status { url: url.to_owned(), status })),
    }
    let broken = |why: String| Outcome::Short(FetchError::Broken { url: url.to_owned(), why });
    // One byte more than fits tells a file that is too long from a right one.
    let mut body = response.body_mut().as_reader().take(size - have + 1);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok(broken(error.to_string())),
        };
        file.write_all(&buffer[..count]).map_err(FetchError::file(part))?;
        have += count as u64;
        tell(Step::Fetched(count as u64));
    }
    match have.cmp(&size) {
        std::cmp::Ordering::Equal => Ok(Outcome::Complete),
        std::cmp::Ordering::Less => Ok(broken(format!("{have} of {size} bytes came"))),
        // The digest of what came will not fit, and that is what to report.
        std::cmp::Ordering::Greater => Ok(Outcome::Complete),
    }
}

/// Whether a file of the cache is whole. A damaged one is removed, so that it
/// is fetched again.
fn is_intact(path: &Path, item: &Item) -> bool {
    let Ok(meta) = fs::metadata(path) else { return false };
    let intact = meta.len() == item.size && digest_of(path).is_ok_and(|found| found == item.sha256);
    if !intact {
        drop(fs::remove_file(path));
    }
    intact
}

/// The SHA256 digest of a file in hexadecimal digits.
///
/// # Errors
/// When it cannot be read.
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
