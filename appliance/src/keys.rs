//! The trusted archive signing keys, and the verification of signatures. rPGP does the
//! cryptography; this module does what rPGP leaves to its caller: trusted fingerprints, expiry,
//! revocation, hash algorithms, and that a subkey belongs to its key and may sign.

use pgp::{
    composed::{CleartextSignedMessage, Deserializable, SignedPublicKey},
    crypto::hash::HashAlgorithm,
    packet::{Signature, SignatureType},
    types::{KeyDetails, VerifyingKey},
};

/// The archive for which a key may sign. With separate roles, the key of one archive cannot sign
/// for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The main archive: a release and its updates.
    Archive,
    /// The security archive.
    Security,
}

/// The trusted keys by role.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    archive: Keyring,
    security: Keyring,
}

impl Trust {
    /// Returns the built-in keys of Debian.
    ///
    /// # Errors
    /// Fails if a built-in file does not contain the key with its fingerprint.
    pub(crate) fn debian() -> Result<Self, SignatureError> {
        Ok(Self {
            archive: Keyring::debian(Role::Archive)?,
            security: Keyring::debian(Role::Security)?,
        })
    }

    /// Trusts one key for all roles, for the mirror of a test.
    #[cfg(test)]
    pub(crate) fn only(key: SignedPublicKey) -> Self {
        let keyring = Keyring { keys: vec![key] };
        Self { archive: keyring.clone(), security: keyring }
    }

    /// Returns the keys of a role.
    pub(crate) fn keyring(&self, role: Role) -> &Keyring {
        match role {
            Role::Archive => &self.archive,
            Role::Security => &self.security,
        }
    }
}

/// A trusted key: role, fingerprint of its primary key, armored text.
type Entry = (Role, &'static str, &'static str);

/// Debian's keys for the supported releases. A release is signed by its own keys and those of the
/// next release.
const TRUSTED: &[Entry] = &[
    (
        Role::Archive,
        "b8b80b5b623eab6ad8775c45b7c5d7d6350947f8",
        include_str!("../keys/debian-archive-bookworm-automatic.asc"),
    ),
    (
        Role::Archive,
        "4d64fec119c2029067d6e791f8d2585b8783d481",
        include_str!("../keys/debian-archive-bookworm-stable.asc"),
    ),
    (
        Role::Security,
        "05ab90340c0c5e797f44a8c8254cf3b5aec0a8f0",
        include_str!("../keys/debian-archive-bookworm-security-automatic.asc"),
    ),
    (
        Role::Archive,
        "04b54c3cdca79751b16bc6b5225629df75b188bd",
        include_str!("../keys/debian-archive-trixie-automatic.asc"),
    ),
    (
        Role::Archive,
        "41587f7db8c774bccf131416762f67a0b2c39de4",
        include_str!("../keys/debian-archive-trixie-stable.asc"),
    ),
    (
        Role::Security,
        "5e04a1e3223a19a20706e20f9904613d4cce68c6",
        include_str!("../keys/debian-archive-trixie-security-automatic.asc"),
    ),
];

/// An error while verifying a signed text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The text is not in the cleartext signature format.
    #[error("it is not a signed text ({why})")]
    Malformed {
        /// The parser's error.
        why: String,
    },
    /// No trusted key has signed exactly this text.
    #[error("none of its {signatures} signatures is a valid one of a trusted key{refused}")]
    Untrusted {
        /// The number of signatures of the text.
        signatures: usize,
        /// Reasons for refusing signatures that trusted keys did make.
        refused: String,
    },
    /// A built-in key is damaged.
    #[error("the trusted key `{fingerprint}` is damaged ({why})")]
    Key {
        /// The fingerprint.
        fingerprint: String,
        /// The reason.
        why: String,
    },
}

/// A set of trusted keys.
#[derive(Debug, Clone)]
pub(crate) struct Keyring {
    keys: Vec<SignedPublicKey>,
}

impl Keyring {
    /// Returns the built-in keys of a role.
    ///
    /// # Errors
    /// Fails if a built-in file does not contain the key with its fingerprint.
    pub(crate) fn debian(role: Role) -> Result<Self, SignatureError> {
        let mut keys = Vec::new();
        for (_, fingerprint, text) in TRUSTED.iter().filter(|(for_role, ..)| *for_role == role) {
            keys.push(load(text, fingerprint)?);
        }
        Ok(Self { keys })
    }

