//! Inspects raw images with the host's own tools, without mounting them.

use std::path::{Path, PathBuf};

use super::harness::host;

/// A partition as reported by sfdisk.
#[derive(Debug)]
pub struct Partition {
    pub number: u64,
    pub start: u64,
    pub sectors: u64,
    pub kind: String,
    pub name: String,
    pub boot: bool,
}

/// The partitions of an image, on which sfdisk and partx agree.
pub fn partitions(image: &Path) -> Vec<Partition> {
    let partitions = by_sfdisk(image);
    let arguments = ["--raw", "--noheadings", "-o", "NR,START,SECTORS", image.to_str().unwrap()];
    let listed = host("partx", &arguments, Path::new("/"));
    let extended = |part: &Partition| matches!(part.kind.as_str(), "5" | "f");
    for part in partitions.iter().filter(|part| !extended(part)) {
        let line = format!("{} {} {}", part.number, part.start, part.sectors);
        assert!(listed.lines().any(|other| other == line), "{line} in {listed}");
    }
    partitions
}

fn by_sfdisk(image: &Path) -> Vec<Partition> {
    let text = host("sfdisk", &["--json", image.to_str().unwrap()], Path::new("/"));
    let table: serde_json::Value = serde_json::from_str(&text).unwrap();
    let list = table["partitiontable"]["partitions"].as_array().unwrap();
    list.iter()
        .map(|entry| {
            let node = entry["node"].as_str().unwrap();
            let digits = node.rfind(|c: char| !c.is_ascii_digit()).unwrap() + 1;
            Partition {
                number: node[digits..].parse().unwrap(),
                start: entry["start"].as_u64().unwrap(),
                sectors: entry["size"].as_u64().unwrap(),
                kind: entry["type"].as_str().unwrap().to_owned(),
                name: entry["name"].as_str().unwrap_or("").to_owned(),
                boot: entry["bootable"].as_bool().unwrap_or(false),
            }
        })
        .collect()
}

/// Copies a part of an image to a separate file, keeping holes.
pub fn cut(image: &Path, partition: &Partition) -> PathBuf {
    let part = image.with_extension(format!("p{}", partition.number));
    host(
        "dd",
        &[
            &format!("if={}", image.display()),
            &format!("of={}", part.display()),
            "bs=1M",
            "iflag=skip_bytes,count_bytes",
            &format!("skip={}", partition.start * 512),
            &format!("count={}", partition.sectors * 512),
            "conv=sparse",
            "status=none",
        ],
        Path::new("/"),
    );
    part
}

/// A value reported by blkid: `LABEL`, `TYPE`, `UUID`.
pub fn blkid(file: &Path, tag: &str) -> String {
    host("blkid", &["-p", "-s", tag, "-o", "value", file.to_str().unwrap()], Path::new("/"))
        .trim()
        .to_owned()
}

/// A value in dumpe2fs's header.
pub fn ext_header(file: &Path, key: &str) -> String {
    let text = host("dumpe2fs", &["-h", file.to_str().unwrap()], Path::new("/"));
    let prefix = format!("{key}:");
    text.lines()
        .find_map(|line| line.strip_prefix(&prefix))
        .unwrap_or_else(|| panic!("{key} in {text}"))
        .trim()
        .to_owned()
}

/// The content of a file in an ext filesystem.
pub fn ext_file(file: &Path, path: &str) -> String {
    host("debugfs", &["-R", &format!("cat {path}"), file.to_str().unwrap()], Path::new("/"))
}

/// The names in a directory of an ext filesystem.
pub fn ext_names(file: &Path, path: &str) -> Vec<String> {
    host("debugfs", &["-R", &format!("ls -p {path}"), file.to_str().unwrap()], Path::new("/"))
        .lines()
        .filter_map(|line| Some(line.split('/').nth(5)?.to_owned()))
        .filter(|name| name != "." && name != "..")
        .collect()
}
