//! The CPU state in which a 64-bit kernel is entered: long mode, flat segments, the first GiB
//! identity-mapped.

use kvm_bindings::{kvm_dtable, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::layout::{GDT, IDT, PAGE_BYTES, PAGE_TABLES};

/// Selector of the code segment (`__BOOT_CS` of the Linux boot protocol).
pub(crate) const BOOT_CS: u16 = 0x10;
/// Selector of the data segments (`__BOOT_DS`).
pub(crate) const BOOT_DS: u16 = 0x18;
/// Selector of the task segment; VMX requires a busy one.
const BOOT_TSS: u16 = 0x20;

/// Descriptors in GDT order: null, unused, code, data, task.
const GDT_ENTRIES: [u64; 5] = [
    0,
    0,
    0x00af_9b00_0000_ffff, // execute/read, long, present, 4 KiB granularity
    0x00cf_9300_0000_ffff, // read/write, present, 4 KiB granularity
    0x008f_8b00_0000_ffff, // busy 64-bit TSS
];

/// CR0: protection, extension type, numeric errors, write protect, paging.
const CR0_BOOT: u64 = 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// CR4: physical address extension, which long mode requires.
const CR4_PAE: u64 = 1 << 5;
/// EFER: long mode enabled and active.
const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
/// Page table entry: present, writable.
const PTE_PRESENT_RW: u64 = 0b11;
/// Page directory entry for a 2 MiB page.
const PDE_2MIB: u64 = 1 << 7;
/// Entries of one page table.
const ENTRIES: u64 = 512;
/// The shift of a 2 MiB page.
const LARGE_PAGE_SHIFT: u32 = 21;

fn segment(selector: u16) -> kvm_segment {
    let entry = GDT_ENTRIES[usize::from(selector >> 3)];
    let bit = |n: u32| u8::from(entry >> n & 1 == 1);
    let low = (entry & 0xffff) | (entry >> 32 & 0xf_0000);
    let four_kib_units = bit(55) == 1;
    let limit = if four_kib_units { low << 12 | 0xfff } else { low };
    kvm_segment {
        base: 0,
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
        selector,
        type_: (entry >> 40 & 0xf) as u8,
        present: bit(47),
        dpl: 0,
        db: bit(54),
        s: bit(44),
        l: bit(53),
        g: bit(55),
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// Writes GDT, IDT and page tables into guest memory.
pub(crate) fn write_tables(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    for (address, entry) in (GDT..).step_by(8).zip(GDT_ENTRIES) {
        memory.write_obj(entry, GuestAddress(address))?;
    }
    memory.write_obj(0u64, GuestAddress(IDT))?;
    let directory_pointers = PAGE_TABLES + PAGE_BYTES;
    let directory = PAGE_TABLES + 2 * PAGE_BYTES;
    memory.write_obj(directory_pointers | PTE_PRESENT_RW, GuestAddress(PAGE_TABLES))?;
    memory.write_obj(directory | PTE_PRESENT_RW, GuestAddress(directory_pointers))?;
    for index in 0..ENTRIES {
        let entry = index << LARGE_PAGE_SHIFT | PTE_PRESENT_RW | PDE_2MIB;
        memory.write_obj(entry, GuestAddress(directory + index * 8))?;
    }
    Ok(())
}

/// Sets the system registers of a new CPU to long mode with the tables of [`write_tables`].
pub(crate) fn enter(sregs: &mut kvm_sregs) {
    let code = segment(BOOT_CS);
    let data = segment(BOOT_DS);
    sregs.cs = code;
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.tr = segment(BOOT_TSS);
    sregs.gdt = kvm_dtable {
        base: GDT,
        limit: u16::try_from(size_of_val(&GDT_ENTRIES) - 1).unwrap_or(u16::MAX),
        ..Default::default()
    };
    sregs.idt = kvm_dtable { base: IDT, limit: 7, ..Default::default() };
    sregs.cr0 = CR0_BOOT;
    sregs.cr3 = PAGE_TABLES;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME_LMA;
}

/// Sets the system registers to 32-bit protected mode without paging, in which a PVH kernel is
/// entered.
pub(crate) fn enter_protected(sregs: &mut kvm_sregs) {
    /// Protection and extension type only.
    const CR0_PROTECTED: u64 = 1 | 1 << 4;
    enter(sregs);
    sregs.cs.l = 0;
    sregs.cs.db = 1;
    sregs.cr0 = CR0_PROTECTED;
    sregs.cr3 = 0;
    sregs.cr4 = 0;
    sregs.efer = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_follow_their_descriptors() {
        let code = segment(BOOT_CS);
        assert_eq!((code.l, code.db, code.g, code.s, code.present), (1, 0, 1, 1, 1));
        assert_eq!((code.type_, code.limit), (0xb, 0xffff_ffff));
        let data = segment(BOOT_DS);
        assert_eq!((data.type_, data.l, data.db), (3, 0, 1));
        assert_eq!(segment(BOOT_TSS).type_, 0xb);
        assert_eq!(segment(BOOT_TSS).s, 0);
    }

    #[test]
    fn the_first_gib_maps_to_itself() {
        let memory =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).expect("1 MiB maps");
        write_tables(&memory).expect("tables fit");
        let read = |address| -> u64 { memory.read_obj(GuestAddress(address)).expect("in RAM") };
        let pdpt = read(PAGE_TABLES) & !0xfff;
        let pd = read(pdpt) & !0xfff;
        assert_eq!(read(pd + 8 * 511), 511 << 21 | 0x83);
    }
}
