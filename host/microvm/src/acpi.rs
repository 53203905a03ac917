//! The ACPI tables that describe CPUs and devices to an unmodified Debian kernel.
//!
//! Debian's kernels support neither `virtio_mmio.device=` nor a device tree, so they find a
//! virtio-mmio device only as an `LNRO0005` device in the DSDT. The FADT describes a
//! hardware-reduced machine: power-off and reset are single port writes. Its "no CMOS RTC" bit
//! avoids 40,000 exits in which the kernel would wait for a missing clock.
//!
//! ```text
//! RSDP ─► XSDT ─┬─► FADT ─► DSDT   devices, \_S5
//!               └─► MADT           processors, IOAPIC
//! ```

use acpi_tables::{
    Aml,
    aml::{self, Path},
    fadt::{FADTBuilder, Flags},
    gas::{AccessSize, AddressSpace, GAS},
    madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic},
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::layout::{
    ACPI_START, COM1, COM1_GSI, COM1_PORTS, IOAPIC, LAPIC, MMIO_SLOT_BYTES, RESET_PORT,
    RESET_VALUE, S5_TYPE, SLEEP_CONTROL_PORT, SLEEP_STATUS_PORT, Slot,
};

const OEM_ID: [u8; 6] = *b"VBUILD";
const OEM_TABLE_ID: [u8; 8] = *b"MICROVM ";
const OEM_REVISION: u32 = 1;
/// Alignment of tables; the specification requires 16 for the RSDP only, but it makes dumps
/// readable.
const TABLE_ALIGN: u64 = 16;
/// DSDT revision 2 enables 64-bit integers in AML.
const DSDT_REVISION: u8 = 2;
/// `IAPC_BOOT_ARCH`: VGA not present (bit 2), CMOS RTC not present (bit 5).
const NO_VGA_NO_RTC: u16 = 1 << 2 | 1 << 5;

/// The tables with their guest addresses. The RSDP is first.
#[derive(Debug)]
pub(crate) struct Tables {
    parts: Vec<(&'static str, u64, Vec<u8>)>,
}

/// An AML sink that appends to a vector.
struct Bytewise(Vec<u8>);

impl acpi_tables::AmlSink for Bytewise {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut sink = Bytewise(Vec::new());
    table.to_aml_bytes(&mut sink);
    sink.0
}

impl Tables {
    /// Builds the tables for a number of CPUs and for these slots, in order.
    pub(crate) fn new(vcpus: u8, slots: &[Slot]) -> Self {
        let mut parts = Vec::new();
        let mut next = ACPI_START + (Rsdp::len() as u64).next_multiple_of(TABLE_ALIGN);
        let mut put = |name, bytes: Vec<u8>| {
            let address = next;
            next += (bytes.len() as u64).next_multiple_of(TABLE_ALIGN);
            parts.push((name, address, bytes));
            address
        };
        let dsdt = put("DSDT", dsdt(slots));
        let fadt = put("FACP", fadt(dsdt));
        let madt = put("APIC", madt(vcpus));
        let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
        xsdt.add_entry(fadt);
        xsdt.add_entry(madt);
        let xsdt = put("XSDT", bytes_of(&xsdt));
        parts.insert(0, ("RSDP", ACPI_START, bytes_of(&Rsdp::new(OEM_ID, xsdt))));
        Self { parts }
    }

    /// Writes the tables to guest memory and returns the address of the RSDP.
    pub(crate) fn write(&self, memory: &GuestMemoryMmap) -> Result<GuestAddress, GuestMemoryError> {
        for (_, address, bytes) in &self.parts {
            memory.write_slice(bytes, GuestAddress(*address))?;
        }
        Ok(GuestAddress(ACPI_START))
    }
}

fn register(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port))
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = NO_VGA_NO_RTC.into();
    fadt.reset_reg = register(RESET_PORT);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = register(SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = register(SLEEP_STATUS_PORT);
    bytes_of(&fadt.finalize())
}

