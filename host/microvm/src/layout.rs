//! Where things lie in the guest's physical address space, in one place so that
//! overlaps are visible.
//!
//! ```text
//! 0x0000_0500  GDT, IDT of the boot state
//! 0x0000_6000  PVH start_info, module list, memory map
//! 0x0000_7000  boot_params ("zero page")
//! 0x0000_9000  PML4, PDPT, one PD: identity map of the first GiB
//! 0x0002_0000  kernel command line
//! 0x0009_fc00  end of low RAM (what a PC calls the EBDA)
//! 0x000e_0000  ACPI tables, reserved in the e820 map
//! 0x0010_0000  kernel, then initramfs as high as it may lie
//! 0xc000_0000  the gap: virtio-mmio slots, IOAPIC, LAPIC
//! 0x1_0000_0000  the rest of RAM
//! ```

/// The boot GDT; the 64-bit boot protocol wants code in slot 2, data in slot 3.
pub(crate) const GDT: u64 = 0x500;
/// The boot IDT, empty for Linux: an exception before the kernel has its own
/// table becomes a triple fault, which vbuild reports.
pub(crate) const IDT: u64 = 0x540;
/// The page tables of the boot state: three consecutive pages.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// A 4 KiB page, the unit of everything below.
pub(crate) const PAGE_BYTES: u64 = 4096;
/// Start of the gap below 4 GiB that belongs to devices.
pub(crate) const GAP_START: u64 = 3 << 30;
/// End of the gap; RAM goes on here.
pub(crate) const GAP_END: u64 = 4 << 30;
