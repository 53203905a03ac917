//! The stages in which a script or an interactive session runs in the mounted images, with host
//! files bound into them.

use plan::{Bind, Context, ResolvConf, Stage, Step, UploadEntry, Value};

use super::{
    CHANGED, CURRENT, IMAGES, Lowering, NOTES, SCRIPT, SCRIPT_IN_IMAGE, SHARES, TOOLS,
    steps::{self, at, command, upload},
};
use crate::{
    paths::absolute,
    place::Fault,
    types::{CpuArch, ImageTarget, MountPoint, Script, SharedDirectory, VmScript},
};

/// A bind mount in an image: source, absolute mount point, and whether it is read-only.
type Seen = (String, String, bool);

impl Lowering<'_> {
    pub(super) fn shares(&self) -> &[SharedDirectory] {
        match self.request.images.script {
            VmScript::Run(_, shares, _) => shares,
            VmScript::None => &[],
        }
    }

    /// The bind mounts of other images and shared directories, parents before children.
    fn seen(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        for (number, target) in self.request.images.targets.iter().enumerate() {
            if let Some(path) = mount_point(&target.mount_point).filter(|path| path != "/") {
                seen.push((format!("{IMAGES}/{number}"), path, false));
            }
        }
        for (number, share) in self.shares().iter().enumerate() {
            let (place, read_only) = match share {
                SharedDirectory::ReadWrite(_, place) => (place, false),
                SharedDirectory::ReadOnly(_, place) | SharedDirectory::Sources(place) => {
                    (place, true)
                }
            };
            if let Some(path) = mount_point(place) {
                seen.push((format!("{SHARES}/{number}"), path, read_only));
            }
        }
        // If a path is named twice, the later mount hides the earlier one.
        seen.sort_by(|(_, one, _), (_, other, _)| one.cmp(other));
        seen
    }

    fn root(&self) -> Result<String, Fault> {
        let is_root =
            |target: &ImageTarget| mount_point(&target.mount_point).is_some_and(|path| path == "/");
        let missing = || Fault::new(self.request.id.at, "no image is mounted on `/`");
        let number = self.request.images.targets.iter().position(is_root).ok_or_else(missing)?;
        Ok(format!("{IMAGES}/{number}"))
    }

    /// The stages that run a script.
    pub(super) fn script(&self) -> Result<Vec<Stage>, Fault> {
        let VmScript::Run(arch, _, script) = self.request.images.script else {
            return Err(Fault::new(self.request.id.at, "there is no script"));
        };
        let room = Room::new(self.root()?, {
            let mut seen = self.seen();
            seen.push((SCRIPT.into(), SCRIPT_IN_IMAGE.into(), true));
            seen
        });
        let run = Stage {
            network: true,
            timeout_s: self.request.script_timeout_s,
            ..steps::stage("script", room.context(), self.script_steps(*arch, script, &room.root))
        };
        let check = room.places("bash", "look for bash");
        let tidy = vec![room.places("remove", "remove mount points"), Step::Trim];
        Ok(vec![
            steps::stage(
                "places",
                mounted(),
                vec![check, room.places("make", "make mount points")],
            ),
            run,
            steps::stage("tidy", mounted(), tidy),
        ])
    }

    /// The two stages around an interactive session: the first prepares the images, and the session
    /// takes place before the second.
    pub(super) fn session(&self) -> Result<Vec<Stage>, Fault> {
        let room = Room::new(self.root()?, self.seen());
        let mut enter = self.share_steps();
        enter.push(steps::mark(TOOLS, NOTES));
        enter.push(Step::ResolvConf(ResolvConf::Prepare));
        let mut leave = vec![
            Step::KillProcesses { root: at(&room.root) },
            Step::ResolvConf(ResolvConf::Restore),
        ];
        leave.extend(self.gather());
        leave.extend(self.fetch());
        let stage = |name: &str, steps| Stage {
            network: true,
            ..steps::stage(name, room.context(), steps)
        };
        Ok(vec![
            steps::stage("places", mounted(), vec![room.places("make", "make mount points")]),
            stage("enter", enter),
            stage("leave", leave),
        ])
    }

    fn script_steps(&self, arch: CpuArch, script: &Script, root: &str) -> Vec<Step> {
        let text = crate::to_container_bash(script);
        let mut steps = vec![steps::script("the script", SCRIPT, &text)];
        steps.extend(self.share_steps());
        if !self.written().is_empty() {
            steps.push(steps::mark(TOOLS, NOTES));
        }
        let mut argv: Vec<Value> = match arch {
            CpuArch::X86 => Vec::new(),
            CpuArch::I386 => vec!["setarch".into(), "i686".into()],
        };
        let path = format!("{SCRIPT_IN_IMAGE}/run.sh");
        argv.extend(["chroot".into(), root.into(), "bash".into(), path.into()]);
        steps.push(Step::ResolvConf(ResolvConf::Prepare));
        steps.push(Step::Run(command("VmScript", argv)));
        steps.push(Step::KillProcesses { root: at(root) });
        steps.push(Step::ResolvConf(ResolvConf::Restore));
        steps.extend(self.gather());
        steps
    }

    /// Uploads the content of shared directories.
    fn share_steps(&self) -> Vec<Step> {
        let shares = self.shares().iter().enumerate();
        shares
            .map(|(number, share)| {
                let entries: &[UploadEntry] = match share {
                    SharedDirectory::Sources(_) => &self.request.sources,
                    _ => &self.request.shares[number].entries,
                };
                let what = format!("shared directory {number}");
                upload(&what, &format!("{SHARES}/{number}"), entries.to_vec())
            })
            .collect()
    }

    /// The shared directories that are copied back to the host.
    fn written(&self) -> Vec<usize> {
        let comes_back = |share: &SharedDirectory| {
            matches!(share, SharedDirectory::ReadWrite(_, MountPoint::At(_)))
        };
        let shares = self.shares().iter().enumerate();
        shares.filter(|(_, share)| comes_back(share)).map(|(number, _)| number).collect()
    }

    fn gather(&self) -> Vec<Step> {
        let place = |number| (format!("{SHARES}/{number}"), format!("{CHANGED}/{number}"));
        self.written()
            .into_iter()
            .map(|number| steps::gather(TOOLS, NOTES, place(number)))
            .collect()
    }

    /// Copies the changes in shared directories to the host.
    pub(super) fn fetch(&self) -> Vec<Step> {
        let fetch = |number: usize| {
            let to = &self.request.shares[number].directory;
            steps::fetch(&format!("{CHANGED}/{number}"), to)
        };
        self.written().into_iter().map(fetch).collect()
    }

    /// Copies changes in shared directories below the working directory to the fixup's view of it.
    pub(super) fn show_to_fixup(&self, current: &std::path::Path) -> Vec<Step> {
        let show = |number: usize| {
            let below = self.request.shares[number].directory.strip_prefix(current).ok()?;
            let to = format!("{CURRENT}/{}", below.to_str()?);
            let argv: [Value; 5] = [
                "bash".into(),
                "-euc".into(),
                "mkdir -p -- \"$1\"; cp -a -- \"$0/.\" \"$1\"".into(),
                format!("{CHANGED}/{number}").into(),
                to.into(),
            ];
            Some(Step::Run(command("what the script wrote", argv.to_vec())))
        };
        self.written().into_iter().filter_map(show).collect()
    }
}

