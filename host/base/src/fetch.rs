//! Downloads: once, into the cache, under the digest that was promised.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest as _, Sha256, Sha512};
use ureq::{
    Agent, Proxy,
    tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem},
};

use crate::{BaseError, gc::note_use, source::ImageFile, unfinished};

/// Name resolution and connecting; a server that needs longer is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Silence after which a connection counts as dead.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Attempts at a download; each goes on where the last one ended.
const ATTEMPTS: u32 = 5;
/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;
/// The largest image that is taken: no distribution's is a tenth of this.
const IMAGE_MAX_BYTES: u64 = 256 << 30;

/// The digest that a file is promised to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    algorithm: Algorithm,
    hex: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn hash(self) -> Hash {
        match self {
            Self::Sha256 => Hash::Sha256(Sha256::new()),
            Self::Sha512 => Hash::Sha512(Sha512::new()),
        }
    }
}

enum Hash {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hash {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    fn hex(self) -> String {
        match self {
            Self::Sha256(hash) => hex::encode(hash.finalize()),
            Self::Sha512(hash) => hex::encode(hash.finalize()),
        }
    }
}

impl Expected {
    /// Reads `sha256:HEX` or `sha512:HEX`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, BaseError> {
        let wrong = || BaseError::NoDigest(text.to_owned());
        let (name, hex) = text.split_once(':').ok_or_else(wrong)?;
        let (algorithm, digits) = match name {
            "sha256" => (Algorithm::Sha256, 64),
            "sha512" => (Algorithm::Sha512, 128),
            _ => return Err(wrong()),
        };
        if hex.len() != digits || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        Ok(Self { algorithm, hex: hex.to_ascii_lowercase() })
    }

    fn compare(&self, what: &str, found: String) -> Result<(), BaseError> {
        if found == self.hex {
            return Ok(());
        }
        Err(BaseError::Digest {
            what: what.to_owned(),
            algorithm: self.algorithm.name(),
            expected: self.hex.clone(),
            found,
        })
    }

    /// Reads a whole file and compares.
    pub(crate) fn check(&self, image: &ImageFile) -> Result<(), BaseError> {
        let (path, mut hash) = (&image.path, self.algorithm.hash());
        let copied =
            image.from_start().and_then(|mut file| copy(&mut file, &mut io::sink(), &mut hash));
        copied.map_err(|e| BaseError::io("read", path, e))?;
        self.compare(&path.display().to_string(), hash.hex())
    }
}

