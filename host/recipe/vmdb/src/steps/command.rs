//! Commands of the spec: `chroot` in the image, `shell` outside of it.

use plan::{FileStep, Step};

use super::StepKind;
use crate::{
    fields::Fields,
    lowering::{Fault, Lowering, WORK_AT, Work, guest_path},
};

const SHELL_SH: &str = include_str!("../../scripts/shell.sh");

/// Runs a shell command in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chroot {
    /// The tag of the root filesystem.
    pub tag: String,
    /// The command.
    pub shell: String,
}

impl StepKind for Chroot {
    const OTHER_NAMES: &'static [&'static str] = &["shell"];

    fn read(fields: &mut Fields<'_>) -> Self {
        Self { tag: fields.word("chroot"), shell: fields.text("shell") }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let root = lowering.root_of("chroot", &self.tag)?;
        let argv = vec!["sh".into(), "-ec".into(), self.shell.as_str().into()];
        let command = lowering.in_image(&root, "shell in the image", argv);
        lowering.image_stage(&root, vec![command]);
        Ok(())
    }
}

/// Runs a shell command outside of the image, with its root in `ROOT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shell {
    /// The command.
    pub shell: String,
    /// The tag of the root filesystem.
    pub tag: String,
}

impl StepKind for Shell {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self { shell: fields.text("shell"), tag: fields.word("root-fs") }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let root = lowering.root_of("root-fs", &self.tag)?;
        lowering.put_host_files(true)?;
        let mut work: Vec<Work> = Vec::new();
        // If the working directory is writable, the image gets its name there.
        let writable = if lowering.has_folder() {
            lowering.folder_at()?
        } else {
            let path = guest_path("", WORK_AT)?;
            let directory = FileStep::MakeDirectory { path: path.clone(), mode: 0o755 };
            work.push(Step::File(directory).into());
            path
        };
        work.extend(lowering.preparation());
        let mut arguments = vec![self.shell.as_str().into(), writable.as_str().into()];
        arguments.extend(lowering.link_arguments());
        let command = lowering
            .script("shell", SHELL_SH, arguments)
            .env("ROOT", root.as_str())
            // No udev runs here, and LVM would wait for it.
            .env("DM_DISABLE_UDEV", "1")
            .cwd(WORK_AT)
            .shown(&["sh", "-ec", &self.shell]);
        work.push(command.work());
        work.push(Step::KillProcesses { root: root.clone() }.into());
        lowering.stage_in_folder(&root, work)
    }
}
