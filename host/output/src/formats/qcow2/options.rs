//! `--qemu-img-options` for qcow2: which options this writer supports, and which need `qemu-img`.

use std::ffi::OsString;

use super::bad_option;
use crate::{
    BlockSource, OutputError, RawFile, Result, Target,
    atomic::OutFile,
    disk_input::DiskInput,
    format::{Need, split_options},
    formats::raw,
    tools,
};

/// How clusters are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// Never compressed.
    Plain,
    /// Deflated if that saves space.
    Zlib,
    /// Compressed by zstd if that saves space.
    Zstd,
}

/// The options that this crate's writer supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Options {
    /// Version 2 (`compat=0.10`) or 3 (`compat=1.1`).
    pub(super) version: u32,
    /// Base-2 logarithm of the cluster size: 9 to 21.
    pub(super) cluster_bits: u32,
    /// Whether to mark the image for lazy refcounts.
    pub(super) lazy_refcounts: bool,
    /// How clusters are stored.
    pub(super) packing: Packing,
    /// Whether the header declares zstd, which is needed even if no cluster is compressed.
    pub(super) zstd: bool,
}

const TOOL: &str = "qemu-img";

impl Options {
    /// The cluster size in bytes.
    pub(super) fn cluster_bytes(&self) -> usize {
        1 << self.cluster_bits
    }

    /// Parses the options of a target that needs no `qemu-img`.
    pub(super) fn parse(target: &Target) -> Result<Self> {
        let mut options = Self {
            version: 3,
            cluster_bits: 16,
            lazy_refcounts: false,
            packing: if target.compress { Packing::Zlib } else { Packing::Plain },
            zstd: false,
        };
        for (key, value) in split_options(target.options.as_deref().unwrap_or("")) {
            let bad = |reason: &str| Err(bad_option(target, &format!("{key}={value}"), reason));
            match (key.as_str(), value.as_str()) {
                ("compat", "0.10" | "v2") => options.version = 2,
                ("compat", "1.1" | "v3") => options.version = 3,
                ("compat", _) => return bad("compat is 0.10 or 1.1"),
                ("lazy_refcounts", "on") => options.lazy_refcounts = true,
                ("lazy_refcounts", "off") => options.lazy_refcounts = false,
                ("lazy_refcounts", _) => return bad("it is on or off"),
                ("compression_type", "zlib") => options.zstd = false,
                ("compression_type", "zstd") => options.zstd = true,
                ("compression_type", _) => return bad("it is zlib or zstd"),
                ("cluster_size", size) => match cluster_bits(size) {
                    Some(bits) => options.cluster_bits = bits,
                    None => return bad("it is a power of two from 512 to 2M"),
                },
                // `in_process` has checked that the remaining options have their defaults.
                _ => {}
            }
        }
        if options.version == 2 && (options.lazy_refcounts || options.zstd) {
            let key = if options.zstd { "compression_type" } else { "lazy_refcounts" };
            return Err(bad_option(target, key, "it needs compat=1.1"));
        }
        if options.zstd && target.compress {
            options.packing = Packing::Zstd;
        }
        Ok(options)
    }
}

/// Whether this crate's writer supports an option.
fn in_process(key: &str, value: &str) -> bool {
    match key {
        "compat" | "cluster_size" | "lazy_refcounts" | "compression_type" => true,
        "refcount_bits" => value == "16",
        "preallocation" | "encryption" | "extended_l2" | "data_file_raw" | "nocow" => {
            value == "off"
        }
        _ => false,
    }
}

fn cluster_bits(size: &str) -> Option<u32> {
    let (digits, shift) = match size.as_bytes().last()? {
        b'k' | b'K' => (&size[..size.len() - 1], 10),
        b'M' => (&size[..size.len() - 1], 20),
        _ => (size, 0),
    };
    let bytes = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    let bits = bytes.is_power_of_two().then(|| bytes.trailing_zeros())?;
    (9..=21).contains(&bits).then_some(bits)
}

/// Options of `qemu-img convert -O qcow2`, with the values of those that accept only a few.
const KNOWN: &[(&str, &[&str])] = &[
    ("backing_file", &[]),
    ("backing_fmt", &[]),
    ("cluster_size", &[]),
    ("compat", &[]),
    ("compression_type", &[]),
    ("data_file", &[]),
    ("data_file_raw", SWITCH),
    ("encryption", SWITCH),
    ("extended_l2", SWITCH),
    ("extent_size_hint", &[]),
    ("lazy_refcounts", &[]),
    ("nocow", SWITCH),
    ("preallocation", &["off", "metadata", "falloc", "full"]),
    ("refcount_bits", &["1", "2", "4", "8", "16", "32", "64"]),
];

