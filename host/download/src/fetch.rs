//! Downloads files and texts, with retries, resuming, digests and limits.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use ureq::{Body, http::Response};

use crate::{Client, Digest, DownloadError, digest::Hasher};

/// Number of requests without a single new byte after which a download fails.
const ATTEMPTS: u32 = 4;
/// Delay before the second attempt; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(400);
/// Maximum requests for one file, whatever they transfer: otherwise a server that sends one byte
/// per request could delay a build forever.
const REQUESTS_MAX: u32 = 100;
/// Size of a network read, and of a progress step.
const BUFFER_BYTES: usize = 128 << 10;
/// Bytes that all attempts together may transfer beyond the limit: data in flight when a connection
/// ends.
const OVERHEAD_BYTES: u64 = 1 << 20;

/// The size of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Exactly this number of bytes. All attempts together may transfer at most twice as many: a
    /// partial file on disk may belong to another version.
    Exactly(u64),
    /// At most this number of bytes, also for all attempts together.
    AtMost(u64),
}

impl Size {
    fn max(self) -> u64 {
        match self {
            Self::Exactly(bytes) | Self::AtMost(bytes) => bytes,
        }
    }

    fn budget(self) -> u64 {
        let bytes = match self {
            Self::Exactly(bytes) => bytes.saturating_mul(2),
            Self::AtMost(bytes) => bytes,
        };
        bytes.saturating_add(OVERHEAD_BYTES)
    }
}

/// A file to download.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Its URLs; the next one is tried if a server responds that it does not have the file.
    pub urls: &'a [String],
    /// The size of the file: exact, or an upper limit.
    pub size: Size,
    /// The digest that the file must have.
    pub digest: &'a Digest,
}

/// The local file of a download.
#[derive(Debug)]
pub struct Part<'a> {
    /// The file: readable and writable, empty or with a part from an earlier run.
    pub file: &'a mut File,
    /// Its path, for messages.
    pub path: &'a Path,
}

/// A progress step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// This number of bytes was present before.
    Present(u64),
    /// This number of bytes was received.
    Fetched(u64),
    /// This number of bytes was discarded.
    Discarded(u64),
}

/// The observer of a download, which can also cancel it.
pub struct Watch<'a> {
    /// Receives progress steps.
    pub tell: &'a mut dyn FnMut(Step),
    /// Once true, cancels the download between two attempts.
    pub stop: &'a AtomicBool,
}

impl std::fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("stop", &self.stop).finish_non_exhaustive()
    }
}

impl Part<'_> {
    fn error(&self) -> impl FnOnce(io::Error) -> DownloadError + '_ {
        move |source| DownloadError::File { path: self.path.to_owned(), source }
    }

    fn len(&self) -> Result<u64, DownloadError> {
        Ok(self.file.metadata().map_err(self.error())?.len())
    }

    fn clear(&mut self) -> Result<(), DownloadError> {
        self.file.set_len(0).map_err(self.error())?;
        self.file.seek(SeekFrom::Start(0)).map(drop).map_err(self.error())
    }
}

/// The outcome of one request.
enum Outcome {
    /// The file is complete.
    Complete,
    /// The transfer ended early, with the error for a message.
    Short(DownloadError),
    /// This URL does not have the file.
    Missing(DownloadError),
}

/// A download in progress.
struct Transfer<'a, 'w> {
    client: &'a Client,
    wanted: Wanted<'a>,
    watch: &'a mut Watch<'w>,
    /// The digest of the data on disk, if all of it was received by this run.
    hash: Option<Hasher>,
    /// Bytes on disk.
    have: u64,
    /// Bytes received by all attempts.
    received: u64,
}

