//! Extracts the kernel from a bzImage. A bzImage decompresses itself in the guest at every boot,
//! without the host's help; under emulation, that is a fifth of the time until the agent answers.
//! So it is done once here, and machines start the ELF file by the PVH protocol
//! (xen/include/public/arch-x86/hvm/start_info.h, also in Linux and QEMU).
//!
//! The header is described in Documentation/arch/x86/boot.rst: `HdrS` at 0x202, the protocol
//! version at 0x206, and since 2.08 offset and length of the payload at 0x248 and 0x24c, relative
//! to the end of the setup sectors.

use std::io::{self, Read};

use object::{
    Endianness,
    elf::FileHeader64,
    read::elf::{FileHeader, ProgramHeader},
};

use crate::packed;

/// Maximum size of a decompressed kernel; real ones are below 100 MiB.
const ELF_MAX_BYTES: u64 = 256 << 20;
/// Maximum block size of lz4's legacy format.
const LZ4_BLOCK_BYTES: usize = 8 << 20;
/// The magic of lz4's legacy format.
const LZ4_LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const XZ_MAGIC: [u8; 6] = *b"\xfd7zXZ\0";
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The first boot protocol version whose header describes the payload.
const PROTOCOL_WITH_PAYLOAD: u16 = 0x0208;
const SECTOR_BYTES: usize = 512;
/// The note with the 32-bit PVH entry: XEN_ELFNOTE_PHYS32_ENTRY of the owner `Xen`.
const NOTE_PVH_ENTRY: u32 = 18;

/// Returns the ELF file in a bzImage, if it can be started directly. `None` if the payload format
/// is unknown, or if the kernel has no PVH entry: then machines start the bzImage itself.
pub(crate) fn unpacked(bzimage: &[u8]) -> Option<Vec<u8>> {
    let elf = unpack(payload(bzimage)?).ok()??;
    has_pvh_entry(&elf).then_some(elf)
}

fn payload(bzimage: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| Some(u32::from_le_bytes(*bzimage.get(at..)?.first_chunk()?));
    let version = u16::from_le_bytes(*bzimage.get(0x206..)?.first_chunk()?);
    if bzimage.get(0x202..0x206)? != b"HdrS" || version < PROTOCOL_WITH_PAYLOAD {
        return None;
    }
    // Zero means four, for the oldest boot loaders.
    let sectors = match bzimage[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * SECTOR_BYTES + usize::try_from(word(0x248)?).ok()?;
    let length = usize::try_from(word(0x24c)?).ok()?;
    bzimage.get(start..start.checked_add(length)?)
}

/// Decompresses a payload; its last four bytes are its size, which the kernel's makefile appends.
fn unpack(payload: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let Some((packed, _size)) = payload.split_last_chunk::<4>() else { return Ok(None) };
    let mut elf = Vec::new();
    if let Some(blocks) = packed.strip_prefix(&LZ4_LEGACY_MAGIC) {
        lz4_blocks(blocks, &mut elf)?;
    } else if packed.starts_with(&XZ_MAGIC) {
        packed::at_most(packed::xz(packed)?, ELF_MAX_BYTES).read_to_end(&mut elf)?;
    } else if packed.starts_with(&ZSTD_MAGIC) {
        packed::at_most(packed::zstd(packed)?, ELF_MAX_BYTES).read_to_end(&mut elf)?;
    } else {
        return Ok(None);
    }
    Ok(Some(elf))
}

/// Decompresses the blocks of lz4's legacy format, each prefixed by its length.
fn lz4_blocks(mut blocks: &[u8], elf: &mut Vec<u8>) -> io::Result<()> {
    let broken = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
    let mut block = vec![0; LZ4_BLOCK_BYTES];
    while let Some((length, rest)) = blocks.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (packed, rest) =
            rest.split_at_checked(length).ok_or_else(|| broken("a block is cut off"))?;
        let size = lz4_flex::block::decompress_into(packed, &mut block)
            .map_err(|error| broken(&error.to_string()))?;
        if elf.len() as u64 + size as u64 > ELF_MAX_BYTES {
            return Err(broken("it is too large"));
        }
        elf.extend_from_slice(&block[..size]);
        blocks = rest;
    }
    Ok(())
}

fn has_pvh_entry(elf: &[u8]) -> bool {
    let entry = || -> object::Result<bool> {
        let header = FileHeader64::<Endianness>::parse(elf)?;
        let endian = header.endian()?;
        for segment in header.program_headers(endian, elf)? {
            let Some(mut notes) = segment.notes(endian, elf)? else { continue };
            while let Some(note) = notes.next()? {
                if note.name() == b"Xen" && note.n_type(endian) == NOTE_PVH_ENTRY {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    };
    entry().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with one segment that contains one note.
    fn elf(kind: u32) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        for half in [2_u16, 62] {
            file.extend(half.to_le_bytes());
        }
        file.extend(1_u32.to_le_bytes());
        for place in [0x100_0000_u64, 64, 0] {
            file.extend(place.to_le_bytes());
        }
        file.extend(0_u32.to_le_bytes());
        for half in [64_u16, 56, 1, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        for word in [4_u32, 4] {
            file.extend(word.to_le_bytes());
        }
        for place in [120_u64, 0, 0, 24, 24, 4] {
            file.extend(place.to_le_bytes());
        }
        for word in [4_u32, 8, kind] {
            file.extend(word.to_le_bytes());
        }
        file.extend(b"Xen\0\0\0\0\x01\0\0\0\0");
        file
    }

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 2 * SECTOR_BYTES];
        file[0x1f1] = 1;
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
        file[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        let length = u32::try_from(payload.len() + 4).unwrap();
        file[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        file.extend([0x90; 16]);
        file.extend(payload);
        file.extend([0; 4]);
        file
    }

    fn lz4(content: &[u8]) -> Vec<u8> {
        let mut packed = LZ4_LEGACY_MAGIC.to_vec();
        for piece in content.chunks(100) {
            let block = lz4_flex::block::compress(piece);
            packed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            packed.extend(block);
        }
        packed
    }

    #[test]
    fn the_kernel_is_taken_out_of_every_compression_of_debian() {
        let kernel = elf(NOTE_PVH_ENTRY);
        let mut xz = Vec::new();
        liblzma::read::XzEncoder::new(kernel.as_slice(), 6).read_to_end(&mut xz).unwrap();
        let zstd = zstd::encode_all(kernel.as_slice(), 3).unwrap();
        for payload in [lz4(&kernel), xz, zstd] {
            assert_eq!(unpacked(&bzimage(&payload)).as_ref(), Some(&kernel));
        }
    }

    #[test]
    fn what_cannot_be_started_stays_packed() {
        assert_eq!(unpacked(&bzimage(&lz4(&elf(17)))), None, "no PVH entry");
        assert_eq!(unpacked(&bzimage(b"\x1f\x8b\x08")), None, "gzip");
        assert_eq!(unpacked(b"bzImage"), None);
        let whole = bzimage(&lz4(&elf(NOTE_PVH_ENTRY)));
        assert_eq!(unpacked(&whole[..whole.len() - 20]), None, "cut off");
        let mut lies = whole;
        lies[0x24c..0x250].fill(0xff);
        assert_eq!(unpacked(&lies), None, "a length beyond the file");
    }

    proptest::proptest! {
        #[test]
        fn no_payload_panics(payload in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            for magic in [&LZ4_LEGACY_MAGIC[..], &XZ_MAGIC, &ZSTD_MAGIC] {
                let _ = unpacked(&bzimage(&[magic, &payload].concat()));
            }
            let _ = has_pvh_entry(&payload);
        }
    }
}
