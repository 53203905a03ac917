//! Tests partition tables by their bytes, and by what sfdisk reads from them.

use plan::{DiskName, Percent};

use super::*;

fn part(name: &str, size: Size, type_code: &str, primary: bool) -> Partition {
    Partition {
        name: name.into(),
        start: None,
        size,
        type_code: type_code.into(),
        boot: primary,
        primary,
    }
}

fn table(label: TableLabel, partitions: Vec<Partition>) -> PartitionTable {
    let placing = Placing::InOrder { align: MIB };
    PartitionTable { disk: "image0".into(), label, placing, partitions }
}

fn id(name: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
}

#[test]
fn a_full_primary_leaves_a_unit_at_each_end() {
    let table = table(TableLabel::Mbr, vec![part("root", Size::Percent(Percent::ALL), "83", true)]);
    let image = lay_out(&table, 600 * MIB, 512, &id).unwrap();
    assert_eq!(
        image.partitions,
        [Placed { name: "root".into(), number: 1, start: MIB, bytes: 598 * MIB }]
    );
    let sector = &image.writes[0].1;
    assert_eq!(&sector[510..512], [0x55, 0xaa]);
    // Boot flag, LBA 2048, type 83, and a CHS end that is right (0x11, not 0x13).
    assert_eq!(sector[446], 0x80);
    assert_eq!(sector[450], 0x83);
    assert_eq!(sector[454..458], 2048_u32.to_le_bytes());
    assert_eq!(sector[452] & 0x3f, chs(599 * 2048 - 1).sector);
}

/// Numbers that the original's own code gives: `int(free * percent / 100.0) // 512` and
/// `// (1024 * 1024)`.
#[test]
fn sizes_are_cut_as_the_original_cuts_them() {
    let sizes = |label, sizes: &[Size], disk| {
        let parts = sizes.iter().enumerate();
        let parts = parts.map(|(n, size)| part(&format!("p{n}"), *size, "83", true)).collect();
        let image = lay_out(&table(label, parts), disk, 512, &id).unwrap();
        image.partitions.iter().map(|p| (p.start / 512, p.bytes / 512)).collect::<Vec<_>>()
    };
    let percent = |number| Size::Percent(Percent::new(number).unwrap());
    let ten = Size::Bytes(10_000_000);
    let disk = 1_000_000_000 / 512 * 512;
    assert_eq!(
        sizes(TableLabel::Mbr, &[ten, percent(33.3333), percent(100.0)], disk),
        [(2048, 19531), (22528, 642_849), (665_600, 1_285_477)]
    );
    assert_eq!(
        sizes(TableLabel::Gpt, &[ten, percent(33.3333), percent(100.0)], disk),
        [(2048, 18432), (20480, 643_072), (663_552, 1_286_144)]
    );
    // All but the first unit, which the original takes too.
    assert_eq!(sizes(TableLabel::Mbr, &[Size::Bytes(9 * MIB)], 10 * MIB), [(2048, 18432)]);
}

#[test]
fn logical_partitions_count_from_five() {
    let logical = |n: usize| part(&format!("l{n}"), Size::Bytes(10 * MIB), "83", false);
    let mut partitions = vec![part("root", Size::Bytes(100 * MIB), "83", true)];
    partitions.extend((0..64).map(logical));
    let image = lay_out(&table(TableLabel::Mbr, partitions), 1024 * MIB, 512, &id).unwrap();
    let numbers: Vec<u32> = image.partitions.iter().map(|p| p.number).collect();
    assert_eq!(numbers[..3], [1, 5, 6]);
    assert_eq!(numbers.len(), 65);
    assert_eq!(image.partitions[1].start, 102 * MIB);
    assert_eq!(image.partitions[2].start, 113 * MIB);
}

#[test]
fn gpt_places_in_order_and_keeps_the_backup() {
    let table = table(
        TableLabel::Gpt,
        vec![
            part("ESP", Size::Bytes(8 * MIB), "EF00", false),
            part("BSP", Size::Bytes(8 * MIB), "EF02", false),
            part("root", Size::Percent(Percent::ALL), "8300", false),
        ],
    );
    let disk = Disk {
        name: DiskName::try_from("image0".to_owned()).unwrap(),
        role: plan::DiskRole::Target,
        size: DiskSize::Bytes(1024 * MIB),
        block_bytes: 512,
        base: None,
    };
    check_table(&table, &[disk]).unwrap();
    let image = lay_out(&table, 1024 * MIB, 512, &id).unwrap();
    let sizes: Vec<u64> = image.partitions.iter().map(|p| p.bytes / MIB).collect();
    assert_eq!(sizes, [8, 8, 1006]);
    // The backup header stands in the very last block.
    let last = image.writes.last().unwrap();
    assert!(last.0 + last.1.len() as u64 > 1024 * MIB - 512);
}

