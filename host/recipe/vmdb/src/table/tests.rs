//! The partition tables against the tools that read them.

use std::process::Command;

use super::*;

/// Partitions as parted makes them: start and end words of each.
fn placed(label: TableLabel, disk_bytes: u64, words: &[(&str, &str)]) -> Vec<String> {
    let mut parts: Vec<Part> = Vec::new();
    let mut shown = Vec::new();
    for (index, words) in words.iter().enumerate() {
        match place(label, disk_bytes, &parts, Role::Primary, *words) {
            Ok((start, end)) => {
                shown.push(format!("{start}-{}", end - 1));
                let node = format!("p{}", index + 1);
                let (role, fs_type, flags) = (Role::Primary, "ext2".into(), Vec::new());
                parts.push(Part { node, role, start, end, fs_type, flags });
            }
            Err(_) => shown.push("refused".into()),
        }
    }
    shown
}

/// The same by parted itself; `None` when it is not installed.
fn by_parted(label: TableLabel, disk_bytes: u64, words: &[(&str, &str)]) -> Option<Vec<String>> {
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(disk_bytes).unwrap();
    let parted = |arguments: &[&str]| {
        let output = Command::new("parted").arg("-s").arg(disk.path()).args(arguments).output();
        output.ok().map(|output| (output.status.success(), output.stdout))
    };
    let name = if label == TableLabel::Mbr { "msdos" } else { "gpt" };
    parted(&["mklabel", name])?;
    let mut shown = Vec::new();
    for (index, (start, end)) in words.iter().enumerate() {
        let (made, _) = parted(&["--", "mkpart", "primary", "ext2", start, end])?;
        let output = Command::new("parted")
            .args(["-s", "-m"])
            .arg(disk.path())
            .args(["unit", "s", "print"])
            .output()
            .unwrap();
        let listing = String::from_utf8(output.stdout).unwrap();
        let number = format!("{}:", index + 1);
        let line = listing.lines().find_map(|line| line.strip_prefix(&number));
        shown.push(match line.filter(|_| made) {
            Some(line) => {
                let words: Vec<&str> = line.split(':').collect();
                format!("{}-{}", words[0].trim_end_matches('s'), words[1].trim_end_matches('s'))
            }
            None => "refused".into(),
        });
    }
    Some(shown)
}

/// A label, the size of the disk, and where each partition is to be.
type Case = (TableLabel, u64, &'static [(&'static str, &'static str)]);

#[test]
fn partitions_lie_where_parted_puts_them() {
    const GIB: u64 = 1 << 30;
    let cases: &[Case] = &[
        (TableLabel::Mbr, GIB, &[("0%", "100%")]),
        (TableLabel::Gpt, GIB, &[("0%", "100%")]),
        (TableLabel::Mbr, GIB, &[("1M", "512M"), ("512M", "-1s")]),
        (TableLabel::Gpt, GIB, &[("1MiB", "2MiB"), ("2MiB", "100%")]),
        (TableLabel::Gpt, GIB, &[("34s", "2047s"), ("2048s", "100%")]),
        (TableLabel::Gpt, GIB, &[("1M", "50%"), ("50%", "100%")]),
        (TableLabel::Mbr, GIB, &[("63s", "100000s")]),
        (TableLabel::Gpt, GIB, &[("0%", "300MB"), ("300MB", "600MB"), ("600MB", "-1MB")]),
        (TableLabel::Gpt, GIB, &[("1000kB", "5000kB")]),
        (TableLabel::Gpt, GIB, &[("2", "20")]),
        (TableLabel::Gpt, GIB, &[("1GB", "500MB")]),
        (TableLabel::Gpt, GIB, &[("4096B", "2G")]),
        (TableLabel::Gpt, 4 * GIB, &[("0%", "1G"), ("1G", "2G"), ("2G", "4G")]),
        (TableLabel::Gpt, 4 * GIB, &[("1MiB", "1GiB"), ("1GiB", "-1")]),
        (TableLabel::Gpt, GIB, &[("0%", "50%"), ("40%", "100%")]),
        (TableLabel::Mbr, GIB, &[("1", "-0")]),
        (TableLabel::Mbr, 1_000_000_512, &[("0%", "100%")]),
        (TableLabel::Gpt, 1_000_000_512, &[("0%", "10%"), ("10%", "90%")]),
        (TableLabel::Gpt, 4 * GIB, &[("1MiB", "1GiB"), ("1.2G", "3.9G")]),
        (TableLabel::Gpt, 4 * GIB, &[("1MiB", "1GiB"), ("1.6G", "3.5G")]),
        (TableLabel::Gpt, 4 * GIB, &[("11M", "100M"), ("100M", "200M")]),
        (TableLabel::Mbr, 4 * GIB, &[("1MiB", "11M"), ("11M", "100%")]),
        (TableLabel::Mbr, 4 * GIB, &[("27%", "50%"), ("50%", "-500M")]),
    ];
    for (label, bytes, words) in cases {
        let ours = placed(*label, *bytes, words);
        let Some(theirs) = by_parted(*label, *bytes, words) else {
            println!("skipped: parted is not installed");
            return;
        };
        assert_eq!(ours, theirs, "{label:?} {bytes} {words:?}");
    }
}

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
