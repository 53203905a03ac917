//! PAX records: `LENGTH KEY=VALUE\n`, and what GNU puts in members of its own.

/// Extended attributes of one file at most; the kernel's own limit on their
/// size is reached first.
const MAX_XATTRS: usize = 1024;

/// What extensions say about the next member.
#[derive(Debug, Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<u64>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The real size of a sparse file whose map stands before its data.
    pub(super) sparse_size: Option<u64>,
}

impl Extended {
    /// Takes the records of one extended header.
    pub(super) fn records(&mut self, mut data: &[u8]) -> Result<(), &'static str> {
        const MALFORMED: &str = "a malformed attribute record";
        while !data.is_empty() {
            let digits = data.iter().take_while(|b| b.is_ascii_digit()).count();
            let length: usize = decimal(&data[..digits]).ok_or(MALFORMED)?;
            let record = data.get(digits..length).ok_or(MALFORMED)?;
            let record = record.strip_prefix(b" ").and_then(|r| r.strip_suffix(b"\n"));
            let record = record.ok_or(MALFORMED)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or(MALFORMED)?;
            self.record(&record[..equals], &record[equals + 1..])?;
            data = &data[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let number = || decimal(value).ok_or("a malformed number in an attribute record");
        match key {
            b"path" | b"GNU.sparse.name" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(decimal(value).ok_or("an owner out of range")?),
            b"gid" => self.gid = Some(decimal(value).ok_or("a group out of range")?),
            b"mtime" => {
                // Fractions are dropped, times before 1970 are 1970.
                let whole = value.split(|b| *b == b'.').next().unwrap_or_default();
                self.mtime = Some(if whole.starts_with(b"-") {
                    0
                } else {
                    decimal(whole).ok_or("a malformed time")?
                });
            }
            b"GNU.sparse.realsize" => self.sparse_size = Some(number()?),
            b"GNU.sparse.size" | b"GNU.sparse.map" | b"GNU.sparse.offset" => {
                return Err("a sparse file in an outdated form");
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattr(name, value)?;
                }
            }
        }
        Ok(())
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if self.xattrs.len() >= MAX_XATTRS {
            return Err("too many extended attributes");
        }
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }
}

/// A decimal number of digits only.
pub(super) fn decimal<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
