//! `virtual-filesystems`: mounts /proc, /dev and the like in the image, from this step to the end
//! of the build.

use plan::{FileStep, GuestPath, Step};

use super::StepKind;
use crate::{
    fields::Fields,
    lowering::{Fault, Lowering, OWN_AT, Work, guest_path},
};

/// Mounts the virtual filesystems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualFilesystems {
    /// The tag of the root filesystem.
    pub tag: String,
}

impl StepKind for VirtualFilesystems {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self { tag: fields.word("virtual-filesystems") }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let root = lowering.root_of("virtual-filesystems", &self.tag)?;
        let mut work = make_directories(&root, &["proc", "dev", "sys", "run"])?;
        // /run and /dev/shm are the image's own, on the scratch disk.
        let point = &lowering.mounted("virtual-filesystems", &self.tag)?.point;
        let own = format!("{OWN_AT}/virtual{point}");
        for (directory, mode) in [("run", 0o755), ("run/lock", 0o1777), ("shm", 0o1777)] {
            let path = guest_path("", &format!("{own}/{directory}"))?;
            work.push(Step::File(FileStep::MakeDirectory { path, mode }).into());
        }
        lowering.stage("", Some(&root), false, work);
        bind_system(lowering, &self.tag, &root)?;
        for (from, to) in [("shm", "dev/shm"), ("run", "run")] {
            let from = guest_path("", &format!("{own}/{from}"))?;
            lowering.bind(&self.tag, from, guest_path("", &format!("{root}/{to}"))?);
        }
        Ok(())
    }
}

/// Creates mount points that stay in the image.
pub(super) fn make_directories(root: &GuestPath, names: &[&str]) -> Result<Vec<Work>, Fault> {
    let mut work = Vec::new();
    for name in names {
        let path = guest_path("", &format!("{root}/{name}"))?;
        work.push(Step::File(FileStep::MakeDirectory { path, mode: 0o755 }).into());
    }
    Ok(work)
}

/// Bind-mounts /dev, /proc and /sys in the image, from the next stage on.
pub(super) fn bind_system(
    lowering: &mut Lowering<'_>,
    tag: &str,
    root: &GuestPath,
) -> Result<(), Fault> {
    for directory in ["/proc", "/dev", "/dev/pts", "/sys"] {
        let from = guest_path("", directory)?;
        lowering.bind(tag, from, guest_path("", &format!("{root}{directory}"))?);
    }
    Ok(())
}
