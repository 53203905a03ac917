//! `resize-rootfs`: grows the image to the size of its disk at first boot.

use plan::{FileStep, Step, Upload};

use super::{StepKind, debootstrap::text_entry};
use crate::{
    fields::Fields,
    lowering::{Fault, Lowering, guest_path},
};

const SCRIPT: &str = include_str!("../../scripts/resize-rootfs");
const UNIT: &str = include_str!("../../scripts/resize-rootfs.service");

/// Installs a service that grows the root filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResizeRootfs {
    /// The tag of the root filesystem.
    pub tag: String,
}

impl StepKind for ResizeRootfs {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self { tag: fields.word("resize-rootfs") }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let root = lowering.root_of("resize-rootfs", &self.tag)?;
        let check = "[ -e \"$1/sbin/parted\" ] || { echo 'resize-rootfs needs parted in the image' >&2; exit 1; }";
        let argv = vec!["sh".into(), "-c".into(), check.into(), "sh".into(), root.as_str().into()];
        let parted = format!("{root}/sbin/parted");
        let look = lowering.tool("look for parted", argv).shown(&["ls", &parted]);
        let upload = Upload {
            what: "service that grows the root filesystem".into(),
            to: root.clone(),
            entries: vec![
                text_entry("etc/systemd/system/resize-rootfs.service", UNIT, 0o644),
                text_entry("usr/sbin/resize-rootfs", SCRIPT, 0o755),
            ],
        };
        // The link that `systemctl enable` would create.
        let wants = "etc/systemd/system/systemd-remount-fs.service.requires";
        let link = FileStep::Symlink {
            path: guest_path("", &format!("{root}/{wants}/resize-rootfs.service"))?,
            target: "/etc/systemd/system/resize-rootfs.service".into(),
        };
        let directory = guest_path("", &format!("{root}/{wants}"))?;
        let make = FileStep::MakeDirectory { path: directory, mode: 0o755 };
        let work = vec![
            look.work(),
            Step::Upload(upload).into(),
            Step::File(make).into(),
            Step::File(link).into(),
        ];
        lowering.stage("", Some(&root), false, work);
        Ok(())
    }
}
