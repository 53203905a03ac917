//! Commands of stages: how they run, and how they are shown.

use plan::{Env, GuestPath, MachineArchitecture, Place, Run, Step, Value};

use super::Lowering;

/// Where commands of specs are found: the directories of Debian's root.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const RESOLVER_SH: &str = include_str!("../../scripts/resolver.sh");
const BINFMT_SH: &str = include_str!("../../scripts/binfmt.sh");
const LINKS_SH: &str = include_str!("../../scripts/links.sh");

/// A step of a stage with the command line that the narration shows for it.
#[derive(Debug)]
pub(crate) struct Work {
    pub(super) step: Step,
    pub(super) command: Option<Vec<String>>,
}

impl From<Step> for Work {
    fn from(step: Step) -> Self {
        Self { step, command: None }
    }
}

/// A command of a stage.
#[derive(Debug)]
pub(crate) struct Command {
    what: String,
    argv: Vec<Value>,
    env: Env,
    cwd: &'static str,
    capture: Option<String>,
    /// The command line shown by the narration.
    shown: Vec<String>,
}

impl Command {
    fn new(what: String, argv: Vec<Value>) -> Self {
        let env = [("PATH", PATH), ("HOME", "/root"), ("LC_ALL", "C.UTF-8")];
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        Self { what, shown: Self::words(&argv), argv, env, cwd: "/", capture: None }
    }

    fn words(argv: &[Value]) -> Vec<String> {
        let word = |value: &Value| match value {
            Value::Text(text) => text.clone(),
            Value::Fact(fact) => format!("<{fact}>"),
        };
        argv.iter().map(word).collect()
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn cwd(mut self, cwd: &'static str) -> Self {
        self.cwd = cwd;
        self
    }

    pub(crate) fn capture(mut self, fact: String) -> Self {
        self.capture = Some(fact);
        self
    }

    /// Shows these words instead of the actual command line.
    pub(crate) fn shown(mut self, words: &[&str]) -> Self {
        self.shown = words.iter().map(ToString::to_string).collect();
        self
    }

    pub(crate) fn work(self) -> Work {
        let step = Step::Run(Run {
            what: self.what,
            place: Place::Tools,
            argv: self.argv,
            env: self.env,
            environment: None,
            cwd: GuestPath::new(self.cwd).expect("constants are normal paths"),
            stdin: None,
            capture: self.capture,
        });
        Work { step, command: Some(self.shown) }
    }
}

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
        Command { shown, ..self.script(what, RESOLVER_SH, arguments) }
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