impl Client {
    /// Downloads a file, resuming an earlier attempt or run. On success the part contains exactly
    /// the file with the expected digest. Returns the number of bytes received.
    ///
    /// # Errors
    /// Fails if the file cannot be downloaded, has another digest, or exceeds its limits. Received
    /// data stays in the part, unless it is wrong.
    pub fn fetch(
        &self,
        wanted: Wanted<'_>,
        part: &mut Part<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<u64, DownloadError> {
        let have = part.len()?;
        let hash = (have == 0).then(|| wanted.digest.hasher());
        (watch.tell)(Step::Present(have));
        let mut transfer = Transfer { client: self, wanted, watch, hash, have, received: 0 };
        if have > wanted.size.max() {
            transfer.discard(part)?;
        }
        transfer.run(part)?;
        Ok(transfer.received)
    }

    /// Downloads a small file into memory; `accept` lists the accepted media types.
    ///
    /// # Errors
    /// Fails if it cannot be downloaded, or has more than `limit` bytes.
    pub fn bytes(
        &self,
        url: &str,
        limit: u64,
        accept: Option<&str>,
    ) -> Result<Vec<u8>, DownloadError> {
        let headers: Vec<_> =
            accept.map(|types| ("Accept", types.to_owned())).into_iter().collect();
        let mut left = limit.saturating_add(OVERHEAD_BYTES);
        let mut attempt = 1;
        loop {
            let error = match self.bytes_once(url, limit, &mut left, &headers) {
                Ok(Ok(bytes)) => return Ok(bytes),
                Ok(Err(error)) => error,
                Err(error) => return Err(error),
            };
            if attempt >= ATTEMPTS {
                return Err(error);
            }
            thread::sleep(FIRST_PAUSE * 2_u32.pow(attempt - 1));
            attempt += 1;
        }
    }

    /// Downloads a small text. See [`Client::bytes`].
    ///
    /// # Errors
    /// Fails like [`Client::bytes`], and if it is not UTF-8.
    pub fn text(&self, url: &str, limit: u64) -> Result<String, DownloadError> {
        String::from_utf8(self.bytes(url, limit, None)?)
            .map_err(|_| DownloadError::NotText { url: url.to_owned() })
    }

    /// One attempt; the inner error may be retried.
    fn bytes_once(
        &self,
        url: &str,
        limit: u64,
        left: &mut u64,
        headers: &[(&str, String)],
    ) -> Result<Result<Vec<u8>, DownloadError>, DownloadError> {
        let mut response = match self.get(url, headers) {
            Ok(response) => response,
            Err(error @ DownloadError::Unreachable { .. }) => return Ok(Err(error)),
            Err(error) => return Err(error),
        };
        let status = response.status().as_u16();
        let error = || DownloadError::Status { url: url.to_owned(), status };
        match status {
            200 => {}
            _ if may_pass(status) => return Ok(Err(error())),
            _ => return Err(error()),
        }
        let length = response.body().content_length();
        let mut bytes = Vec::new();
        let most = limit.saturating_add(1).min(*left);
        let read = response.body_mut().as_reader().take(most).read_to_end(&mut bytes);
        *left -= bytes.len() as u64;
        let came = bytes.len() as u64;
        if came > limit {
            return Err(DownloadError::TooLarge { url: url.to_owned(), limit });
        }
        if came == most {
            let bytes = limit.saturating_add(OVERHEAD_BYTES);
            return Err(DownloadError::Wasteful { url: url.to_owned(), bytes });
        }
        let broken = |why: String| DownloadError::Broken { url: url.to_owned(), why };
        Ok(match (read, length) {
            (Err(error), _) => Err(broken(error.to_string())),
            (Ok(_), Some(length)) if came < length => {
                Err(broken(format!("{came} of {length} bytes came")))
            }
            _ => Ok(bytes),
        })
    }
}

/// Whether a status may be temporary.
fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}

impl Transfer<'_, '_> {
    fn run(&mut self, part: &mut Part<'_>) -> Result<(), DownloadError> {
        let urls = self.wanted.urls;
        let (mut attempt, mut address, mut requests) = (0, 0, 0);
        loop {
            let url = &urls[address];
            let before = self.have;
            let whole = self.wanted.size == Size::Exactly(self.have);
            let outcome = if whole { Outcome::Complete } else { self.request(url, part)? };
            requests += 1;
            match outcome {
                Outcome::Complete => {
                    let fresh = self.hash.is_some();
                    let Some(error) = self.verify(url, part)? else { return Ok(()) };
                    self.discard(part)?;
                    // An old part on disk may belong to another version; data received in one run
                    // is simply wrong.
                    if fresh {
                        return Err(error);
                    }
                }
                Outcome::Missing(error) => {
                    address += 1;
                    if address == urls.len() {
                        return Err(error);
                    }
                }
                Outcome::Short(error) => {
                    attempt = if self.have > before { 1 } else { attempt + 1 };
                    let stopped = self.watch.stop.load(Ordering::Relaxed);
                    if attempt >= ATTEMPTS || requests >= REQUESTS_MAX || stopped {
                        return Err(error);
                    }
                    thread::sleep(FIRST_PAUSE * 2_u32.pow(attempt - 1));
                }
            }
        }
    }

