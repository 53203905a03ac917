//! The certificates that guests trust in addition to their own, for networks whose proxy intercepts
//! TLS and signs with its own certificate.

use std::{io, path::PathBuf};

use crate::{
    error::{CommandError, Kind},
    settings::{CaSource, Settings},
};

/// The trust stores of distributions, in the order in which they are tried.
const HOST_STORES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The reason why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaError {
    /// The file cannot be read.
    #[error("cannot read the certificates {}", path.display())]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file contains no certificate.
    #[error("{} holds no PEM certificate", .0.display())]
    Empty(PathBuf),
    /// The host has no trust store in any of the usual places.
    #[error("this host has no trust store: looked for {}", HOST_STORES.join(", "))]
    NoHostStore,
}

impl From<CaError> for CommandError {
    fn from(error: CaError) -> Self {
        Self::new(Kind::Usage, error)
    }
}

/// Reads the certificates of the settings as PEM, if they name any.
///
/// # Errors
/// Fails if the certificates cannot be read.
pub(crate) fn certificates(settings: &Settings) -> Result<Option<Vec<u8>>, CaError> {
    settings.ca_bundle.as_ref().map(load).transpose()
}

/// Returns the file that a source stands for.
///
/// # Errors
/// Fails if the host has no trust store.
pub(crate) fn file(source: &CaSource) -> Result<PathBuf, CaError> {
    match source {
        CaSource::File(path) => Ok(path.clone()),
        CaSource::Host => std::env::var_os("SSL_CERT_FILE")
            .map(PathBuf::from)
            .into_iter()
            .chain(HOST_STORES.iter().map(PathBuf::from))
            .find(|path| path.is_file())
            .ok_or(CaError::NoHostStore),
    }
}

/// Reads the certificates of a source as PEM.
///
/// # Errors
/// Fails if the file cannot be read or contains no certificate.
pub(crate) fn load(source: &CaSource) -> Result<Vec<u8>, CaError> {
    let path = file(source)?;
    let bytes =
        std::fs::read(&path).map_err(|source| CaError::Read { path: path.clone(), source })?;
    let marker = b"-----BEGIN CERTIFICATE-----";
    if bytes.windows(marker.len()).any(|window| window == marker) {
        Ok(bytes)
    } else {
        Err(CaError::Empty(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_without_certificates_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let source = CaSource::File(file.path().to_owned());
        assert!(matches!(load(&source), Err(CaError::Empty(_))));
        std::fs::write(file.path(), "x\n-----BEGIN CERTIFICATE-----\n").unwrap();
        assert!(load(&source).is_ok());
        let missing = CaSource::File("/nonexistent.pem".into());
        assert!(matches!(load(&missing), Err(CaError::Read { .. })));
    }
}
