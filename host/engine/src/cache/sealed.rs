//! Values in records that are encrypted with a key derived from the salt of the store: the
//! environment of a phase's scripts, which contains the values of `--envvar`.

use plan::{Digest, Salt};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The purpose for which the key of sealed values is derived.
const PURPOSE: &str = "sealed values of records 1";

/// A value, encrypted and authenticated by ChaCha20-Poly1305: a nonce, the ciphertext
/// and its tag, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Sealed(String);

impl Sealed {
    /// Encrypts a value for the record with this key. `None` if the system has no random bytes, or
    /// if the value cannot be represented in JSON.
    pub(crate) fn seal<T: Serialize>(salt: &Salt, record: &Digest, value: &T) -> Option<Self> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut text = serde_json::to_vec(value).ok()?;
        let aad = Aad::from(record.0);
        key(salt)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text)
            .ok()?;
        Some(Self(hex::encode([nonce.as_slice(), &text].concat())))
    }

    /// Decrypts a value of the record with this key. `None` if it was sealed with another salt or
    /// for another record, or was changed.
    pub(crate) fn open<T: DeserializeOwned>(&self, salt: &Salt, record: &Digest) -> Option<T> {
        let mut bytes = hex::decode(&self.0).ok()?;
        let (nonce, text) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let text = key(salt)?.open_in_place(nonce, Aad::from(record.0), text).ok()?;
        serde_json::from_slice(text).ok()
    }
}

fn key(salt: &Salt) -> Option<LessSafeKey> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, &salt.derive(PURPOSE)).ok()?;
    Some(LessSafeKey::new(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_is_read_by_its_store_for_its_record_alone() {
        let (salt, record) = (Salt::new([1; 32]), Digest([2; 32]));
        let value = vec![("ROOT_PASSWORD".to_owned(), "hunter2".to_owned())];
        let sealed = Sealed::seal(&salt, &record, &value).unwrap();
        let json = serde_json::to_string(&sealed).unwrap();
        assert!(!json.contains("hunter2") && !json.contains(&hex::encode("hunter2")), "{json}");
        assert_eq!(sealed.open(&salt, &record), Some(value.clone()));
        assert_ne!(Sealed::seal(&salt, &record, &value).unwrap(), sealed, "two nonces");
        type Env = Vec<(String, String)>;
        assert_eq!(sealed.open::<Env>(&Salt::new([3; 32]), &record), None);
        assert_eq!(sealed.open::<Env>(&salt, &Digest([3; 32])), None);
        for text in ["", "00", "zz"] {
            assert_eq!(Sealed(text.into()).open::<Env>(&salt, &record), None);
        }
        let changed = Sealed(sealed.0.replacen(&sealed.0[30..31], "f", 1));
        assert!(changed == sealed || changed.open::<Env>(&salt, &record).is_none());
    }
}
