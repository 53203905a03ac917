//! Signed records: a line with the HMAC-SHA-256 of the record in hexadecimal, and the record.
//!
//! The key is a secret that all users of a shared cache have. The signed data begins with a fixed
//! text, so that a signature is not valid for any other purpose.

use std::fmt;

use ring::hmac;
use store::{Hex, KeyId};

/// Minimum length of a secret in bytes: 128 bits cannot be guessed.
pub const SECRET_MIN_BYTES: usize = 16;
/// Length of the line before a signed record, in bytes: 64 hexadecimal digits and a newline.
pub(crate) const LINE_BYTES: u64 = 65;
/// The fixed text at the beginning of the signed data.
const PURPOSE: &[u8] = b"vbuild shared record 1\n";

/// A secret that signs records.
#[derive(Clone)]
pub struct Secret(hmac::Key);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// Creates a secret; `None` if it has fewer than [`SECRET_MIN_BYTES`] bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let enough = bytes.len() >= SECRET_MIN_BYTES;
        enough.then(|| Self(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }

    /// Returns a name of the secret that does not reveal it.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let tag = hmac::sign(&self.0, b"vbuild key id 1\n");
        let mut id = [0; 8];
        id.copy_from_slice(&tag.as_ref()[..8]);
        Hex(id)
    }

    /// Returns the salt for stage keys. It is derived from the secret, so that all users with the
    /// secret have the same keys.
    #[must_use]
    pub fn salt(&self) -> [u8; 32] {
        let tag = hmac::sign(&self.0, b"vbuild stage keys 1\n");
        let mut salt = [0; 32];
        salt.copy_from_slice(tag.as_ref());
        salt
    }

    /// Returns the content with its signature in front of it.
    pub(crate) fn seal(&self, content: &[u8]) -> Vec<u8> {
        let signature = hmac::sign(&self.0, &[PURPOSE, content].concat());
        [hex::encode(signature.as_ref()).as_bytes(), b"\n", content].concat()
    }

    /// Returns the content if it is signed with this secret.
    pub(crate) fn open<'a>(&self, sealed: &'a [u8]) -> Option<&'a [u8]> {
        let end = sealed.iter().position(|byte| *byte == b'\n')?;
        let (signature, content) = (&sealed[..end], &sealed[end + 1..]);
        let signature = hex::decode(signature).ok()?;
        hmac::verify(&self.0, &[PURPOSE, content].concat(), &signature).ok()?;
        Some(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_that_has_signed_opens() {
        let secret = Secret::new(b"sixteen bytes or more").unwrap();
        let sealed = secret.seal(b"content\nof lines");
        assert_eq!(secret.open(&sealed), Some(b"content\nof lines".as_slice()));
        let other = Secret::new(b"another secret of some length").unwrap();
        assert_eq!(other.open(&sealed), None);
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert_eq!(secret.open(&changed), None, "byte {index}");
        }
        assert_eq!(secret.open(b""), None);
        assert_eq!(secret.open(b"\ncontent"), None);
    }

    #[test]
    fn the_salt_and_the_name_follow_the_secret() {
        let [one, same, other] = [7, 7, 8].map(|byte| Secret::new(&[byte; 16]).unwrap());
        assert_eq!((one.salt(), one.id()), (same.salt(), same.id()));
        assert_ne!(one.salt(), other.salt());
        assert_ne!(one.id(), other.id());
        assert_ne!(one.salt()[..8], one.id().0);
    }

    #[test]
    fn short_secrets_are_none() {
        assert!(Secret::new(b"short").is_none());
        assert_eq!(format!("{:?}", Secret::new(&[7; 16]).unwrap()), "Secret(..)");
    }
}
