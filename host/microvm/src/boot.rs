//! Loads kernel, initramfs and command line into guest memory, and determines the entry state of
//! the first CPU.
//!
//! A bzImage is entered by the 64-bit Linux protocol, an ELF file with a PVH note by the PVH
//! protocol; the first bytes of the file tell which it is. The image comes from the distribution,
//! but is checked like any untrusted input: a corrupt one is an error with its reason, not a dead
//! guest.

pub(crate) mod fuzz;

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

use linux_loader::{
    loader::start_info::{
        XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED, XEN_HVM_START_MAGIC_VALUE,
    },
    loader::{
        BzImage, Elf, KernelLoader, KernelLoaderResult,
        bootparam::{boot_e820_entry, boot_params},
        elf::PvhBootCapability,
    },
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::{
    layout::{
        ACPI_END, ACPI_START, BOOT_PARAMS, CMDLINE, CMDLINE_MAX_BYTES, GAP_START, HIGH_RAM_START,
        LOW_RAM_END, PAGE_BYTES, PVH_START_INFO,
    },
    long_mode,
};

/// Errors of loading the boot payload.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// The kernel file is not bootable.
    #[error("the kernel image cannot be booted: {0}")]
    Kernel(String),
    /// A file cannot be read.
    #[error("failed to read the {what}")]
    Read {
        /// The name of the file.
        what: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Kernel and initramfs do not fit.
    #[error(
        "{needed_mib} MiB are needed for kernel and initramfs, but the guest has {has_mib} MiB below the gap"
    )]
    TooLittleMemory {
        /// The required memory in MiB.
        needed_mib: u64,
        /// The available memory in MiB.
        has_mib: u64,
    },
    /// The command line is too long.
    #[error("the kernel's command line has {len} bytes, but at most {max} are possible")]
    Cmdline {
        /// The length of the command line in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Guest memory is smaller than the fixed addresses in it.
    #[error("the guest's memory does not hold its boot data")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// The entry state of the first CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// 64-bit Linux protocol: long mode, `rsi` = zero page.
    Linux64 {
        /// First instruction.
        rip: u64,
    },
    /// PVH: 32-bit protected mode without paging, `ebx` = start information.
    Pvh {
        /// First instruction.
        rip: u64,
    },
}

/// The files and parameters to boot with.
#[derive(Debug)]
pub(crate) struct Payload<'a> {
    /// A bzImage, or an ELF file with a PVH note.
    pub(crate) kernel: &'a mut File,
    /// The initramfs.
    pub(crate) initrd: &'a mut File,
    /// The complete command line.
    pub(crate) cmdline: &'a str,
    /// The guest address of the RSDP.
    pub(crate) rsdp: GuestAddress,
}

/// The address and size of the loaded initramfs.
#[derive(Debug, Clone, Copy)]
struct Placed {
    address: u64,
    bytes: u64,
}

/// Loads everything and returns the entry state.
pub(crate) fn load(memory: &GuestMemoryMmap, payload: Payload<'_>) -> Result<Entry, BootError> {
    write_cmdline(memory, payload.cmdline)?;
    long_mode::write_tables(memory)?;
    if is_elf(payload.kernel)? { load_pvh(memory, payload) } else { load_bzimage(memory, payload) }
}

fn is_elf(kernel: &mut File) -> Result<bool, BootError> {
    let failed = |source| BootError::Read { what: "kernel image", source };
    let mut magic = [0; 4];
    let mut head = kernel.try_clone().map_err(failed)?.take(4);
    let read = head.read(&mut magic).map_err(failed)?;
    kernel.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok(magic[..read] == *b"\x7fELF")
}

fn write_cmdline(memory: &GuestMemoryMmap, cmdline: &str) -> Result<(), BootError> {
    if cmdline.len() >= CMDLINE_MAX_BYTES {
        return Err(BootError::Cmdline { len: cmdline.len(), max: CMDLINE_MAX_BYTES - 1 });
    }
    memory.write_slice(cmdline.as_bytes(), GuestAddress(CMDLINE))?;
    memory.write_obj(0u8, GuestAddress(CMDLINE + cmdline.len() as u64))?;
    Ok(())
}

