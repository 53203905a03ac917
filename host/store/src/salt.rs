//! The secret of a store with which the keys of stages are made.

use std::{
    fmt,
    fs::{self, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
};

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::{
    Result, SALT_BYTES, StoreError,
    layout::{self, Layout},
};

/// The permissions of the salt's file: only the user has access.
const MODE: u32 = 0o600;

/// The salt of a store; `Debug` does not show its bytes.
#[derive(Clone)]
pub(crate) struct Salt(pub(crate) [u8; SALT_BYTES]);

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(..)")
    }
}

/// Reads the salt of a store, or creates it if there is none: the store is new, or was made by a
/// vbuild without salts. If several processes create it at the same time, all get the same one.
pub(crate) fn read_or_make(layout: &Layout) -> Result<Salt> {
    if let Some(salt) = read(layout)? {
        return Ok(salt);
    }
    let path = layout.salt_file();
    let mut bytes = [0; SALT_BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| StoreError::io("make random bytes for", &path, io::ErrorKind::Other.into()))?;
    let mut temporary = layout.temporary()?;
    let written = temporary
        .file
        .set_permissions(Permissions::from_mode(MODE))
        .and_then(|()| temporary.file.write_all(&bytes))
        .and_then(|()| temporary.file.sync_all());
    written.map_err(|e| StoreError::io("write", &temporary.path, e))?;
    // A hard link, unlike a rename, never replaces the salt of another process.
    match fs::hard_link(&temporary.path, &path) {
        Ok(()) => Ok(Salt(bytes)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let salt = read(layout)?;
            salt.ok_or_else(|| StoreError::io("read", &path, io::ErrorKind::NotFound.into()))
        }
        Err(e) => Err(StoreError::io("create", &path, e)),
    }
}

/// Reads the salt of a store, if it has one. If other users have access to the file, they lose it.
pub(crate) fn read(layout: &Layout) -> Result<Option<Salt>> {
    let path = layout.salt_file();
    let limit = u64::try_from(SALT_BYTES + 1).unwrap_or(u64::MAX);
    let Some(content) = layout::read_small(&path, limit)? else { return Ok(None) };
    let bytes: [u8; SALT_BYTES] = content.try_into().map_err(|_| StoreError::NoStore {
        path: layout.root().to_owned(),
        reason: "its `salt` does not have 32 bytes; remove it, and what is kept is built again",
    })?;
    let mode = fs::metadata(&path).map_err(|e| StoreError::io("examine", &path, e))?;
    if mode.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "others could read the salt of the store");
        fs::set_permissions(&path, Permissions::from_mode(MODE))
            .map_err(|e| StoreError::io("protect", &path, e))?;
    }
    Ok(Some(Salt(bytes)))
}
