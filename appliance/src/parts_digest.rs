//! The digest of a list of texts: of a request, of an appliance, of the configuration driver.

use sha2::{Digest, Sha256};

/// A digest over parts of any length: each is prefixed by its length, so that different lists of
/// parts are never hashed as the same bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct PartsDigest(Sha256);

impl PartsDigest {
    pub(crate) fn part(&mut self, part: &str) -> &mut Self {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part.as_bytes());
        self
    }

    pub(crate) fn finish(self) -> String {
        hex::encode(self.0.finalize())
    }
}
