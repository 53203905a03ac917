//! Parses PAX records: `LENGTH KEY=VALUE\n`, where the length is that of the whole record.

use crate::{PATH_MAX_BYTES, XATTR_NAME_MAX_BYTES, XATTR_VALUE_MAX_BYTES, XATTRS_MAX};

/// An extended attribute: its name without NUL, and its value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// The prefix of the keys of extended attributes.
const XATTR_KEY: &[u8] = b"SCHILY.xattr.";

/// Returns the key of an extended attribute. As in GNU tar, `=` (which ends a key) and `%` are
/// written as hexadecimal digits.
#[must_use]
pub fn xattr_key(name: &[u8]) -> Vec<u8> {
    let mut key = XATTR_KEY.to_vec();
    for byte in name {
        match byte {
            b'=' => key.extend_from_slice(b"%3D"),
            b'%' => key.extend_from_slice(b"%25"),
            other => key.push(*other),
        }
    }
    key
}

/// Returns the name of an extended attribute from its key without the prefix.
fn xattr_of_key(key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len());
    let mut rest = key;
    while let Some((first, tail)) = rest.split_first() {
        let (byte, tail) = match (rest.strip_prefix(b"%3D"), rest.strip_prefix(b"%25")) {
            (Some(tail), _) => (b'=', tail),
            (_, Some(tail)) => (b'%', tail),
            _ => (*first, tail),
        };
        name.push(byte);
        rest = tail;
    }
    name
}

/// The fields of the next member that extensions set.
#[derive(Debug, Default)]
pub(crate) struct Extended {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) mtime: Option<(i64, u32)>,
    pub(crate) xattrs: Vec<Xattr>,
    /// The real size of a sparse file whose map is stored before its data.
    pub(crate) sparse_size: Option<u64>,
}

impl Extended {
    /// Applies the records of one extended header. If a key is repeated, the last record counts.
    pub(crate) fn records(&mut self, mut data: &[u8]) -> Result<(), &'static str> {
        const MALFORMED: &str = "a malformed attribute record";
        while !data.is_empty() {
            let digits = data.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let length: usize = decimal(&data[..digits]).ok_or(MALFORMED)?;
            let record = data.get(digits..length).ok_or(MALFORMED)?;
            let record = record.strip_prefix(b" ").and_then(|r| r.strip_suffix(b"\n"));
            let record = record.ok_or(MALFORMED)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(MALFORMED)?;
            self.record(&record[..equals], &record[equals + 1..])?;
            data = &data[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let number = || decimal(value).ok_or("a malformed number in an attribute record");
        match key {
            b"path" | b"GNU.sparse.name" => {
                self.path = Some(path(value).ok_or("a path that is longer than Linux takes")?);
            }
            b"linkpath" => {
                self.link = Some(path(value).ok_or("a target that is longer than Linux takes")?);
            }
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(decimal(value).ok_or("an owner out of range")?),
            b"gid" => self.gid = Some(decimal(value).ok_or("a group out of range")?),
            b"mtime" => self.mtime = Some(time(value).ok_or("a malformed time")?),
            b"GNU.sparse.realsize" => self.sparse_size = Some(number()?),
            b"GNU.sparse.size" | b"GNU.sparse.map" | b"GNU.sparse.offset" => {
                return Err("a sparse file in an outdated form");
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_KEY) {
                    self.xattr(&xattr_of_key(name), value)?;
                }
            }
        }
        Ok(())
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if name.is_empty() || name.len() > XATTR_NAME_MAX_BYTES || name.contains(&0) {
            return Err("an extended attribute whose name Linux does not take");
        }
        if value.len() > XATTR_VALUE_MAX_BYTES {
            return Err("an extended attribute that is longer than Linux takes");
        }
        if let Some((_, old)) = self.xattrs.iter_mut().find(|(known, _)| known == name) {
            *old = value.to_vec();
            return Ok(());
        }
        if self.xattrs.len() >= XATTRS_MAX {
            return Err("too many extended attributes");
        }
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }
}

fn path(value: &[u8]) -> Option<Vec<u8>> {
    (value.len() <= PATH_MAX_BYTES).then(|| value.to_vec())
}

/// Parses a decimal number that consists of digits only.
pub(crate) fn decimal<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Parses a decimal number of seconds, optionally with a minus sign and a fraction. Returns whole
/// seconds, rounded down, and nanoseconds.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    const PLACES: usize = 9;
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let point = value.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match point {
        Some(at) => (&value[..at], &value[at + 1..]),
        None => (value, &b""[..]),
    };
    let seconds: i64 = decimal(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(PLACES);
    let nanoseconds = digits.fold(0, |n, byte| n * 10 + u32::from(byte - b'0'));
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_split_by_their_length() {
        let value = b"a\nb=c\0";
        let mut bytes = b"13 uid=70000\n".to_vec();
        bytes.extend(format!("{} SCHILY.xattr.user.x=", 3 + 20 + value.len() + 1).bytes());
        bytes.extend(value);
        bytes.push(b'\n');
        let mut extended = Extended::default();
        extended.records(&bytes).unwrap();
        assert_eq!(extended.uid, Some(70000));
        assert_eq!(extended.xattrs, [(b"user.x".to_vec(), value.to_vec())]);
    }

    #[test]
    fn attributes_keep_their_names() {
        for name in ["user.a=b", "user.100%", "user.%3D", "user.plain", "user.=%25="] {
            let key = xattr_key(name.as_bytes());
            assert!(!key.contains(&b'='), "{name}");
            let mut extended = Extended::default();
            extended.record(&key, b"v=w").unwrap();
            assert_eq!(extended.xattrs, [(name.as_bytes().to_vec(), b"v=w".to_vec())]);
        }
        assert_eq!(xattr_key(b"user.a=b"), b"SCHILY.xattr.user.a%3Db");
    }

    #[test]
    fn hostile_records_are_refused() {
        for bytes in [
            &b"5 a"[..],
            b"99 a=b\n",
            b" a=b\n",
            b"0 a=b\n",
            b"6 a=bc",
            b"9 uid=-1\n",
            b"11 uid=1000\n",
            b"16 SCHILY.xattr.=\n",
        ] {
            assert!(Extended::default().records(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn times_have_fractions_and_signs() {
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"12.1234567899"), Some((12, 123_456_789)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        assert_eq!(time(b"7"), Some((7, 0)));
        for bad in [&b"x"[..], b"", b"-", b"1.x", b".5", b"+1", b"99999999999999999999"] {
            assert_eq!(time(bad), None, "{}", bad.escape_ascii());
        }
    }
}
