//! Certificates of the user's network (`--ca-bundle`), trusted by what runs in a
//! guest and never part of an image.
//!
//! They lie in /dev, the one filesystem that the appliance and every image share
//! while scripts run, and programs find them by the usual variables.

use session::{Session, SessionError};

const DIRECTORY: &str = "/dev/vbuild-ca";
const FILE: &str = "/dev/vbuild-ca/ca-certificates.crt";
/// Makes apt trust [`FILE`]; apt knows no variable for that.
const APT_CONF: &str = "/dev/vbuild-ca/apt.conf";
/// Debian's trust store, made by ca-certificates.
const STORE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Debian's store is 220 kB; ten times that is no trust store.
const STORE_MAX_BYTES: u64 = 4 << 20;

/// Variables that name a file of trusted authorities: OpenSSL and Python, curl,
/// git, pip, requests, Node.
const VARIABLES: [&str; 6] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
];

/// Writes a PEM bundle where [`environment`] points to, behind the authorities
/// of the appliance, whose root the agent sees at `root`.
///
/// # Errors
/// When the guest cannot write it.
pub async fn install(session: &Session, root: &str, bundle: &[u8]) -> Result<(), SessionError> {
    session.make_directory("/", DIRECTORY, 0o755).await?;
    // A trust store that replaces the default one must hold the public
    // authorities too.
    let own = session.get_file(root, STORE, STORE_MAX_BYTES).await.unwrap_or_default();
    let whole = [own.as_slice(), b"\n", bundle].concat();
    session.put_file("/", FILE, 0o644, &whole).await?;
    let apt = format!("Acquire::https::CAInfo \"{FILE}\";\n");
    session.put_file("/", APT_CONF, 0o644, apt.as_bytes()).await
}

/// The variables with which programs find what [`install`] wrote.
#[must_use]
pub fn environment() -> Vec<(String, String)> {
    let files = VARIABLES.iter().map(|name| (*name, FILE));
    files
        .chain([("APT_CONFIG", APT_CONF)])
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