    /// Verifies a cleartext-signed message and returns the signed text, which is the only
    /// trustworthy part of the input.
    ///
    /// # Errors
    /// Fails if no trusted key has a valid signature at `now` (seconds since the epoch).
    pub(crate) fn verify(&self, message: &str, now: u64) -> Result<String, SignatureError> {
        let (message, _) = CleartextSignedMessage::from_string(message)
            .map_err(|error| SignatureError::Malformed { why: error.to_string() })?;
        let text = message.signed_text();
        let mut refused = String::new();
        for signature in message.signatures() {
            for key in &self.keys {
                match check(signature, key, &text, now) {
                    Verdict::Good => return Ok(text.replace("\r\n", "\n")),
                    Verdict::NotByThisKey => {}
                    Verdict::Refused(why) => {
                        refused.push_str("; ");
                        refused.push_str(why);
                    }
                }
            }
        }
        Err(SignatureError::Untrusted { signatures: message.signatures().len(), refused })
    }
}

fn load(text: &str, fingerprint: &str) -> Result<SignedPublicKey, SignatureError> {
    let damaged = |why: String| SignatureError::Key { fingerprint: fingerprint.to_owned(), why };
    let (key, _) =
        SignedPublicKey::from_string(text).map_err(|error| damaged(error.to_string()))?;
    let found = hex::encode(key.fingerprint().as_bytes());
    if found != fingerprint {
        return Err(damaged(format!("its fingerprint is `{found}`")));
    }
    Ok(key)
}

/// The result of checking one signature with one key.
enum Verdict {
    Good,
    NotByThisKey,
    Refused(&'static str),
}

/// Whether a hash algorithm is secure. SHA-1 and MD5 can be forged; Debian's signatures do not use
/// them.
fn is_strong(hash: Option<HashAlgorithm>) -> bool {
    matches!(
        hash,
        Some(
            HashAlgorithm::Sha256
                | HashAlgorithm::Sha384
                | HashAlgorithm::Sha512
                | HashAlgorithm::Sha3_256
                | HashAlgorithm::Sha3_512
        )
    )
}

/// The validity period of a key: from its creation to its expiry, if any.
struct Validity {
    from: u64,
    until: Option<u64>,
}

impl Validity {
    fn of(created: u64, binding: &Signature) -> Self {
        let until = binding
            .key_expiration_time()
            .map(|duration| u64::from(duration.as_secs()))
            .filter(|seconds| *seconds > 0)
            .map(|seconds| created + seconds);
        Self { from: created, until }
    }

    fn covers(&self, time: u64) -> bool {
        time >= self.from && self.until.is_none_or(|until| time < until)
    }
}

fn made_at(signature: &Signature) -> u64 {
    signature.created().map_or(0, |time| u64::from(time.as_secs()))
}

/// Returns the newest signature that passes `valid`: it states a key's current expiry.
fn newest<'a>(
    signatures: impl Iterator<Item = &'a Signature>,
    valid: impl Fn(&Signature) -> bool,
) -> Option<&'a Signature> {
    signatures.filter(|signature| valid(signature)).max_by_key(|signature| made_at(signature))
}

/// Returns the validity of the primary key by its newest self-signature. Self-signatures of old
/// keys may use SHA-1; they are trusted, since the pinned fingerprints cover them.
fn primary_validity(key: &SignedPublicKey) -> Option<Validity> {
    let primary = &key.primary_key;
    let by_user = key.details.users.iter().filter_map(|user| {
        newest(user.signatures.iter(), |signature| {
            signature.verify_certification(primary, pgp::types::Tag::UserId, &user.id).is_ok()
        })
    });
    let direct = newest(key.details.direct_signatures.iter(), |signature| {
        signature.verify_key(primary).is_ok()
    });
    let newest = by_user.chain(direct).max_by_key(|signature| made_at(signature))?;
    Some(Validity::of(u64::from(primary.created_at().as_secs()), newest))
}

fn check(signature: &Signature, key: &SignedPublicKey, text: &str, now: u64) -> Verdict {
    let signed_by = |candidate: &dyn Fn() -> bool| candidate();
    let by_primary = signed_by(&|| verifies(signature, &key.primary_key, text));
    let subkey = key.public_subkeys.iter().find(|subkey| verifies(signature, &subkey.key, text));
    if !by_primary && subkey.is_none() {
        return Verdict::NotByThisKey;
    }
    if !matches!(signature.typ(), Some(SignatureType::Binary | SignatureType::Text)) {
        return Verdict::Refused("a signature is not one over a document");
    }
    if !is_strong(signature.hash_alg()) {
        return Verdict::Refused("a signature uses a hash algorithm that can be forged");
    }
    if key.details.revocation_signatures.iter().any(|r| r.verify_key(&key.primary_key).is_ok()) {
        return Verdict::Refused("a key that signed it is revoked");
    }
    let made = made_at(signature);
    // One day of tolerance for hosts whose clock is slow.
    if made > now + 86_400 {
        return Verdict::Refused("a signature was made in the future (is the clock right?)");
    }
    if let Some(validity) = signature.signature_expiration_time()
        && validity.as_secs() > 0
        && made + u64::from(validity.as_secs()) < now
    {
        return Verdict::Refused("a signature is expired");
    }
    let Some(primary) = primary_validity(key) else {
        return Verdict::Refused("a key that signed it has no valid self-signature");
    };
    let mut lives = vec![primary];
    if let Some(subkey) = subkey {
        match subkey_validity(key, subkey) {
            Ok(life) => lives.push(life),
            Err(why) => return Verdict::Refused(why),
        }
    }
    if !lives.iter().all(|life| life.covers(made) && life.covers(now)) {
        return Verdict::Refused("a key that signed it is expired");
    }
    Verdict::Good
}

