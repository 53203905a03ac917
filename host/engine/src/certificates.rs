//! Certificates of the user's network (`--ca-bundle`), which programs in a guest trust, and which
//! never become part of an image.
//!
//! They are in /dev, the only filesystem that the appliance and every image share while scripts
//! run. Programs find them by the usual environment variables.

use session::{Session, SessionError};

const DIRECTORY: &str = "/dev/vbuild-ca";
const FILE: &str = "/dev/vbuild-ca/ca-certificates.crt";
/// A configuration file that makes apt trust [`FILE`], since apt has no variable for that.
const APT_CONF: &str = "/dev/vbuild-ca/apt.conf";
/// Debian's trust store, created by the package ca-certificates.
const STORE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Maximum size of a trust store. Debian's has 220 kB; a file of more than ten times that size is
/// not a trust store.
const STORE_MAX_BYTES: u64 = 4 << 20;

/// Environment variables that name a file of trusted authorities: for OpenSSL and Python, curl,
/// git, pip, requests, and Node.
const VARIABLES: [&str; 6] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
];

/// Writes a PEM bundle to the file that [`environment`] names, after the authorities of the
/// appliance. `root` is the root of the appliance, seen from the agent.
///
/// # Errors
/// Fails if the guest cannot write the files.
pub async fn install(session: &Session, root: &str, bundle: &[u8]) -> Result<(), SessionError> {
    session.make_directory("/", DIRECTORY, 0o755).await?;
    // A trust store that replaces the default one must contain the public authorities too.
    let own = session.get_file(root, STORE, STORE_MAX_BYTES).await.unwrap_or_default();
    let whole = [own.as_slice(), b"\n", bundle].concat();
    session.put_file("/", FILE, 0o644, &whole).await?;
    let apt = format!("Acquire::https::CAInfo \"{FILE}\";\n");
    session.put_file("/", APT_CONF, 0o644, apt.as_bytes()).await
}

/// Returns the environment variables by which programs find the files that [`install`] writes.
#[must_use]
pub fn environment() -> Vec<(String, String)> {
    let files = VARIABLES.iter().map(|name| (*name, FILE));
    files
        .chain([("APT_CONFIG", APT_CONF)])
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
