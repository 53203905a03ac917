//! `unpack-rootfs` and `cache-rootfs`: a root filesystem that was made before.
//!
//! Whether the tarball exists is known before the build, so the flag
//! `rootfs_unpacked` is too, and steps that it skips are not in the plan.

use plan::{FileStep, Step, Upload, Value};

use super::StepKind;
use crate::{
    fields::Fields,
    lower::{Fault, Lowering, Tarball, guest_path},
};

/// Where the tarball is in the guest.
const CACHE_AT: &str = "/build/rootfs-cache";

/// The tarball: path on the host and name.
fn tarball(lowering: &Lowering<'_>) -> Result<(String, String), Fault> {
    let Some(path) = lowering.settings.rootfs_tarball.clone() else {
        let fault = Fault::new("", "needs the option --rootfs-tarball");
        return Err(fault.hint("--rootfs-tarball FILE, which need not exist yet"));
    };
    let name = std::path::Path::new(&path).file_name().map(|n| n.to_string_lossy().into_owned());
    match name {
        Some(name) => Ok((path, name)),
        None => Err(Fault::new("", format!("--rootfs-tarball {path} names no file"))),
    }
}

/// Unpacks the tarball, if it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackRootfs {
    /// The tag of the filesystem.
    pub tag: String,
}

impl StepKind for UnpackRootfs {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self { tag: fields.word("unpack-rootfs") }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let root = lowering.root_of("unpack-rootfs", &self.tag)?;
        let (path, name) = tarball(lowering)?;
        let mut work = Vec::new();
        match lowering.tarball {
            Tarball::Missing => return Ok(()),
            Tarball::InGuest => {}
            Tarball::OnHost => {
                let file =
                    lowering.directories.file(&path).map_err(Fault::input("unpack-rootfs"))?;
                let to = guest_path("", CACHE_AT)?;
                let what = "root filesystem".into();
                let entries = vec![file.entry(&name, 0o644)];
                work.push(Step::Upload(Upload { what, to, entries }).into());
                lowering.tarball = Tarball::InGuest;
            }
        }
        let file = format!("{CACHE_AT}/{name}");
        let words = ["tar", "-C", root.as_str(), "-xf", &file, "--numeric-owner"];
        let argv: Vec<Value> = words.iter().map(|word| (*word).into()).collect();
        work.push(lowering.tool("unpack", argv).work());
        lowering.stage("", Some(&root), false, work);
        lowering.rootfs_unpacked = true;
        Ok(())
    }
}

/// Packs the root filesystem for later builds, unless that was done before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRootfs {
    /// The tag of the filesystem.
    pub tag: String,
    /// Options for tar.
    pub options: Vec<String>,
    /// Whether an existing tarball is replaced.
    pub force: bool,
}

impl StepKind for CacheRootfs {
    fn read(fields: &mut Fields<'_>) -> Self {
        let tag = fields.word("cache-rootfs");
        let options = fields.text_or("options", "--one-file-system");
        let options = options.split_whitespace().map(str::to_owned).collect();
        Self { tag, options, force: fields.flag_or("force", false) }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let root = lowering.root_of("cache-rootfs", &self.tag)?;
        let (path, name) = tarball(lowering)?;
        if lowering.tarball != Tarball::Missing && !self.force {
            return Ok(());
        }
        // What is mounted below is packed too, for which it must be named.
        let base = lowering.mounted("cache-rootfs", &self.tag)?.point.clone();
        let mut directories: Vec<String> = lowering
            .tags
            .iter()
            .filter_map(|tag| tag.mounted.as_ref()?.point.strip_prefix(&base))
            .map(|below| {
                if below.is_empty() { ".".into() } else { below.trim_start_matches('/').to_owned() }
            })
            .collect();
        directories.sort();
        let to = guest_path("", CACHE_AT)?;
        let mut words = vec!["tar".to_owned()];
        words.extend(self.options.iter().cloned());
        words.extend(["-C".into(), root.to_string(), "-caf".into(), format!("{to}/{name}")]);
        words.extend(directories);
        let argv = words.into_iter().map(Value::Text).collect();
        let parent = std::path::Path::new(&path).parent().filter(|p| !p.as_os_str().is_empty());
        let host = match (parent, lowering.settings.directories.first()) {
            (Some(parent), Some(directory)) => directory.join(parent),
            (Some(parent), None) => parent.to_owned(),
            (None, Some(directory)) => directory.clone(),
            (None, None) => ".".into(),
        };
        let work = vec![
            Step::File(FileStep::MakeDirectory { path: to.clone(), mode: 0o755 }).into(),
            lowering.tool("pack", argv).work(),
            Step::Fetch { from: to, to: host }.into(),
        ];
        lowering.stage("", Some(&root), false, work);
        lowering.tarball = Tarball::InGuest;
        Ok(())
    }
}