fn madt(vcpus: u8) -> Vec<u8> {
    let mut madt =
        MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, LocalInterruptController::Address(LAPIC));
    for id in 0..vcpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IOAPIC, 0));
    bytes_of(&madt)
}

/// One virtio-mmio device; the kernel's driver matches `LNRO0005`.
fn slot_device(slot: Slot) -> Vec<u8> {
    let registers = aml::Memory32Fixed::new(true, slot.base(), MMIO_SLOT_BYTES);
    let interrupt = aml::Interrupt::new(true, true, false, false, slot.gsi());
    bytes_of(&aml::Device::new(
        Path::new(&format!("V{:03}", slot.index)),
        vec![
            &aml::Name::new("_HID".into(), &"LNRO0005"),
            &aml::Name::new("_UID".into(), &slot.index),
            &aml::Name::new("_CCA".into(), &aml::ONE),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(vec![&registers, &interrupt]),
            ),
        ],
    ))
}

fn com1_device() -> Vec<u8> {
    let length = u8::try_from(COM1_PORTS).unwrap_or(u8::MAX);
    let ports = aml::IO::new(COM1, COM1, 1, length);
    let interrupt = aml::Interrupt::new(true, true, false, false, COM1_GSI);
    bytes_of(&aml::Device::new(
        "COM1".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501")),
            &aml::Name::new("_UID".into(), &aml::ZERO),
            &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&ports, &interrupt])),
        ],
    ))
}