/// The end of RAM below the gap.
fn low_memory_end(memory: &GuestMemoryMmap) -> u64 {
    memory.iter().next().map_or(0, |region| region.start_addr().0 + region.len())
}

/// Loads the initramfs as high as permitted, so that the kernel, which decompresses itself upwards,
/// never reaches it.
fn load_initrd(
    memory: &GuestMemoryMmap,
    initrd: &mut File,
    kernel_end: u64,
    highest: u64,
) -> Result<Placed, BootError> {
    let failed = |source| BootError::Read { what: "initramfs", source };
    let bytes = initrd.seek(SeekFrom::End(0)).map_err(failed)?;
    initrd.seek(SeekFrom::Start(0)).map_err(failed)?;
    let ram_end = low_memory_end(memory);
    let end = ram_end.min(highest.saturating_add(1));
    let address = end.checked_sub(bytes).map(|address| address & !(PAGE_BYTES - 1));
    let Some(address) = address.filter(|address| *address >= kernel_end) else {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        return Err(BootError::TooLittleMemory {
            needed_mib: mib(kernel_end.saturating_add(bytes)),
            has_mib: mib(ram_end),
        });
    };
    let len = usize::try_from(bytes).map_err(|_| BootError::Read {
        what: "initramfs",
        source: io::ErrorKind::FileTooLarge.into(),
    })?;
    memory.read_exact_volatile_from(GuestAddress(address), initrd, len)?;
    Ok(Placed { address, bytes })
}

fn load_bzimage(memory: &GuestMemoryMmap, payload: Payload<'_>) -> Result<Entry, BootError> {
    /// `XLF_KERNEL_64`: there is a 64-bit entry point.
    const XLF_KERNEL_64: u16 = 1;
    /// The offset of the 64-bit entry point from the start of the loaded kernel, in bytes.
    const ENTRY_64_OFFSET: u64 = 0x200;
    /// Boot loader type for a loader without an assigned number.
    const LOADER_UNDEFINED: u8 = 0xff;
    let start = GuestAddress(HIGH_RAM_START);
    let loaded = BzImage::load(memory, Some(start), payload.kernel, None)
        .map_err(|e| BootError::Kernel(e.to_string()))?;
    let Some(mut header) = loaded.setup_header else {
        return Err(BootError::Kernel("it has no setup header".to_owned()));
    };
    let (promised, there) = (u64::from(header.syssize) * 16, loaded.kernel_end - start.0);
    if there < promised {
        let text = format!("it is cut short: {there} of {promised} bytes are there");
        return Err(BootError::Kernel(text));
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(BootError::Kernel("it has no 64-bit entry point".to_owned()));
    }
    // The kernel moves itself to its preferred address, and needs `init_size` bytes there before
    // its own memory management starts.
    let preferred = header.pref_address.max(HIGH_RAM_START);
    let kernel_end = preferred.saturating_add(u64::from(header.init_size)).max(loaded.kernel_end);
    let highest = u64::from(header.initrd_addr_max);
    let initrd = load_initrd(memory, payload.initrd, kernel_end, highest)?;
    header.type_of_loader = LOADER_UNDEFINED;
    let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX); // below the gap
    header.ramdisk_image = narrow(initrd.address);
    header.ramdisk_size = narrow(initrd.bytes);
    header.cmd_line_ptr = narrow(CMDLINE);
    let mut params =
        boot_params { hdr: header, acpi_rsdp_addr: payload.rsdp.0, ..Default::default() };
    let ranges = memory_map(memory);
    for (entry, range) in params.e820_table.iter_mut().zip(&ranges) {
        *entry = boot_e820_entry { addr: range.start, size: range.len, r#type: range.kind.e820() };
    }
    params.e820_entries = u8::try_from(ranges.len()).unwrap_or(u8::MAX);
    memory.write_slice(struct_bytes(&params), GuestAddress(BOOT_PARAMS))?;
    Ok(Entry::Linux64 { rip: start.0 + ENTRY_64_OFFSET })
}

