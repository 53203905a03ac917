//! Commands of steps: outside of the image, in it, and what both need.

use plan::{GuestPath, MachineArchitecture, Step, Value};

use super::{
    Lowering,
    command::{Command, Work},
};

const RESOLVER_SH: &str = include_str!("../../scripts/resolver.sh");
const BINFMT_SH: &str = include_str!("../../scripts/binfmt.sh");
const LINKS_SH: &str = include_str!("../../scripts/links.sh");

impl Lowering<'_> {
    /// A command outside of the image.
    pub(crate) fn tool(&self, what: &str, argv: Vec<Value>) -> Command {
        Command::new(format!("{}: {what}", self.current.0), argv)
    }

    /// A script of this crate, outside of the image.
    pub(crate) fn script(&self, what: &str, script: &str, arguments: Vec<Value>) -> Command {
        let mut argv: Vec<Value> = vec!["sh".into(), "-c".into(), script.into()];
        argv.push(what.into());
        argv.extend(arguments);
        self.tool(what, argv)
    }

    /// A command in the image, with a working resolv.conf.
    pub(crate) fn in_image(&self, root: &GuestPath, what: &str, argv: Vec<Value>) -> Command {
        let mut chroot: Vec<Value> = vec!["chroot".into(), root.as_str().into()];
        chroot.extend(argv);
        self.with_resolver(root, what, chroot)
    }

    /// A command outside of the image that works on it, with a working resolv.conf in the image.
    pub(crate) fn with_resolver(&self, root: &GuestPath, what: &str, argv: Vec<Value>) -> Command {
        let shown = Command::words(&argv);
        let mut arguments: Vec<Value> = vec![root.as_str().into()];
        arguments.extend(argv);
        let mut command = self.script(what, RESOLVER_SH, arguments);
        command.shown = shown;
        command
    }

    /// The steps needed before commands that work on an image: registering an emulator if the
    /// architecture is foreign, and creating the links of udev if the image has /dev.
    pub(crate) fn preparation(&mut self) -> Vec<Work> {
        let mut work = Vec::new();
        if is_foreign(&self.arch, self.settings.machine) {
            self.packages.insert("qemu-user-static".into());
            let arch = Value::Text(self.arch.clone());
            work.push(self.script("emulate", BINFMT_SH, vec![arch]).work());
        }
        if self.binds.iter().any(|(_, bind)| bind.from.as_str() == "/dev") {
            let mut arguments = Vec::new();
            for tag in &self.tags {
                // A device found on a disk may have no filesystem unless it is mounted.
                let is_sure = |fstype: &str| tag.mounted.is_some() || !fstype.is_empty();
                if let Some((filesystem, fstype)) = &tag.filesystem
                    && is_sure(fstype)
                {
                    arguments.push(Value::Fact(format!("uuid.{filesystem}")));
                    arguments.push(Value::Fact(format!("device.{}", tag.node)));
                }
            }
            let command = self.script("links by UUID", LINKS_SH, arguments);
            work.push(command.shown(&["ln", "-s", "/dev/disk/by-uuid"]).work());
        }
        work
    }

    /// Adds a stage that runs commands in an image.
    pub(crate) fn image_stage(&mut self, root: &GuestPath, commands: Vec<Command>) {
        let mut work = self.preparation();
        work.extend(commands.into_iter().map(Command::work));
        // A daemon started by a package would keep the filesystem busy.
        work.push(Step::KillProcesses { root: root.clone() }.into());
        self.stage("", Some(root), true, work);
    }
}

/// Whether programs of an architecture need an emulator in a machine.
fn is_foreign(arch: &str, machine: MachineArchitecture) -> bool {
    arch.parse() != Ok(machine)
}
