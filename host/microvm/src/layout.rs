//! The guest's physical address map, in one place so that overlaps are visible.
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

/// The boot GDT; the 64-bit boot protocol requires code in slot 2 and data in slot 3.
pub(crate) const GDT: u64 = 0x500;
/// The boot IDT, empty for Linux: an exception before the kernel sets its own IDT becomes a triple
/// fault, which vbuild reports.
pub(crate) const IDT: u64 = 0x540;
/// The page tables of the boot state: three consecutive pages.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// A 4 KiB page, the unit of everything below.
pub(crate) const PAGE_BYTES: u64 = 4096;
/// Start of the gap below 4 GiB that belongs to devices.
pub(crate) const GAP_START: u64 = 3 << 30;
/// End of the gap; RAM continues here.
pub(crate) const GAP_END: u64 = 4 << 30;
/// PVH start information: `hvm_start_info`, one module entry, the memory map.
pub(crate) const PVH_START_INFO: u64 = 0x6000;
/// The zero page of the Linux boot protocol.
pub(crate) const BOOT_PARAMS: u64 = 0x7000;
/// The kernel's command line.
pub(crate) const CMDLINE: u64 = 0x2_0000;
/// Linux accepts 2047 bytes and the final zero on x86 (`COMMAND_LINE_SIZE`).
pub(crate) const CMDLINE_MAX_BYTES: usize = 2048;
/// End of low RAM, as on a PC.
pub(crate) const LOW_RAM_END: u64 = 0x9_fc00;
/// ACPI tables start here; the kernel also looks for the RSDP from here on.
pub(crate) const ACPI_START: u64 = 0xe_0000;
/// End of the area reserved for ACPI tables.
pub(crate) const ACPI_END: u64 = 0x10_0000;
/// Start of the RAM above the first MiB; a bzImage is loaded here.
pub(crate) const HIGH_RAM_START: u64 = 0x10_0000;
/// KVM's page for the real-mode identity map (three pages for its TSS follow), in the gap, at the
/// address of a PC's firmware. Only older VMX needs them.
pub(crate) const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// KVM's TSS, see [`KVM_IDENTITY_MAP`].
pub(crate) const KVM_TSS: usize = 0xfffb_d000;

/// The first virtio-mmio slot.
pub(crate) const MMIO_BASE: u32 = 0xd000_0000;
/// Size of a slot: one page.
pub(crate) const MMIO_SLOT_BYTES: u32 = 0x1000;
/// The first GSI of a slot; lower ones belong to a PC's standard devices.
pub(crate) const MMIO_FIRST_GSI: u32 = 5;
/// Maximum slots: KVM's IOAPIC has 24 inputs, of which 5 to 23 are for slots.
pub(crate) const MMIO_SLOTS_MAX: u32 = 19;
/// The IOAPIC that `KVM_CREATE_IRQCHIP` creates.
pub(crate) const IOAPIC: u32 = 0xfec0_0000;
/// The local APICs.
pub(crate) const LAPIC: u32 = 0xfee0_0000;

/// The first serial port.
pub(crate) const COM1: u16 = 0x3f8;
/// Number of registers of an 8250.
pub(crate) const COM1_PORTS: u16 = 8;
/// The interrupt line of COM1.
pub(crate) const COM1_GSI: u32 = 4;
/// ACPI's sleep control register: writing SLP_EN with the S5 type powers off.
pub(crate) const SLEEP_CONTROL_PORT: u16 = 0x600;
/// ACPI's sleep status register. The kernel clears the wake bit here before it
/// powers off, so it must not share a port with the control register.
pub(crate) const SLEEP_STATUS_PORT: u16 = 0x601;
/// ACPI's reset register.
pub(crate) const RESET_PORT: u16 = 0x602;
/// The value that resets the machine.
pub(crate) const RESET_VALUE: u8 = 1;
/// The sleep type of S5 in our `_S5` package.
pub(crate) const S5_TYPE: u8 = 5;

/// A virtio-mmio slot: a page of registers and an interrupt line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Its index, from 0.
    pub(crate) index: u32,
}

impl Slot {
    /// Guest address of its registers.
    pub(crate) fn base(self) -> u32 {
        MMIO_BASE + self.index * MMIO_SLOT_BYTES
    }

    /// The interrupt line of the slot.
    pub(crate) fn gsi(self) -> u32 {
        MMIO_FIRST_GSI + self.index
    }
}