    fn discard(&mut self, part: &mut Part<'_>) -> Result<(), DownloadError> {
        part.clear()?;
        (self.watch.tell)(Step::Discarded(self.have));
        self.have = 0;
        self.hash = Some(self.wanted.digest.hasher());
        Ok(())
    }

    /// Sends one request and appends the received data to the part.
    fn request(&mut self, url: &str, part: &mut Part<'_>) -> Result<Outcome, DownloadError> {
        let range = (self.have > 0).then(|| ("Range", format!("bytes={}-", self.have)));
        let headers: Vec<_> = range.into_iter().collect();
        let response = match self.client.get(url, &headers) {
            Ok(response) => response,
            Err(error @ DownloadError::Unreachable { .. }) => return Ok(Outcome::Short(error)),
            Err(error) => return Err(error),
        };
        let status = response.status().as_u16();
        let error = DownloadError::Status { url: url.to_owned(), status };
        let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
        let goes_on = range.is_some_and(|r| r.starts_with(&format!("bytes {}-", self.have)));
        match status {
            206 if goes_on => {}
            200 if self.have == 0 => {}
            // The server sends the file from the start.
            200 => self.discard(part)?,
            // The offset does not match its file.
            206 | 416 => {
                self.discard(part)?;
                return Ok(Outcome::Short(error));
            }
            _ if may_pass(status) => return Ok(Outcome::Short(error)),
            404 | 410 => return Ok(Outcome::Missing(error)),
            _ => return Err(error),
        }
        self.receive(url, response, part)
    }

    fn receive(
        &mut self,
        url: &str,
        mut response: Response<Body>,
        part: &mut Part<'_>,
    ) -> Result<Outcome, DownloadError> {
        let length = response.body().content_length();
        let limit = self.wanted.size.max();
        let left = limit - self.have;
        let too_large = || DownloadError::TooLarge { url: url.to_owned(), limit };
        if length.is_some_and(|length| length > left) && matches!(self.wanted.size, Size::AtMost(_))
        {
            return Err(too_large());
        }
        part.file.seek(SeekFrom::Start(self.have)).map_err(part.error())?;
        // Reading one byte beyond the limit detects a file that is too long.
        let mut body = response.body_mut().as_reader().take(left.saturating_add(1));
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut came = 0;
        let broken =
            |why: String| Outcome::Short(DownloadError::Broken { url: url.to_owned(), why });
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(broken(error.to_string())),
            };
            part.file.write_all(&buffer[..count]).map_err(part.error())?;
            if let Some(hash) = &mut self.hash {
                hash.update(&buffer[..count]);
            }
            let count = count as u64;
            (self.have, self.received, came) =
                (self.have + count, self.received + count, came + count);
            (self.watch.tell)(Step::Fetched(count));
            if self.received > self.wanted.size.budget() {
                let bytes = self.received;
                return Err(DownloadError::Wasteful { url: url.to_owned(), bytes });
            }
        }
        Ok(match self.wanted.size {
            Size::Exactly(size) if self.have < size => {
                broken(format!("{} of {size} bytes came", self.have))
            }
            // The digest will not match, and that is the error to report.
            Size::Exactly(_) => Outcome::Complete,
            Size::AtMost(limit) if self.have > limit => return Err(too_large()),
            Size::AtMost(_) => match length {
                Some(length) if came < length => broken(format!("{came} of {length} bytes came")),
                _ => Outcome::Complete,
            },
        })
    }

    /// The error of a wrong digest.
    fn verify(
        &mut self,
        url: &str,
        part: &mut Part<'_>,
    ) -> Result<Option<DownloadError>, DownloadError> {
        let digest = self.wanted.digest;
        let found = match self.hash.take() {
            Some(hash) => hash.hex(),
            None => {
                part.file.seek(SeekFrom::Start(0)).map_err(part.error())?;
                digest.of(&mut *part.file).map_err(part.error())?
            }
        };
        if found == digest.hex() {
            return Ok(None);
        }
        Ok(Some(DownloadError::WrongDigest {
            url: url.to_owned(),
            algorithm: digest.algorithm(),
            wanted: digest.hex().to_owned(),
            found,
        }))
    }
}
