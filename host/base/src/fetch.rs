//! Downloads images once into the cache, verified against the expected digest.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use download::{Client, Digest, Options, Part, Size, Wanted, Watch};

use crate::{
    BaseError,
    gc::note_use,
    source::{self, ImageFile},
    unfinished,
};

/// Maximum size of a download, all attempts together; distribution images have less than a tenth.
const IMAGE_MAX_BYTES: u64 = 256 << 30;

/// The expected digest of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected(Digest);

impl Expected {
    /// Parses `sha256:HEX` or `sha512:HEX`.
    ///
    /// # Errors
    /// Fails on any other text.
    pub fn parse(text: &str) -> Result<Self, BaseError> {
        Digest::parse(text).map(Self).map_err(|_| BaseError::NoDigest(text.to_owned()))
    }

    /// Reads the whole file and compares digests.
    pub(crate) fn check(&self, image: &ImageFile) -> Result<(), BaseError> {
        let path = &image.path;
        let read = image.rewound().and_then(|mut file| self.0.of(&mut file));
        let found = read.map_err(|e| BaseError::io("read", path, e))?;
        if found == self.0.hex() {
            return Ok(());
        }
        Err(BaseError::Digest {
            what: path.display().to_string(),
            algorithm: self.0.algorithm(),
            expected: self.0.hex().to_owned(),
            found,
        })
    }
}

/// A downloaded file in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The file.
    pub path: PathBuf,
    /// Bytes downloaded by this call; 0 if the file was in the cache.
    pub downloaded: u64,
}

/// The file of an earlier download, if it exists and can be read; nothing is downloaded.
#[must_use]
pub fn fetched(expected: &Expected, folder: &Path) -> Option<PathBuf> {
    Some(download_path(expected, folder)).filter(|path| source::readable_bytes(path).is_some())
}

fn download_path(expected: &Expected, folder: &Path) -> PathBuf {
    folder.join("downloads").join(format!("{}-{}", expected.0.algorithm(), expected.0.hex()))
}

/// Downloads a file unless it is in the cache. `ca_bundle` has certificates (PEM) to trust in
/// addition to those of the host.
///
/// # Errors
/// Fails if the download fails, or if the file has another digest.
pub fn fetch(
    url: &str,
    expected: &Expected,
    folder: &Path,
    ca_bundle: Option<&[u8]>,
) -> Result<Fetched, BaseError> {
    let downloads = folder.join("downloads");
    let path = download_path(expected, folder);
    note_use(folder, &path);
    if source::readable_bytes(&path).is_some() {
        return Ok(Fetched { path, downloaded: 0 });
    }
    fs::create_dir_all(&downloads).map_err(|e| BaseError::io("create", &downloads, e))?;
    let mut unfinished =
        unfinished::file(&downloads).map_err(|e| BaseError::io("write in", &downloads, e))?;
    let file = &mut unfinished.work;
    let options = Options::from_environment(ca_bundle.map(<[u8]>::to_vec))?;
    let urls = [url.to_owned()];
    let wanted = Wanted { urls: &urls, size: Size::AtMost(IMAGE_MAX_BYTES), digest: &expected.0 };
    let mut part = Part { file: file.as_file_mut(), path: &path };
    let mut watch = Watch { tell: &mut |_| {}, stop: &AtomicBool::new(false) };
    let downloaded = Client::new(&options)?.fetch(wanted, &mut part, &mut watch)?;
    file.as_file().sync_all().map_err(|e| BaseError::io("write", &path, e))?;
    source::make_way(&path);
    unfinished.work.persist(&path).map_err(|e| BaseError::io("name", &path, e.error))?;
    Ok(Fetched { path, downloaded })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, BufRead, Write},
        net::TcpListener,
    };

    use download::DownloadError;
    use sha2::{Digest as _, Sha256};

    use super::*;

    /// Serves `content`; the first response ends after `cut` bytes.
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
                let status = match from {
                    0 => "200 OK".to_owned(),
                    from => format!("206 Partial Content\r\ncontent-range: bytes {from}-/*"),
                };
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
        assert_eq!(again, Fetched { path: first.path.clone(), downloaded: 0 });
        // What cannot be read is downloaded again.
        fs::remove_file(&first.path).unwrap();
        fs::create_dir_all(first.path.join("below")).unwrap();
        assert_eq!(fetched(&expected, folder.path()), None);
        let again = fetch(&url, &expected, folder.path(), None).unwrap();
        assert_eq!(again, first);
        assert_eq!(fs::read(&again.path).unwrap(), content);
    }

    #[test]
    fn another_content_is_refused_and_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let url = server(b"something else", 1000);
        let error = fetch(&url, &sha256(b"what was promised"), folder.path(), None).unwrap_err();
        let wrong = matches!(
            &error,
            BaseError::Download(DownloadError::WrongDigest { algorithm: "sha256", .. })
        );
        assert!(wrong, "{error}");
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