fn copy(from: &mut dyn Read, to: &mut dyn Write, hash: &mut Hash) -> io::Result<u64> {
    let mut buffer = vec![0; READ_BYTES];
    let mut total = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => {
                hash.update(&buffer[..count]);
                to.write_all(&buffer[..count])?;
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A download that is in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The file.
    pub path: PathBuf,
    /// Bytes that were downloaded now; 0 when it was there.
    pub downloaded: u64,
}

/// The file of an earlier download, if it is there; nothing is downloaded.
#[must_use]
pub fn fetched(expected: &Expected, folder: &Path) -> Option<PathBuf> {
    Some(download_path(expected, folder)).filter(|path| path.is_file())
}

fn download_path(expected: &Expected, folder: &Path) -> PathBuf {
    folder.join("downloads").join(format!("{}-{}", expected.algorithm.name(), expected.hex))
}

/// Downloads a file once. `ca_bundle` are certificates (PEM) that are trusted
/// beside those of the host.
///
/// # Errors
/// When it cannot be downloaded, or is something else than was promised.
pub fn fetch(
    url: &str,
    expected: &Expected,
    folder: &Path,
    ca_bundle: Option<&[u8]>,
) -> Result<Fetched, BaseError> {
    let downloads = folder.join("downloads");
    let path = download_path(expected, folder);
    note_use(folder, &path);
    if path.is_file() {
        return Ok(Fetched { path, downloaded: 0 });
    }
    fs::create_dir_all(&downloads).map_err(|e| BaseError::io("create", &downloads, e))?;
    let mut file =
        unfinished::file(&downloads).map_err(|e| BaseError::io("write in", &downloads, e))?;
    let agent = agent(url, ca_bundle);
    let mut hash = expected.algorithm.hash();
    let mut failure = String::new();
    let mut total = 0;
    for _ in 0..ATTEMPTS {
        match attempt(&agent, url, total, file.work.as_file_mut(), &mut hash) {
            Ok(Progress::Whole(bytes)) => {
                total += bytes;
                expected.compare(url, hash.hex())?;
                file.work.as_file().sync_all().map_err(|e| BaseError::io("write", &path, e))?;
                file.work.persist(&path).map_err(|e| BaseError::io("name", &path, e.error))?;
                return Ok(Fetched { path, downloaded: total });
            }
            Ok(Progress::Broken(bytes, reason)) => {
                total += bytes;
                failure = reason;
            }
            Err(reason) => {
                return Err(BaseError::Download { url: url.to_owned(), reason });
            }
        }
    }
    Err(BaseError::Download { url: url.to_owned(), reason: failure })
}

enum Progress {
    Whole(u64),
    Broken(u64, String),
}

/// One attempt, from an offset on. `Err` for an answer that another attempt
/// cannot better.
fn attempt(
    agent: &Agent,
    url: &str,
    from: u64,
    file: &mut File,
    hash: &mut Hash,
) -> Result<Progress, String> {
    let mut request = agent.get(url);
    if from > 0 {
        request = request.header("Range", format!("bytes={from}-"));
    }
    let mut answer = match request.call() {
        Ok(answer) => answer,
        Err(error) => return Ok(Progress::Broken(0, error.to_string())),
    };
    match (answer.status().as_u16(), from) {
        (200, 0) | (206, 1..) => {}
        (200, _) => return Err("the server cannot go on where the download broke off".into()),
        (500..=599, _) => return Ok(Progress::Broken(0, answer.status().to_string())),
        _ => return Err(answer.status().to_string()),
    }
    let length = answer.body().content_length();
    let body = answer.body_mut().as_reader();
    let mut counted = Counted { inner: body.take(IMAGE_MAX_BYTES), bytes: 0 };
    let copied = copy(&mut counted, file, hash);
    match (copied, length) {
        (Ok(bytes), Some(length)) if bytes < length => {
            Ok(Progress::Broken(bytes, "the connection ended too early".into()))
        }
        (Ok(bytes), _) => Ok(Progress::Whole(bytes)),
        (Err(error), _) => Ok(Progress::Broken(counted.bytes, error.to_string())),
    }
}

struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

fn agent(url: &str, ca_bundle: Option<&[u8]>) -> Agent {
    let roots = ca_bundle.map_or(RootCerts::PlatformVerifier, |pem| {
        let given = parse_pem(pem).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        });
        // Certificates of the host that cannot be read are left out: those that
        // were given may be all that is needed.
        let host = rustls_native_certs::load_native_certs().certs;
        let host = host.into_iter().map(|der| Certificate::from_der(&der).to_owned());
        RootCerts::from(given.chain(host.collect::<Vec<_>>()))
    });
    let config = Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .proxy(if is_local(url) { None } else { Proxy::try_from_env() })
        .http_status_as_error(false)
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_per_read(Some(STALL_TIMEOUT))
        .user_agent(concat!("vbuild/", env!("CARGO_PKG_VERSION")))
        // The digest is of the file, not of a transfer.
        .accept_encoding("identity")
        .build();
    Agent::new_with_config(config)
}

/// Whether a URL means this machine, which no proxy can reach.
fn is_local(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    ["localhost", "127.", "[::1]"].iter().any(|host| rest.starts_with(host))
}

#[cfg(test)]
mod tests {
    use std::{io::BufRead, net::TcpListener};

    use super::*;

    /// Serves `content`; the first answer ends after `cut` bytes.
    fn server(content: &'static [u8], cut: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/base.qcow2", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for (index, stream) in listener.incoming().flatten().enumerate() {
                let mut stream = io::BufReader::new(stream);
                let mut from = 0;
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).unwrap();
                    if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                        from = range.trim().trim_end_matches('-').parse().unwrap();
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                }
                let status = if from == 0 { "200 OK" } else { "206 Partial Content" };
                let body = &content[from..];
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let stream = stream.get_mut();
                let sent = if index == 0 { &body[..cut.min(body.len())] } else { body };
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(sent);
            }
        });
        url
    }

    fn sha256(bytes: &[u8]) -> Expected {
        Expected::parse(&format!("sha256:{}", hex::encode(Sha256::digest(bytes)))).unwrap()
    }

    #[test]
    fn a_broken_download_goes_on_and_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let content = b"what a base image holds";
        let url = server(content, 7);
        let expected = sha256(content);
        let first = fetch(&url, &expected, folder.path(), None).unwrap();
        assert_eq!(first.downloaded, content.len() as u64);
        assert_eq!(fs::read(&first.path).unwrap(), content);
        let again = fetch("http://127.0.0.1:1/never", &expected, folder.path(), None).unwrap();
        assert_eq!(again, Fetched { path: first.path, downloaded: 0 });
    }

    #[test]
    fn another_content_is_refused_and_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let url = server(b"something else", 1000);
        let error = fetch(&url, &sha256(b"what was promised"), folder.path(), None).unwrap_err();
        assert!(matches!(&error, BaseError::Digest { algorithm: "sha256", .. }), "{error}");
        assert_eq!(fs::read_dir(folder.path().join("downloads")).unwrap().count(), 0);
    }

    #[test]
    fn digests_as_text() {
        assert!(Expected::parse(&format!("sha512:{}", "A".repeat(128))).is_ok());
        for bad in ["", "sha256", "md5:00", "sha256:00", &format!("sha256:{}", "g".repeat(64))] {
            assert!(Expected::parse(bad).is_err(), "{bad}");
        }
    }
}
