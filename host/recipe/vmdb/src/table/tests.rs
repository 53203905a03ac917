//! Compares partition tables with parted: its results are recorded, and checked again if parted is
//! installed.

use std::{path::Path, process::Command};

use super::*;

/// Places partitions with this crate: kind, start and end of each.
fn placed(label: TableLabel, disk_bytes: u64, words: &[[&str; 3]]) -> Vec<String> {
    let mut parts: Vec<Part> = Vec::new();
    let mut shown = Vec::new();
    for (index, [kind, start, end]) in words.iter().enumerate() {
        let role = match *kind {
            "extended" => Role::Extended,
            "logical" => Role::Logical,
            _ => Role::Primary,
        };
        match place(label, disk_bytes, &parts, role, (start, end)) {
            Ok((start, end)) => {
                shown.push(format!("{start}-{}", end - 1));
                let node = format!("p{}", index + 1);
                let (fs_type, flags) = ("ext2".into(), Vec::new());
                parts.push(Part { node, role, start, end, fs_type, flags });
            }
            Err(_) => shown.push("refused".into()),
        }
    }
    shown
}

fn parted(disk: &Path, arguments: &[&str]) -> Option<Vec<String>> {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("parted")
        .arg("-sm")
        .arg(disk)
        .arg("--")
        .args(arguments)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .ok()?;
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

/// The same placed by parted; `None` if it is not installed.
fn by_parted(label: TableLabel, disk_bytes: u64, words: &[[&str; 3]]) -> Option<Vec<String>> {
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(disk_bytes).unwrap();
    let name = if label == TableLabel::Mbr { "msdos" } else { "gpt" };
    parted(disk.path(), &["mklabel", name])?;
    let mut shown = Vec::new();
    let mut known: Vec<Vec<String>> = Vec::new();
    for [kind, start, end] in words {
        // parted takes no filesystem type for an extended partition.
        let fs_type = if *kind == "extended" { &[][..] } else { &["ext2"] };
        parted(disk.path(), &[&["mkpart", *kind], fs_type, &[*start, *end]].concat())?;
        let now: Vec<Vec<String>> = parted(disk.path(), &["unit", "s", "print"])?
            .iter()
            .skip(2)
            .map(|line| line.split(':').map(|word| word.trim_end_matches('s').to_owned()).collect())
            .collect();
        let new = now.iter().find(|line| known.iter().all(|other| other[0] != line[0]));
        shown.push(new.map_or("refused".into(), |line| format!("{}-{}", line[1], line[2])));
        known = now;
    }
    Some(shown)
}

/// A label, the disk size, and the requested and resulting place of each partition.
type Case = (TableLabel, u64, &'static [[&'static str; 3]], &'static str);