fn verifies(signature: &Signature, key: &impl VerifyingKey, text: &str) -> bool {
    signature.verify(key, text.as_bytes()).is_ok()
}

/// Returns the validity of a signing subkey. The subkey must be bound to its primary key, allowed
/// to sign, confirmed by a valid back signature, and not revoked.
fn subkey_validity(
    key: &SignedPublicKey,
    subkey: &pgp::composed::SignedPublicSubKey,
) -> Result<Validity, &'static str> {
    let primary = &key.primary_key;
    let bound = |kind: SignatureType, signature: &Signature| {
        signature.typ() == Some(kind)
            && signature.verify_subkey_binding(primary, &subkey.key).is_ok()
    };
    if subkey.signatures.iter().any(|s| bound(SignatureType::SubkeyRevocation, s)) {
        return Err("a subkey that signed it is revoked");
    }
    let binding = newest(subkey.signatures.iter(), |s| bound(SignatureType::SubkeyBinding, s))
        .ok_or("a subkey that signed it is not bound to its key")?;
    if !binding.key_flags().sign() {
        return Err("a subkey that signed it is not for signing");
    }
    let confirmed = binding
        .embedded_signature()
        .is_some_and(|back| back.verify_primary_key_binding(&subkey.key, primary).is_ok());
    if !confirmed {
        return Err("a subkey that signed it does not confirm its key");
    }
    Ok(Validity::of(u64::from(subkey.key.created_at().as_secs()), binding))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An InRelease of bookworm-updates, as served by the mirror.
    pub(crate) const SIGNED: &str = include_str!("../testdata/bookworm-updates.InRelease");
    /// A time shortly after it was signed.
    pub(crate) const THEN: u64 = 1_795_054_400;

    #[test]
    fn shipped_keys_have_their_fingerprints() {
        assert_eq!(Keyring::debian(Role::Archive).unwrap().keys.len(), 4);
        assert_eq!(Keyring::debian(Role::Security).unwrap().keys.len(), 2);
    }

    #[test]
    fn a_real_release_is_verified() {
        let text = Keyring::debian(Role::Archive).unwrap().verify(SIGNED, THEN).unwrap();
        assert!(text.contains("\nCodename: bookworm-updates\n"), "{text}");
        assert!(!text.contains("PGP"), "only what was signed is returned");
    }

    #[test]
    fn one_changed_letter_is_noticed() {
        let keyring = Keyring::debian(Role::Archive).unwrap();
        let forged = SIGNED.replacen("Origin: Debian", "Origin: Debiam", 1);
        assert_ne!(forged, SIGNED);
        let error = keyring.verify(&forged, THEN).unwrap_err();
        assert!(matches!(error, SignatureError::Untrusted { .. }), "{error}");
    }

    #[test]
    fn text_outside_the_signature_is_not_believed() {
        let keyring = Keyring::debian(Role::Archive).unwrap();
        let padded = format!("{SIGNED}\nCodename: evil\n");
        if let Ok(text) = keyring.verify(&padded, THEN) {
            assert!(!text.contains("evil"));
        }
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = Keyring::debian(Role::Security).unwrap().verify(SIGNED, THEN).unwrap_err();
        assert!(matches!(error, SignatureError::Untrusted { signatures, .. } if signatures > 0));
    }

    #[test]
    fn an_expired_key_and_a_future_signature_are_refused() {
        let keyring = Keyring::debian(Role::Archive).unwrap();
        let in_2040 = 2_208_988_800;
        let error = keyring.verify(SIGNED, in_2040).unwrap_err().to_string();
        assert!(error.contains("expired"), "{error}");
        let error = keyring.verify(SIGNED, THEN - 10 * 86_400).unwrap_err().to_string();
        assert!(error.contains("future"), "{error}");
    }

    #[test]
    fn what_is_not_signed_is_refused() {
        let error = Keyring::debian(Role::Archive).unwrap().verify("Origin: Debian\n", THEN);
        assert!(matches!(error, Err(SignatureError::Malformed { .. })), "{error:?}");
    }
}