fn dsdt(slots: &[Slot]) -> Vec<u8> {
    /// Devices without a scope would be in the root; Linux enumerates those below the system bus.
    const SYSTEM_BUS: &str = "_SB_";
    let mut body = slots.iter().flat_map(|slot| slot_device(*slot)).collect::<Vec<u8>>();
    body.extend(com1_device());
    let body = Raw(body);
    let scope = bytes_of(&aml::Scope::new(SYSTEM_BUS.into(), vec![&body]));
    let s5 = bytes_of(&aml::Name::new("_S5_".into(), &aml::Package::new(vec![&S5_TYPE])));
    let header = u32::try_from(ACPI_HEADER_BYTES).unwrap_or(u32::MAX);
    let mut sdt = Sdt::new(*b"DSDT", header, DSDT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    sdt.append_slice(&[scope, s5].concat());
    sdt.as_slice().to_vec()
}

/// Length of the common header of all system description tables.
const ACPI_HEADER_BYTES: usize = 36;

/// Encoded AML.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        for byte in &self.0 {
            sink.byte(*byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path as FilePath, process::Command};

    use expect_test::{Expect, expect};

    use super::*;
    use crate::layout::{ACPI_END, MMIO_SLOTS_MAX};

    fn full() -> Tables {
        let slots: Vec<Slot> = (0..MMIO_SLOTS_MAX).map(|index| Slot { index }).collect();
        Tables::new(16, &slots)
    }

    #[test]
    fn checksums_lengths_and_places_hold_for_the_fullest_machine() {
        let tables = full();
        let mut end = ACPI_START;
        for (name, address, bytes) in &tables.parts {
            assert!(*address >= end, "{name} overlaps its predecessor");
            end = address + bytes.len() as u64;
            let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum, 0, "{name}");
            if *name != "RSDP" {
                let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
                assert_eq!(length as usize, bytes.len(), "{name}");
                assert_eq!(&bytes[..4], name.as_bytes());
            }
        }
        assert!(end <= ACPI_END, "tables end at {end:#x}");
    }

    #[test]
    fn the_fadt_is_revision_6_and_hardware_reduced() {
        let tables = full();
        let fadt = &tables.parts.iter().find(|(name, ..)| *name == "FACP").unwrap().2;
        assert_eq!((fadt.len(), fadt[8]), (276, 6));
        let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
        assert_eq!(flags, 1 << 20 | 1 << 10 | 1 << 5 | 1 << 4);
        assert_eq!(u16::from_le_bytes(fadt[109..111].try_into().unwrap()), 0x24);
        assert_eq!(fadt[128], RESET_VALUE);
        assert_eq!(fadt[116], 1, "the reset register is a port");
        assert_eq!(u64::from_le_bytes(fadt[120..128].try_into().unwrap()), u64::from(RESET_PORT));
        let port = u64::from_le_bytes(fadt[248..256].try_into().unwrap());
        assert_eq!(port, u64::from(SLEEP_CONTROL_PORT));
        let port = u64::from_le_bytes(fadt[260..268].try_into().unwrap());
        assert_eq!(port, u64::from(SLEEP_STATUS_PORT));
    }

    fn disassemble(dir: &FilePath, name: &str, bytes: &[u8]) -> Option<String> {
        let table = dir.join(format!("{name}.dat"));
        fs::write(&table, bytes).unwrap();
        let output = match Command::new("iasl").arg("-d").arg(&table).output() {
            Ok(output) => output,
            Err(e) => {
                println!("skipped: `iasl` of acpica-tools cannot be run: {e}");
                return None;
            }
        };
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{complaints}");
        assert!(!complaints.contains("Incorrect checksum"), "{complaints}");
        Some(fs::read_to_string(dir.join(format!("{name}.dsl"))).unwrap())
    }

    #[test]
    fn iasl_reads_back_what_was_meant() {
        let dir = tempfile::tempdir().unwrap();
        let slots = [Slot { index: 0 }, Slot { index: 1 }];
        let tables = Tables::new(2, &slots);
        let mut texts = std::collections::BTreeMap::new();
        for (name, _, bytes) in tables.parts.iter().filter(|(name, ..)| *name != "RSDP") {
            let Some(text) = disassemble(dir.path(), name, bytes) else { return };
            texts.insert(*name, text);
        }
        dsdt_expected().assert_eq(&body(&texts["DSDT"]));
        fadt_expected().assert_eq(&fields(&texts["FACP"]));
        madt_expected().assert_eq(&fields(&texts["APIC"]));
        xsdt_expected().assert_eq(&fields(&texts["XSDT"]));
    }

    /// The non-zero fields of a data table, one per line, without the positions and column widths
    /// in which releases of iasl differ, and without the compiler's name.
    fn fields(text: &str) -> String {
        let field = |line: &str| {
            let (_, rest) = line.split_once(']')?;
            let (name, value) = rest.split_once(" : ")?;
            let (name, value) = (name.trim(), value.trim());
            let zero = value.chars().all(|c| c == '0') || name.starts_with("Asl Compiler");
            (!zero && name != "Checksum").then(|| format!("{name}: {value}\n"))
        };
        text.lines().filter_map(field).collect()
    }

    /// The definition block of a table, without comments and empty lines.
    fn body(text: &str) -> String {
        let start = text.find("DefinitionBlock").unwrap();
        text[start..]
            .lines()
            .map(|line| line.split("//").next().unwrap_or("").trim_end())
            .filter(|line| !line.is_empty())
            .map(|line| line.to_owned() + "\n")
            .collect()
    }

    fn dsdt_expected() -> Expect {
        expect![[r#"
            DefinitionBlock ("", "DSDT", 2, "VBUILD", "MICROVM ", 0x00000001)
            {
                Scope (_SB)
                {
                    Device (V000)
                    {
                        Name (_HID, "LNRO0005")
                        Name (_UID, Zero)
                        Name (_CCA, One)
                        Name (_CRS, ResourceTemplate ()
                        {
                            Memory32Fixed (ReadWrite,
                                0xD0000000,
                                0x00001000,
                                )
                            Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, )
                            {
                                0x00000005,
                            }
                        })
                    }
                    Device (V001)
                    {
                        Name (_HID, "LNRO0005")
                        Name (_UID, One)
                        Name (_CCA, One)
                        Name (_CRS, ResourceTemplate ()
                        {
                            Memory32Fixed (ReadWrite,
                                0xD0001000,
                                0x00001000,
                                )
                            Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, )
                            {
                                0x00000006,
                            }
                        })
                    }
                    Device (COM1)
                    {
                        Name (_HID, EisaId ("PNP0501") /* 16550A-compatible COM Serial Port */)
                        Name (_UID, Zero)
                        Name (_CRS, ResourceTemplate ()
                        {
                            IO (Decode16,
                                0x03F8,
                                0x03F8,
                                0x01,
                                0x08,
                                )
                            Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, )
                            {
                                0x00000004,
                            }
                        })
                    }
                }
                Name (_S5, Package (0x01)
                {
                    0x05
                })
            }
        "#]]
    }

    fn fadt_expected() -> Expect {
        expect![[r#"
            FieldName: FieldValue
            Signature: "FACP"    [Fixed ACPI Description Table (FADT)]
            Table Length: 00000114
            Revision: 06
            Oem ID: "VBUILD"
            Oem Table ID: "MICROVM "
            Oem Revision: 00000001
            PM Profile: 00 [Unspecified]
            Boot Flags (decoded below): 0024
            Flags (decoded below): 00100430
            Reset Register: [Generic Address Structure]
            Space ID: 01 [SystemIO]
            Bit Width: 08
            Encoded Access Width: 01 [Byte Access:8]
            Address: 0000000000000602
            Value to cause reset: 01
            FADT Minor Revision: 05
            DSDT Address: 00000000000E0030
            PM1A Event Block: [Generic Address Structure]
            Space ID: 00 [SystemMemory]
            Encoded Access Width: 00 [Undefined/Legacy]
            PM1B Event Block: [Generic Address Structure]
            Space ID: 00 [SystemMemory]
            Encoded Access Width: 00 [Undefined/Legacy]
            PM1A Control Block: [Generic Address Structure]
            Space ID: 00 [SystemMemory]
            Encoded Access Width: 00 [Undefined/Legacy]
            PM1B Control Block: [Generic Address Structure]
            Space ID: 00 [SystemMemory]
            Encoded Access Width: 00 [Undefined/Legacy]
            PM2 Control Block: [Generic Address Structure]
            Space ID: 00 [SystemMemory]
            Encoded Access Width: 00 [Undefined/Legacy]
            PM Timer Block: [Generic Address Structure]
            Space ID: 00 [SystemMemory]
            Encoded Access Width: 00 [Undefined/Legacy]
            GPE0 Block: [Generic Address Structure]
            Space ID: 00 [SystemMemory]
            Encoded Access Width: 00 [Undefined/Legacy]
            GPE1 Block: [Generic Address Structure]
            Space ID: 00 [SystemMemory]
            Encoded Access Width: 00 [Undefined/Legacy]
            Sleep Control Register: [Generic Address Structure]
            Space ID: 01 [SystemIO]
            Bit Width: 08
            Encoded Access Width: 01 [Byte Access:8]
            Address: 0000000000000600
            Sleep Status Register: [Generic Address Structure]
            Space ID: 01 [SystemIO]
            Bit Width: 08
            Encoded Access Width: 01 [Byte Access:8]
            Address: 0000000000000601
        "#]]
    }

    fn madt_expected() -> Expect {
        expect![[r#"
            FieldName: FieldValue
            Signature: "APIC"    [Multiple APIC Description Table (MADT)]
            Table Length: 00000048
            Revision: 01
            Oem ID: "VBUILD"
            Oem Table ID: "MICROVM "
            Oem Revision: 00000001
            Local Apic Address: FEE00000
            Subtable Type: 00 [Processor Local APIC]
            Length: 08
            Flags (decoded below): 00000001
            Subtable Type: 00 [Processor Local APIC]
            Length: 08
            Processor ID: 01
            Local Apic ID: 01
            Flags (decoded below): 00000001
            Subtable Type: 01 [I/O APIC]
            Length: 0C
            Address: FEC00000
        "#]]
    }

    fn xsdt_expected() -> Expect {
        expect![[r#"
            FieldName: FieldValue
            Signature: "XSDT"    [Extended System Description Table]
            Table Length: 00000034
            Revision: 01
            Oem ID: "VBUILD"
            Oem Table ID: "MICROVM "
            Oem Revision: 00000001
            ACPI Table Address   0: 00000000000E0120
            ACPI Table Address   1: 00000000000E0240
        "#]]
    }
}
