//! `unpack-rootfs` and `cache-rootfs`: a root filesystem from an earlier build.
//!
//! Whether the tarball exists is known before the build. So the flag `rootfs_unpacked` is known
//! too, and steps that it skips are not in the plan.

use std::path::{Path, PathBuf};

use plan::{FileStep, GuestPath, Step, TreeOutput, Upload, Value};

use super::StepKind;
use crate::{
    fields::Fields,
    lowering::{Fault, Lowering, Tarball, Work, guest_path},
};

/// The guest directory of the tarball.
const CACHE_AT: &str = "/build/rootfs-cache";

/// The tarball: its host path and its name.
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
                let file = lowering
                    .directories
                    .file_of_user(&path)
                    .map_err(Fault::input("unpack-rootfs"))?;
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
        work.push(lowering.lend(&root, &["resolv.conf"]));
        lowering.stage("", Some(&root), false, work);
        lowering.rootfs_unpacked = true;
        Ok(())
    }
}

/// Packs the root filesystem for later builds, unless the tarball exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRootfs {
    /// The tag of the filesystem.
    pub tag: String,
    /// Options for tar.
    pub options: Vec<String>,
    /// Whether to replace an existing tarball.
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
        let format = archive_format(&name).filter(|_| {
            // With other options for tar, or if a later step unpacks the tarball, it must be made
            // in the guest.
            self.options == ["--one-file-system"] && !lowering.unpacks_later()
        });
        match format {
            Some(format) => export(lowering, root, &path, format),
            None => self.pack(lowering, root, &path, &name)?,
        }
        Ok(())
    }
}

/// The archive format that a file name suffix selects, if the host can write it.
fn archive_format(name: &str) -> Option<&'static str> {
    let endings = [(".tar", "tar"), (".tar.gz", "tgz"), (".tgz", "tgz"), (".tar.zst", "tar.zst")];
    endings.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, format)| *format)
}

/// The host path of a path on the command line.
fn on_host(lowering: &Lowering<'_>, path: &str) -> PathBuf {
    match lowering.settings.sources.lookup.first() {
        Some(directory) => directory.join(path),
        None => path.into(),
    }
}

/// Exports the tree as an archive to the host, without /proc and the like.
fn export(lowering: &mut Lowering<'_>, root: GuestPath, path: &str, format: &str) {
    let path = on_host(lowering, path);
    let output = TreeOutput { format: format.to_owned(), path, target: None };
    let step = Step::ExportTree { root: root.clone(), exclude: Vec::new(), output };
    let work = lowering.without_lent(&root, vec![step.into()]);
    lowering.bare_stage(&root, work);
    lowering.tarball = Tarball::OnHost;
}

impl CacheRootfs {
    /// Creates the tarball in the guest and sends it to the host.
    fn pack(
        &self,
        lowering: &mut Lowering<'_>,
        root: GuestPath,
        path: &str,
        name: &str,
    ) -> Result<(), Fault> {
        // Filesystems mounted below are packed too, so they must be named.
        let base = lowering.mounted("cache-rootfs", &self.tag)?.point.clone();
        let below = |point: &str| match point.strip_prefix(&base) {
            Some("") => Some(".".to_owned()),
            Some(below) => below.strip_prefix('/').map(str::to_owned),
            None => None,
        };
        let mut directories: Vec<String> =
            lowering.tags.iter().filter_map(|tag| below(&tag.mounted.as_ref()?.point)).collect();
        directories.sort();
        let to = guest_path("", CACHE_AT)?;
        let mut words = vec!["tar".to_owned()];
        words.extend(self.options.iter().cloned());
        words.extend(["-C".into(), root.to_string(), "-caf".into(), format!("{to}/{name}")]);
        words.extend(directories);
        let argv = words.into_iter().map(Value::Text).collect();
        let file = on_host(lowering, path);
        let host = file.parent().map_or_else(PathBuf::new, Path::to_owned);
        // Links in the user's path are followed; unpacking itself follows none.
        let host = std::fs::canonicalize(&host).unwrap_or(host);
        let pack = vec![lowering.tool("pack", argv).work()];
        let make = FileStep::MakeDirectory { path: to.clone(), mode: 0o755 };
        let mut work: Vec<Work> = vec![Step::File(make).into()];
        work.extend(lowering.without_lent(&root, pack));
        work.push(Step::Fetch { from: to, to: host }.into());
        lowering.stage("", Some(&root), false, work);
        lowering.tarball = Tarball::InGuest;
        Ok(())
    }
}