/// The context with only the images mounted.
fn mounted() -> Context {
    Context { layout_at: Some(at(IMAGES)), ..Context::default() }
}

/// The image on `/`, with its bind mounts.
struct Room {
    root: String,
    seen: Vec<Seen>,
}

impl Room {
    fn new(root: String, mut seen: Vec<Seen>) -> Self {
        seen.sort_by(|(_, one, _), (_, other, _)| one.cmp(other));
        Self { root, seen }
    }

    fn context(&self) -> Context {
        let bind = |(from, path, read_only): &Seen| Bind {
            from: at(from),
            to: at(&format!("{}{path}", self.root)),
            read_only: *read_only,
        };
        Context {
            image_root: Some(at(&self.root)),
            layout_at: Some(at(IMAGES)),
            image_system_mounts: true,
            binds: self.seen.iter().map(bind).collect(),
            ca_bundle: true,
        }
    }

    /// Runs the tool that creates and removes mount points.
    fn places(&self, action: &str, what: &str) -> Step {
        let list = format!("{NOTES}/places");
        let mut argv = vec![format!("{TOOLS}/places"), action.into(), list, self.root.clone()];
        argv.extend(["/proc", "/dev", "/sys"].map(str::to_owned));
        argv.extend(self.seen.iter().map(|(_, path, _)| path.clone()));
        Step::Run(command(what, argv.into_iter().map(Value::from).collect()))
    }
}

/// A mount point as a normalized absolute path.
fn mount_point(place: &MountPoint) -> Option<String> {
    match place {
        MountPoint::At(path) => absolute(path).map(|path| format!("/{path}")),
        MountPoint::NotMounted => None,
    }
}