#[test]
fn partitions_lie_where_parted_puts_them() {
    for (label, bytes, words, expected) in CASES {
        let ours = placed(*label, *bytes, words).join(" ");
        assert_eq!(ours, *expected, "{label:?} {bytes} {words:?}");
        match by_parted(*label, *bytes, words) {
            Some(theirs) => assert_eq!(theirs.join(" "), *expected, "{label:?} {bytes} {words:?}"),
            None => println!("parted is not installed"),
        }
    }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Results of parted 3.5.
const CASES: &[Case] = &[
    (TableLabel::Mbr, GIB, &[["primary", "0%", "100%"]], "2048-2097151"),
    (TableLabel::Gpt, GIB, &[["primary", "0%", "100%"]], "2048-2095103"),
    (
        TableLabel::Mbr,
        GIB,
        &[["primary", "1M", "512M"], ["primary", "512M", "-1s"]],
        "2048-999423 999424-2097151",
    ),
    (
        TableLabel::Gpt,
        GIB,
        &[["primary", "1MiB", "2MiB"], ["primary", "2MiB", "100%"]],
        "2048-4095 4096-2095103",
    ),
    (
        TableLabel::Gpt,
        GIB,
        &[["primary", "34s", "2047s"], ["primary", "2048s", "100%"]],
        "34-2047 2048-2095103",
    ),
    (
        TableLabel::Gpt,
        GIB,
        &[["primary", "1M", "50%"], ["primary", "50%", "100%"]],
        "2048-1048575 1048576-2095103",
    ),
    (TableLabel::Mbr, GIB, &[["primary", "63s", "100000s"]], "63-100000"),
    (
        TableLabel::Gpt,
        GIB,
        &[["primary", "0%", "300MB"], ["primary", "300MB", "600MB"], ["primary", "600MB", "-1MB"]],
        "2048-585727 585728-1171455 1171456-2095103",
    ),
    (TableLabel::Gpt, GIB, &[["primary", "1000kB", "5000kB"]], "1953-9765"),
    (TableLabel::Gpt, GIB, &[["primary", "2", "20"]], "4096-38911"),
    (TableLabel::Gpt, GIB, &[["primary", "1GB", "500MB"]], "refused"),
    (TableLabel::Gpt, GIB, &[["primary", "4096B", "2G"]], "refused"),
    (
        TableLabel::Gpt,
        4 * GIB,
        &[["primary", "0%", "1G"], ["primary", "1G", "2G"], ["primary", "2G", "4G"]],
        "2048-1953791 1953792-3905535 3905536-8386559",
    ),
    (
        TableLabel::Gpt,
        4 * GIB,
        &[["primary", "1MiB", "1GiB"], ["primary", "1GiB", "-1"]],
        "2048-2097151 2097152-8386559",
    ),
    (
        TableLabel::Gpt,
        GIB,
        &[["primary", "0%", "50%"], ["primary", "40%", "100%"]],
        "2048-1048575 refused",
    ),
    (TableLabel::Mbr, GIB, &[["primary", "1", "-0"]], "2048-2097151"),
    (TableLabel::Mbr, 1_000_000_512, &[["primary", "0%", "100%"]], "2048-1951743"),
    (
        TableLabel::Gpt,
        1_000_000_512,
        &[["primary", "0%", "10%"], ["primary", "10%", "90%"]],
        "2048-194559 194560-1757183",
    ),
    (
        TableLabel::Gpt,
        4 * GIB,
        &[["primary", "1MiB", "1GiB"], ["primary", "1.2G", "3.9G"]],
        "2048-2097151 2097152-8386559",
    ),
    (
        TableLabel::Gpt,
        4 * GIB,
        &[["primary", "1MiB", "1GiB"], ["primary", "1.6G", "3.5G"]],
        "2048-2097151 3125248-6836223",
    ),
    (
        TableLabel::Gpt,
        4 * GIB,
        &[["primary", "11M", "100M"], ["primary", "100M", "200M"]],
        "21484-195312 195313-390625",
    ),
    (
        TableLabel::Mbr,
        4 * GIB,
        &[["primary", "1MiB", "11M"], ["primary", "11M", "100%"]],
        "2048-21484 21485-8388607",
    ),
    (
        TableLabel::Mbr,
        4 * GIB,
        &[["primary", "27%", "50%"], ["primary", "50%", "-500M"]],
        "2265088-4194303 4194304-7411711",
    ),
    (
        TableLabel::Gpt,
        100 * MIB,
        &[["primary", "34s", "2047s"], ["primary", "64s", "8063s"], ["primary", "2048s", "100%"]],
        "34-2047 refused 2048-204766",
    ),
    (
        TableLabel::Gpt,
        100 * MIB,
        &[["primary", "0", "1M"], ["primary", "1M", "100%"]],
        "34-1953 1954-204766",
    ),
    (
        TableLabel::Gpt,
        100 * MIB,
        &[
            ["primary", "64s", "8063s"],
            ["primary", "16384s", "24575s"],
            ["primary", "24576s", "-34s"],
        ],
        "64-8063 16384-24575 24576-204766",
    ),
    (
        TableLabel::Mbr,
        100 * MIB,
        &[["primary", "1s", "2047s"], ["primary", "0", "100%"]],
        "1-2047 refused",
    ),
    (TableLabel::Gpt, 35 * KIB, &[["primary", "34s", "34s"]], "34-34"),
    (
        TableLabel::Gpt,
        100 * MIB,
        &[["primary", "33s", "100s"], ["primary", "0s", "100s"], ["primary", "0%", "-33s"]],
        "refused refused refused",
    ),
    (TableLabel::Gpt, 64 * MIB, &[["primary", "1M", "100%"]], "1953-131038"),
    (TableLabel::Gpt, 100 * MIB, &[["primary", "1MiB", "100%"]], "2048-204766"),
    (
        TableLabel::Mbr,
        100 * MIB,
        &[["primary", "2048s", "10239s"], ["primary", "10240s", "-1s"]],
        "2048-10239 10240-204799",
    ),
    (TableLabel::Mbr, 100 * MIB, &[["primary", "2048s", "204799s"]], "2048-204799"),
    (TableLabel::Gpt, 100 * MIB, &[["primary", "2048s", "-34s"]], "2048-204766"),
    (
        TableLabel::Gpt,
        100 * MIB,
        &[["primary", "1MiB", "99MiB"], ["primary", "99MiB", "-1MiB"]],
        "2048-202751 202752-202752",
    ),
    (TableLabel::Mbr, 100 * MIB, &[["primary", "1MiB", "100MiB"]], "refused"),
    (
        TableLabel::Mbr,
        GIB,
        &[
            ["primary", "1MiB", "10MIB"],
            ["primary", "10240KiB", "20480KiB"],
            ["primary", "20Mi", "30Mi"],
        ],
        "2048-20479 20480-40960 refused",
    ),
    (TableLabel::Mbr, GIB, &[["primary", "1MiB", "1MiB"]], "2048-2048"),
    (
        TableLabel::Mbr,
        GIB,
        &[["primary", "50%", "100%"], ["primary", "0%", "50%"]],
        "1048576-2097151 2048-1048575",
    ),
    (
        TableLabel::Gpt,
        GIB,
        &[["primary", "-300M", "-1"], ["primary", "1", "100"], ["primary", "100", "-300M"]],
        "1511424-2095103 2048-194559 194560-1511423",
    ),
    (
        TableLabel::Gpt,
        4 * GIB,
        &[
            ["primary", "34s", "49%"],
            ["primary", "49%", "2.6G"],
            ["primary", "2.6G", "2.8G"],
            ["primary", "2.8G", "3325MiB"],
            ["primary", "3325MiB", "-1MiB"],
        ],
        "34-4110417 4112384-5079039 5079040-5468159 5468160-6809599 6809600-8386559",
    ),
    (
        TableLabel::Mbr,
        100 * MIB,
        &[["extended", "1MiB", "50%"], ["extended", "50%", "100%"]],
        "2048-102399 refused",
    ),
    (
        TableLabel::Mbr,
        100 * MIB,
        &[["primary", "1MiB", "50%"], ["extended", "50%", "100%"]],
        "2048-102399 102400-204799",
    ),
    (
        TableLabel::Mbr,
        100 * MIB,
        &[
            ["primary", "1MiB", "50%"],
            ["extended", "50%", "100%"],
            ["logical", "50%", "75%"],
            ["logical", "75%", "100%"],
        ],
        "2048-102399 102400-204799 102401-153600 153602-204799",
    ),
    (
        TableLabel::Mbr,
        GIB,
        &[
            ["extended", "1M", "100%"],
            ["logical", "1M", "100M"],
            ["logical", "100M", "200M"],
            ["logical", "300M", "400M"],
            ["logical", "200M", "300M"],
        ],
        "2048-2097151 2049-195312 195314-390625 585728-780287 390627-585726",
    ),
    (
        TableLabel::Mbr,
        GIB,
        &[
            ["extended", "1M", "500M"],
            ["primary", "100M", "200M"],
            ["primary", "500M", "100%"],
            ["logical", "2MiB", "100MiB"],
            ["logical", "600M", "700M"],
        ],
        "2048-976895 refused 976896-2097151 4096-204799 refused",
    ),
    (
        TableLabel::Mbr,
        GIB,
        &[
            ["logical", "1M", "500M"],
            ["extended", "1MiB", "500MiB"],
            ["logical", "1MiB", "100MiB"],
            ["logical", "2MiB", "100MiB"],
            ["logical", "100MiB", "200MiB"],
            ["logical", "101MiB", "200MiB"],
        ],
        "refused 2048-1023999 refused 4096-204799 refused 206848-409599",
    ),
    (
        TableLabel::Mbr,
        4 * GIB,
        &[
            ["primary", "1MiB", "256MiB"],
            ["primary", "256MiB", "1GiB"],
            ["extended", "1GiB", "100%"],
            ["logical", "1025MiB", "2GiB"],
            ["logical", "2049MiB", "100%"],
            ["primary", "200M", "300M"],
        ],
        "2048-524287 524288-2097151 2097152-8388607 2099200-4194303 4196352-8388607 refused",
    ),
    (
        TableLabel::Mbr,
        100 * MIB,
        &[
            ["primary", "10M", "20M"],
            ["primary", "20M", "30M"],
            ["primary", "30M", "40M"],
            ["primary", "40M", "50M"],
            ["primary", "50M", "60M"],
            ["extended", "60M", "70M"],
        ],
        "20480-38911 38912-59391 59392-77823 77824-98303 refused refused",
    ),
    (
        TableLabel::Mbr,
        100 * MIB,
        &[
            ["primary", "10M", "20M"],
            ["primary", "20M", "30M"],
            ["primary", "30M", "40M"],
            ["extended", "40M", "50M"],
            ["primary", "50M", "60M"],
            ["logical", "42M", "50M"],
        ],
        "20480-38911 38912-59391 59392-77823 77824-98303 refused 81920-98303",
    ),
    (
        TableLabel::Mbr,
        3 << 40,
        &[
            ["primary", "0%", "100%"],
            ["primary", "0%", "1T"],
            ["primary", "1T", "2.5T"],
            ["primary", "2.5T", "100%"],
        ],
        "refused 2048-1953124351 1953124352-4882812927 refused",
    ),
];

#[test]
fn types_and_flags() {
    let part = |fs_type: &str, flags: &[(&str, bool)]| Part {
        node: "p".into(),
        role: Role::Primary,
        start: 2048,
        end: 4096,
        fs_type: fs_type.into(),
        flags: flags.iter().map(|(flag, on)| ((*flag).to_owned(), *on)).collect(),
    };
    let code = |label, fs_type, flags: &[(&str, bool)]| type_of(label, &part(fs_type, flags));
    let ok = |code: &str, boot| Ok((code.to_owned(), boot));
    assert_eq!(code(TableLabel::Mbr, "fat32", &[]), ok("0c", false));
    assert_eq!(code(TableLabel::Mbr, "ext4", &[("boot", true)]), ok("83", true));
    assert_eq!(code(TableLabel::Gpt, "ext4", &[("boot", true)]), ok("EF00", false));
    assert_eq!(code(TableLabel::Gpt, "ext2", &[("bios_grub", true)]), ok("EF02", false));
    assert_eq!(code(TableLabel::Gpt, "fat32", &[("esp", true), ("esp", false)]), ok("0700", false));
    assert_eq!(
        code(TableLabel::Mbr, "ext2", &[("bios_grub", true)]),
        Err("the flag `bios_grub` does not exist in an msdos table".into())
    );
}