const SWITCH: &[&str] = &["on", "off"];

/// Refuses early what `qemu-img` would refuse after the build.
fn check_known(target: &Target, key: &str, value: &str) -> Result<()> {
    let known = KNOWN.iter().find(|(known, _)| *known == key);
    let is_encryption = key.starts_with("encrypt.");
    let Some((_, values)) = known.filter(|_| !is_encryption) else {
        let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
        let reason = match is_encryption {
            true => "it needs a secret object, which cannot be given".to_owned(),
            false => format!("qcow2 has no such option; it has {}", names.join(", ")),
        };
        return Err(bad_option(target, &format!("{key}={value}"), &reason));
    };
    if values.is_empty() || values.contains(&value) {
        return Ok(());
    }
    Err(bad_option(
        target,
        &format!("{key}={value}"),
        format!("it is one of {}", values.join(", ")),
    ))
}

/// Returns `qemu-img` if an option is beyond this writer.
pub(super) fn needs(target: &Target) -> Result<Option<Need>> {
    let options = split_options(target.options.as_deref().unwrap_or(""));
    options.iter().try_for_each(|(key, value)| check_known(target, key, value))?;
    match options.iter().find(|(key, value)| !in_process(key, value)) {
        Some((key, _)) => {
            Ok(Some(Need { tool: TOOL, reason: format!("for the qcow2 option `{key}`") }))
        }
        None => Options::parse(target).map(|_| None),
    }
}

/// Writes the image with `qemu-img`.
pub(super) fn delegate(
    input: &mut DiskInput<'_>,
    out: &mut OutFile,
    target: &Target,
) -> Result<()> {
    // A source that is not a raw file is first converted to one, beside the output.
    let copy;
    let source = match input.source.raw_file() {
        Some((path, _)) => path,
        None => {
            copy = raw_copy(input, target)?;
            copy.temporary()
        }
    };
    input.decline_strides();
    let absolute = |path: &std::path::Path| {
        std::path::absolute(path).map_err(|e| OutputError::io("find", path, e))
    };
    let mut args: Vec<OsString> = ["convert", "-f", "raw", "-O", "qcow2"].map(Into::into).into();
    if target.compress {
        args.push("-c".into());
    }
    if let Some(options) = &target.options {
        args.extend(["-o".into(), options.into()]);
    }
    args.extend([absolute(source)?.into(), absolute(out.temporary())?.into()]);
    tools::run(TOOL, &args, "for the options of the qcow2 output")?;
    input.advanced(input.len());
    out.written_elsewhere()
}

fn raw_copy(input: &mut DiskInput<'_>, target: &Target) -> Result<OutFile> {
    let mut copy = OutFile::create(&target.path, true)?;
    let plain = Target { adopt: false, ..Target::new(&raw::FORMAT, &target.path) };
    raw::write(input, &mut copy, &plain)?;
    copy.seal()?;
    RawFile::open(copy.temporary()).map(|file| debug_assert_eq!(file.len(), input.len()))?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::qcow2::FORMAT;

    fn target(options: &str, compress: bool) -> Target {
        Target { options: Some(options.to_owned()), compress, ..Target::new(&FORMAT, "x") }
    }

    #[test]
    fn sizes_of_clusters() {
        assert_eq!(cluster_bits("65536"), Some(16));
        assert_eq!(cluster_bits("64k"), Some(16));
        assert_eq!(cluster_bits("2M"), Some(21));
        for bad in ["", "k", "4M", "256", "65535", "-1", "64kk", "99999999999999999999M"] {
            assert_eq!(cluster_bits(bad), None, "{bad}");
        }
    }

    #[test]
    fn options_done_here_and_elsewhere() {
        for here in ["compat=0.10", "cluster_size=2M,compression_type=zstd", "preallocation=off"] {
            assert_eq!(needs(&target(here, true)).unwrap(), None, "{here}");
        }
        for there in ["preallocation=metadata", "refcount_bits=1", "extended_l2=on"] {
            let need = needs(&target(there, true)).unwrap().unwrap();
            assert_eq!(need.tool, "qemu-img");
            assert!(need.reason.contains(there.split('=').next().unwrap()), "{}", need.reason);
        }
        for bad in [
            "size=3",
            "cluster_sise=2M",
            "unknown",
            "refcount_bits=17",
            "preallocation=on",
            "encrypt.format=luks",
            "compat=2",
            "cluster_size=3M",
            "compat=0.10,compression_type=zstd",
        ] {
            assert!(
                matches!(needs(&target(bad, true)), Err(OutputError::BadOption { .. })),
                "{bad}"
            );
        }
    }
}