/// The bytes of one of the loader's `repr(C)` structures.
///
/// Only called with structures that have no padding: `boot_params` is packed,
/// and the PVH structures pad with explicit fields (their sizes are asserted by
/// the loader crate).
fn struct_bytes<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: the value is live for the borrow and `size_of::<T>()` bytes long;
    // the callers' types have no padding, so every byte is initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }
}

/// The type of a range of guest addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ram,
    Reserved,
}

impl Kind {
    fn e820(self) -> u32 {
        match self {
            Self::Ram => 1,
            Self::Reserved => 2,
        }
    }

    fn pvh(self) -> u32 {
        match self {
            Self::Ram => XEN_HVM_MEMMAP_TYPE_RAM,
            Self::Reserved => XEN_HVM_MEMMAP_TYPE_RESERVED,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u64,
    len: u64,
    kind: Kind,
}

fn memory_map(memory: &GuestMemoryMmap) -> Vec<Range> {
    let mut ranges = vec![
        Range { start: 0, len: LOW_RAM_END, kind: Kind::Ram },
        Range { start: ACPI_START, len: ACPI_END - ACPI_START, kind: Kind::Reserved },
    ];
    for region in memory.iter() {
        let start = region.start_addr().0.max(HIGH_RAM_START);
        let end = region.start_addr().0 + region.len();
        ranges.push(Range { start, len: end.saturating_sub(start), kind: Kind::Ram });
    }
    ranges
}

fn load_pvh(memory: &GuestMemoryMmap, payload: Payload<'_>) -> Result<Entry, BootError> {
    let loaded: KernelLoaderResult =
        Elf::load(memory, None, payload.kernel, Some(GuestAddress(HIGH_RAM_START)))
            .map_err(|e| BootError::Kernel(e.to_string()))?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(BootError::Kernel("this ELF file has no PVH entry point".to_owned()));
    };
    let initrd = load_initrd(memory, payload.initrd, loaded.kernel_end, GAP_START - 1)?;
    write_start_info(memory, initrd, payload.rsdp)?;
    Ok(Entry::Pvh { rip: entry.0 })
}

/// Writes `hvm_start_info` version 1, its module entry and its memory map as little-endian fields;
/// the kernel reads them at fixed offsets.
fn write_start_info(
    memory: &GuestMemoryMmap,
    initrd: Placed,
    rsdp: GuestAddress,
) -> Result<(), BootError> {
    const VERSION: u32 = 1;
    const START_INFO_BYTES: u64 = 56;
    const MODULE_BYTES: u64 = 32;
    let module = PVH_START_INFO + START_INFO_BYTES;
    let map = module + MODULE_BYTES;
    let ranges = memory_map(memory);
    let entries = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::new();
    for word in [XEN_HVM_START_MAGIC_VALUE, VERSION, 0, 1] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    for address in [module, CMDLINE, rsdp.0, map] {
        bytes.extend_from_slice(&address.to_le_bytes());
    }
    bytes.extend_from_slice(&entries.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    for field in [initrd.address, initrd.bytes, 0, 0] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    for range in ranges {
        bytes.extend_from_slice(&range.start.to_le_bytes());
        bytes.extend_from_slice(&range.len.to_le_bytes());
        bytes.extend_from_slice(&range.kind.pvh().to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
    }
    memory.write_slice(&bytes, GuestAddress(PVH_START_INFO))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::memory;

    const MIB: u64 = 1 << 20;

    fn ram(mib: u64) -> GuestMemoryMmap {
        memory::create(mib * MIB).unwrap()
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file
    }

    /// A minimal bzImage: two setup sectors, then four bytes of code.
    fn bzimage() -> Vec<u8> {
        let mut image = vec![0u8; 1024 + 4];
        let mut put = |offset: usize, bytes: &[u8]| {
            image[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(0x1f1, &[1]);
        put(0x202, b"HdrS");
        put(0x206, &0x20fu16.to_le_bytes());
        put(0x211, &[1]);
        put(0x214, &0x10_0000u32.to_le_bytes());
        put(0x22c, &0x7fff_ffffu32.to_le_bytes());
        put(0x236, &1u16.to_le_bytes());
        put(0x258, &0x100_0000u64.to_le_bytes());
        put(0x260, &0x100_0000u32.to_le_bytes());
        put(1024, b"code");
        image
    }

    fn boot(memory: &GuestMemoryMmap, kernel: &[u8], initrd: &[u8]) -> Result<Entry, BootError> {
        load(
            memory,
            Payload {
                kernel: &mut file(kernel),
                initrd: &mut file(initrd),
                cmdline: "quiet",
                rsdp: GuestAddress(ACPI_START),
            },
        )
    }

    #[test]
    fn a_bzimage_lies_at_one_mib_and_its_initramfs_at_the_top() {
        let memory = ram(64);
        let entry = boot(&memory, &bzimage(), b"070701").unwrap();
        assert_eq!(entry, Entry::Linux64 { rip: 0x10_0200 });
        let mut code = [0; 4];
        memory.read_slice(&mut code, GuestAddress(0x10_0000)).unwrap();
        assert_eq!(&code, b"code");
        let field =
            |offset| -> u32 { memory.read_obj(GuestAddress(BOOT_PARAMS + offset)).unwrap() };
        let (image, size) = (field(0x218), field(0x21c));
        assert_eq!((u64::from(image), size), (64 * MIB - 4096, 6));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(BOOT_PARAMS + 0x1e8)).unwrap(), 3);
        let rsdp: u64 = memory.read_obj(GuestAddress(BOOT_PARAMS + 0x70)).unwrap();
        assert_eq!(rsdp, ACPI_START);
    }

    #[test]
    fn memory_above_the_gap_is_a_range_of_its_own() {
        let ranges = memory_map(&ram(4096));
        assert_eq!(ranges[2], Range { start: MIB, len: 3071 * MIB, kind: Kind::Ram });
        assert_eq!(ranges[3], Range { start: 4096 * MIB, len: 1024 * MIB, kind: Kind::Ram });
    }

    #[test]
    fn too_little_memory_is_told_in_mib() {
        let error = boot(&ram(32), &bzimage(), &vec![0; 1 << 20]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "33 MiB are needed for kernel and initramfs, but the guest has 32 MiB below the gap"
        );
    }

    #[test]
    fn rubbish_is_not_a_kernel() {
        for kernel in [&b""[..], b"MZ", &[0x55; 4096], b"\x7fELF\x02\x01\x01"] {
            let error = boot(&ram(64), kernel, b"x").unwrap_err();
            assert!(matches!(error, BootError::Kernel(_)), "{error}");
        }
        let mut without_64 = bzimage();
        without_64[0x236] = 0;
        let error = boot(&ram(64), &without_64, b"x").unwrap_err();
        assert!(error.to_string().contains("64-bit"), "{error}");
        let mut cut = bzimage();
        cut[0x1f4] = 2; // paragraphs of 16 bytes
        let error = boot(&ram(64), &cut, b"x").unwrap_err();
        assert!(error.to_string().contains("4 of 32 bytes"), "{error}");
    }

    #[test]
    fn a_long_command_line_is_refused() {
        let error = write_cmdline(&ram(1), &"x".repeat(2048)).unwrap_err();
        assert!(error.to_string().contains("2048 bytes"), "{error}");
        write_cmdline(&ram(1), &"x".repeat(2047)).unwrap();
    }
}