/// What sfdisk reads of a table: number, first sector, sectors and type of each.
fn read_by_sfdisk(image: &TableImage, disk_bytes: u64) -> Option<Vec<String>> {
    use std::{io::Read as _, os::unix::fs::FileExt as _, process::Command};
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(disk_bytes).unwrap();
    for (offset, bytes) in &image.writes {
        file.as_file().write_all_at(bytes, *offset).unwrap();
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let dump = Command::new("sfdisk")
        .arg("-d")
        .arg(file.path())
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .ok()?;
    let mut said = String::new();
    dump.stdout.as_slice().read_to_string(&mut said).unwrap();
    let lines = said.lines().filter_map(|line| line.split_once(" : "));
    let digits = |name: &str| name.rsplit(|c: char| !c.is_ascii_digit()).next().map(str::to_owned);
    let shown = lines.map(|(name, values)| {
        let values: Vec<&str> = values.split(',').map(str::trim).collect();
        let value = |key: &str| {
            let found = values.iter().find_map(|value| value.strip_prefix(key));
            found.unwrap_or_default().trim().to_owned()
        };
        let number = digits(name).unwrap_or_default();
        format!("{number} {}+{} {}", value("start="), value("size="), value("type="))
    });
    Some(shown.collect())
}

fn lying(name: &str, sectors: (u64, u64), primary: bool) -> Partition {
    Partition {
        start: Some(sectors.0 * 512),
        boot: false,
        ..part(name, Size::EndAt((sectors.1 + 1) * 512), "83", primary)
    }
}

#[test]
fn exact_tables_lie_where_they_were_said_to_lie() {
    let extended = |number, first: u64, last: u64| {
        let extended = Extended { number, start: first * 512, end: (last + 1) * 512 };
        Placing::Exact { extended: Some(extended) }
    };
    let exact = Placing::Exact { extended: None };
    let cases = [
        // To the sector: below 1 MiB, up to the last usable one, and not in order.
        (
            TableLabel::Gpt,
            exact,
            vec![
                lying("a", (34, 2047), true),
                lying("c", (4096, 204_766), true),
                lying("b", (2048, 4095), true),
            ],
            "1 34+2014|2 4096+200671|3 2048+2048",
        ),
        (
            TableLabel::Mbr,
            exact,
            vec![lying("a", (2048, 10_239), true), lying("b", (10_240, 204_799), true)],
            "1 2048+8192 83|2 10240+194560 83",
        ),
        // An extended partition without anything in it.
        (
            TableLabel::Mbr,
            extended(2, 102_400, 204_799),
            vec![lying("a", (2048, 102_399), true)],
            "1 2048+100352 83|2 102400+102400 f",
        ),
        // A chain that is not in order, and a primary partition made after it.
        (
            TableLabel::Mbr,
            extended(1, 2048, 102_399),
            vec![
                lying("a", (2049, 10_000), false),
                lying("c", (50_000, 60_000), false),
                lying("b", (10_002, 49_000), false),
                lying("d", (102_400, 204_799), true),
            ],
            "1 2048+100352 f|2 102400+102400 83|5 2049+7952 83|6 50000+10001 83|7 10002+38999 83",
        ),
    ];
    for (label, placing, partitions, expected) in cases {
        let table = PartitionTable { disk: "image0".into(), label, placing, partitions };
        let image = lay_out(&table, 100 * MIB, 512, &id).unwrap();
        for placed in &image.partitions {
            let shown = format!("{} {}+{}", placed.number, placed.start / 512, placed.bytes / 512);
            assert!(
                expected.split('|').any(|line| line.starts_with(&shown)),
                "{shown}: {expected}"
            );
        }
        let Some(read) = read_by_sfdisk(&image, 100 * MIB) else { continue };
        let read = read.join("|");
        let read = if label == TableLabel::Gpt {
            read.replace(" 0FC63DAF-8483-4772-8E79-3D69D8477DE4", "")
        } else {
            read
        };
        assert_eq!(read, expected);
    }
}

#[test]
fn what_an_mbr_cannot_express_is_refused() {
    let table = |partitions, placing| PartitionTable {
        disk: "image0".into(),
        label: TableLabel::Mbr,
        placing,
        partitions,
    };
    let exact = Placing::Exact { extended: None };
    let far = table(vec![lying("a", (2048, 6_442_450_943), true)], exact);
    assert!(matches!(lay_out(&far, 3 << 40, 512, &id), Err(TableError::Mbr { .. })));
    let five = (0..5).map(|n| lying(&n.to_string(), (2048 * (n + 1), 2048 * (n + 2) - 1), true));
    let five = table(five.collect(), exact);
    assert!(matches!(lay_out(&five, 100 * MIB, 512, &id), Err(TableError::Mbr { .. })));
    let alone = table(vec![lying("a", (2049, 4000), false)], exact);
    assert!(matches!(lay_out(&alone, 100 * MIB, 512, &id), Err(TableError::Mbr { .. })));
}

#[test]
fn what_does_not_fit_is_named() {
    let table = table(TableLabel::Gpt, vec![part("pv", Size::Bytes(40 << 30), "8e00", false)]);
    let error = lay_out(&table, 5 << 30, 512, &id).unwrap_err();
    assert!(matches!(error, TableError::Full { ref name, .. } if name == "pv"), "{error}");
}

#[test]
fn a_block_size_of_4096_moves_the_header() {
    let table =
        table(TableLabel::Gpt, vec![part("root", Size::Percent(Percent::ALL), "8300", false)]);
    let image = lay_out(&table, 100 * MIB, 4096, &id).unwrap();
    let header = image
        .writes
        .iter()
        .find(|(offset, bytes)| *offset <= 4096 && 4096 < offset + bytes.len() as u64)
        .unwrap();
    let at = usize::try_from(4096 - header.0).unwrap();
    assert_eq!(&header.1[at..at + 8], b"EFI PART");
}
