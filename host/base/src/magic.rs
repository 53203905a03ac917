//! Detects file formats by their magic bytes. This is the only such table on the host.

use std::io::{self, Read};

/// Bytes needed from the start of a file: VDI has its signature at offset 64.
const HEAD_BYTES: u64 = 72;

/// A format detected by magic bytes. Anyone who can write to the file controls them, so they only
/// decide how a file is refused, or how it is read if it references no other file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Magic {
    /// QEMU's format.
    Qcow2,
    /// QEMU's older format.
    Qed,
    /// VMware's sparse disk, or the descriptor text that names the files of a disk.
    Vmdk,
    /// Hyper-V's newer format.
    Vhdx,
    /// Hyper-V's older format, if its footer is repeated at the beginning. A fixed VHD has the
    /// footer at its end only, and otherwise looks like a raw disk.
    Vhd,
    /// VirtualBox's format.
    Vdi,
    /// Parallels' format.
    Parallels,
    /// Compressed by gzip.
    Gzip,
    /// Compressed by xz.
    Xz,
    /// Compressed by zstd.
    Zstd,
    /// Compressed by bzip2.
    Bzip2,
    /// A zip archive.
    Zip,
}

impl Magic {
    /// The format's usual name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Qed => "qed",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
            Self::Vhd => "vhd",
            Self::Vdi => "vdi",
            Self::Parallels => "parallels",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Zip => "zip",
        }
    }

    /// Detects the format from the start of a file; `None` for anything else, such as a raw disk.
    #[must_use]
    pub fn of(head: &[u8]) -> Option<Self> {
        const BEGINNINGS: [(&[u8], Magic); 16] = [
            (&qcow2::MAGIC, Magic::Qcow2),
            (b"QED\0", Magic::Qed),
            (b"KDMV", Magic::Vmdk),
            (b"COWD", Magic::Vmdk),
            (b"# Disk DescriptorFile", Magic::Vmdk),
            (b"vhdxfile", Magic::Vhdx),
            (b"conectix", Magic::Vhd),
            (b"<<< ", Magic::Vdi),
            (b"WithoutFreeSpace", Magic::Parallels),
            (b"WithouFreSpacExt", Magic::Parallels),
            (&[0x1f, 0x8b], Magic::Gzip),
            (b"\xfd7zXZ", Magic::Xz),
            (&[0x28, 0xb5, 0x2f, 0xfd], Magic::Zstd),
            (b"BZh", Magic::Bzip2),
            (b"PK\x03\x04", Magic::Zip),
            (b"PK\x05\x06", Magic::Zip),
        ];
        const VDI_SIGNATURE: [u8; 4] = [0x7f, 0x10, 0xda, 0xbe];
        let known = BEGINNINGS.iter().find(|(beginning, _)| head.starts_with(beginning));
        let vdi = || head.get(64..68) == Some(&VDI_SIGNATURE);
        known.map(|(_, magic)| *magic).or_else(|| vdi().then_some(Self::Vdi))
    }

    /// Reads the start of a file and detects its format.
    ///
    /// # Errors
    /// Fails if the reader does.
    pub fn read(file: impl Read) -> io::Result<Option<Self>> {
        let mut head = Vec::new();
        file.take(HEAD_BYTES).read_to_end(&mut head)?;
        Ok(Self::of(&head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings() {
        assert_eq!(Magic::of(b"QFI\xfb\0\0\0\x03"), Some(Magic::Qcow2));
        assert_eq!(Magic::of(b"QFI\xfa"), None);
        assert_eq!(Magic::of(b"# Disk DescriptorFile\nversion=1"), Some(Magic::Vmdk));
        let mut vdi = vec![b' '; 64];
        vdi.extend([0x7f, 0x10, 0xda, 0xbe]);
        assert_eq!(Magic::read(vdi.as_slice()).unwrap(), Some(Magic::Vdi));
        assert_eq!(Magic::of(&[0; 512]), None);
        assert_eq!(Magic::of(b""), None);
    }
}
