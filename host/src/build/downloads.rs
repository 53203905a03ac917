//! vbuild's own downloads, with the certificates and proxies that the user has configured.

use dib::{FetchFailure, Fetcher};
use download::{Client, Options};

use crate::{machine::ca, settings::Settings};

/// The accepted media types of a package index: some answer in JSON unless HTML is requested.
const INDEX_TYPES: &str = "text/html, */*;q=0.5";

/// Fetches diskimage-builder if it is not on this host. Certificates and proxies are read by each
/// fetch, so that invalid ones are an error only if something is downloaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IndexFetcher<'a> {
    settings: &'a Settings,
}

impl<'a> IndexFetcher<'a> {
    /// Creates a fetcher with the certificates of the settings and the proxies of the environment.
    pub(crate) fn new(settings: &'a Settings) -> Self {
        Self { settings }
    }
}

impl Fetcher for IndexFetcher<'_> {
    fn get(&self, url: &str, limit: u64) -> Result<Vec<u8>, FetchFailure> {
        let failed = |error: &dyn std::error::Error| FetchFailure {
            url: url.to_owned(),
            reason: error.to_string(),
        };
        let certificates = self.settings.ca_bundle.as_ref().map(ca::load).transpose();
        let certificates = certificates.map_err(|error| failed(&error))?;
        Options::from_environment(certificates)
            .and_then(|options| Client::new(&options))
            .and_then(|client| client.bytes(url, limit, Some(INDEX_TYPES)))
            .map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    use super::*;
    use crate::settings::CaSource;

    /// An index that is busy the first time.
    fn index() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let status = if number == 0 { "503 Later" } else { "200 OK" };
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nhi");
                let _ = stream.write_all(head.as_bytes());
            }
        });
        url
    }

    #[test]
    fn the_index_is_asked_again_when_it_is_busy() {
        let settings = Settings::default();
        assert_eq!(IndexFetcher::new(&settings).get(&index(), 10).unwrap(), b"hi");
    }

    #[test]
    fn the_certificates_of_the_run_reach_the_index() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let ca_bundle = Some(CaSource::File(file.path().to_owned()));
        let settings = Settings { ca_bundle, ..Settings::default() };
        let error = IndexFetcher::new(&settings).get(&index(), 10).unwrap_err();
        assert!(error.reason.contains("holds no PEM certificate"), "{error}");
    }
}
