//! Lowers an artifact of images to a plan.
//!
//! ```text
//! image0 … imageN   a disk each, bare: made from a base, or empty and formatted
//!   images          filesystems made, what stands on bases found
//!   source sizes    SourceImage … (Resize …)
//!   places          mount points that the root image lacks
//!   script          chroot of the image on /, other images and shares bound into it
//!   tidy            mount points removed again, free blocks given back
//!   sizes           LocalFile … (Resize …)
//!   fixup           with the images as block devices
//!   shared directories  what was written in them, to the host; the one stage that is
//!                   never left out, so it is the last
//! ```
//!
//! A disk is as large as its image ever gets; the size that is exported is a fact set by the last
//! resize.

mod script;
mod sizes;
mod steps;

use std::path::PathBuf;

use plan::{
    Bind, Context, Disk, DiskBase, DiskName, DiskRole, DiskSize, Filesystem, FoundDevice,
    GuestPath, ImageOutput, Layout, MachineArchitecture, Mount, Node, NodeKind, Outputs, Plan, Run,
    Stage, Step, UploadEntry, Value,
};

use crate::{
    images::{Images, SizeChange, destination_resize, ext4_features, source_resize},
    place::{Fault, Text},
    types::{FileSystem, ImageSource, MountPoint},
};

use sizes::Sizes;
use steps::{at, command, directory, upload};

/// Mount points of the images' filesystems, by image index.
const IMAGES: &str = "/build/b9/images";
/// The guest's copies of shared directories.
const SHARES: &str = "/build/b9/shares";
/// Changed files of shared directories.
const CHANGED: &str = "/build/b9/changed";
const CHANGED_BY_FIXUP: &str = "/build/b9/changed/current";
/// The script, and its path in the image.
const SCRIPT: &str = "/build/b9/script";
const SCRIPT_IN_IMAGE: &str = "/.vbuild-b9";
/// Tools of this crate, and their notes.
const TOOLS: &str = "/build/b9/tools";
const NOTES: &str = "/build/b9/notes";
/// The fixup, and its current directory.
const FIXUP: &str = "/build/b9/fixup";
const CURRENT: &str = "/build/b9/current";
/// Size of the scratch disk. It is sparse, so this only limits the content of shared directories.
const SCRATCH_BYTES: u64 = 64 << 30;

/// An artifact with the facts about it from the host.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The artifact's name.
    pub id: &'a Text,
    /// The images, the script and the fixup of the artifact.
    pub images: Images<'a>,
    /// The initial content of each image; `None` for a new one.
    pub bases: Vec<Option<DiskBase>>,
    /// The filesystem of each image; for a shared one, as its `.b9si` records.
    pub filesystems: Vec<FileSystem>,
    /// The generated files.
    pub sources: Vec<UploadEntry>,
    /// The content of each shared directory of the host, in the order of the script.
    pub shares: Vec<Share>,
    /// The host files that the fixup sees, if there is one.
    pub current: Option<Share>,
    /// The output of each image, if any.
    pub outputs: Vec<Option<Output>>,
    /// `ext4_attributes` of the configuration.
    pub attributes: Option<&'a [String]>,
    /// Time limit of the script, in seconds.
    pub script_timeout_s: Option<u32>,
    /// Time limit of any other step, in seconds.
    pub step_timeout_s: Option<u32>,
}

/// A host directory that is shared with the guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Share {
    /// The absolute path.
    pub directory: PathBuf,
    /// The files in the directory, as entries of an upload.
    pub entries: Vec<UploadEntry>,
}

/// An output file of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The path of the output file on the host.
    pub path: PathBuf,
    /// The format of the output file.
    pub format: crate::types::ImageType,
}

/// Lowers an artifact of images.
///
/// # Errors
/// Fails on operations that a guest cannot do.
pub fn lower(request: &Request<'_>) -> Result<Plan, Fault> {
    let lowering = Lowering { request, sizes: sizes(request) };
    let mut stages = vec![lowering.images(request.images.running_script().is_some())?];
    stages.extend(lowering.resize("source sizes", |target| source_resize(&target.source))?);
    if request.images.running_script().is_some() {
        stages.extend(lowering.script()?);
    }
    stages.extend(lowering.resize("sizes", |target| destination_resize(&target.destination))?);
    stages.extend(lowering.fixup()?);
    stages.extend(lowering.bring_back());
    Ok(lowering.plan(stages))
}

/// Lowers an interactive session in images: only shared directories are written back.
///
/// Returns the plan, and the index of the stage before which the session takes place.
///
/// # Errors
/// Fails if no image is mounted on `/`.
pub fn lower_session(request: &Request<'_>) -> Result<(Plan, usize), Fault> {
    let lowering = Lowering { request, sizes: sizes(request) };
    let mut stages = vec![lowering.images(true)?];
    stages.extend(lowering.session()?);
    let last = stages.len() - 1;
    Ok((lowering.plan(stages), last))
}

impl Lowering<'_> {
    fn plan(&self, mut stages: Vec<Stage>) -> Plan {
        for stage in stages.iter_mut().filter(|stage| stage.timeout_s.is_none()) {
            stage.timeout_s = self.request.step_timeout_s;
        }
        Plan {
            format_version: plan::FORMAT_VERSION,
            name: self.request.id.text.clone(),
            recipe: "b9".into(),
            architecture: MachineArchitecture::of_host().architecture(),
            disks: self.disks(),
            stages,
            outputs: self.outputs(),
            helper_at: at("/build/helper"),
        }
    }
}

/// The sizes of each image.
fn sizes(request: &Request<'_>) -> Vec<Sizes> {
    let targets = request.images.targets.iter().zip(&request.bases);
    targets
        .map(|(target, base)| {
            let first = match (&target.source, base) {
                (ImageSource::EmptyImage(_, _, _, size), _) => size.bytes().unwrap_or(0),
                (_, base) => base.as_ref().map_or(0, |base| base.bytes),
            };
            Sizes::new(
                first,
                source_resize(&target.source).and_then(SizeChange::of),
                destination_resize(&target.destination).and_then(SizeChange::of),
            )
        })
        .collect()
}

fn disk(number: usize) -> String {
    format!("image{number}")
}

fn disk_name(number: usize) -> DiskName {
    DiskName::new(disk(number)).expect("letters and a number are the name of a disk")
}

fn filesystem_node(number: usize) -> String {
    format!("image{number}:fs")
}

/// The fact with the final size of an image file, in KiB.
fn size_fact(number: usize) -> String {
    format!("{}{}", plan::LENGTH_FACT, disk(number))
}

struct Lowering<'a> {
    request: &'a Request<'a>,
    sizes: Vec<Sizes>,
}

impl Lowering<'_> {
    fn disks(&self) -> Vec<Disk> {
        let scratch = Disk {
            name: DiskName::scratch(),
            role: DiskRole::Scratch,
            size: DiskSize::Bytes(SCRATCH_BYTES),
            block_bytes: 512,
            base: None,
        };
        let images = self.sizes.iter().zip(&self.request.bases).enumerate();
        let images = images.map(|(number, (sizes, base))| Disk {
            name: disk_name(number),
            role: DiskRole::Target,
            size: DiskSize::Bytes(sizes.largest.next_multiple_of(512)),
            block_bytes: 512,
            base: base.clone(),
        });
        std::iter::once(scratch).chain(images).collect()
    }

    fn outputs(&self) -> Outputs {
        let images = self.request.outputs.iter().enumerate();
        let images = images.filter_map(|(number, output)| {
            let output = output.as_ref()?;
            let qcow2 = output.format == crate::types::ImageType::QCow2;
            Some(ImageOutput {
                disk: disk_name(number),
                format: output.format.name().into(),
                path: output.path.clone(),
                compress: false,
                options: qcow2.then(|| "compat=1.1,lazy_refcounts=on".into()),
            })
        });
        Outputs { images: images.collect(), overwrite: true, ..Outputs::default() }
    }

    /// The stage that creates the images and the directories for later stages.
    fn images(&self, mounted: bool) -> Result<Stage, Fault> {
        let mut made = [IMAGES, SCRIPT, TOOLS, NOTES, FIXUP].map(str::to_owned).to_vec();
        for number in 0..self.shares().len() {
            made.extend([format!("{SHARES}/{number}"), format!("{CHANGED}/{number}")]);
        }
        let current = self.request.current.iter();
        made.extend(current.flat_map(|_| [CURRENT, CHANGED_BY_FIXUP].map(str::to_owned)));
        let mut steps: Vec<Step> = made.iter().map(|path| directory(path)).collect();
        steps.push(steps::tools(TOOLS));
        let mut nodes = Vec::new();
        for (number, target) in self.request.images.targets.iter().enumerate() {
            match &target.source {
                ImageSource::EmptyImage(label, filesystem, ..) => {
                    nodes.extend(self.new_filesystem(number, label, *filesystem)?);
                }
                _ if mounted && matches!(target.mount_point, MountPoint::At(_)) => {
                    steps.push(Step::FindDevices {
                        disk: disk(number),
                        devices: vec![FoundDevice {
                            place: plan::DevicePlace::Disk,
                            name: disk(number),
                            filesystem: filesystem_node(number),
                        }],
                    });
                }
                _ => {}
            }
            if mounted && matches!(target.mount_point, MountPoint::At(_)) {
                let mount = Mount {
                    base: filesystem_node(number),
                    mount_point: format!("/{number}"),
                    fstab: None,
                };
                let name = format!("{}:mount", disk(number));
                nodes.push(Node { name, kind: NodeKind::Mount(mount) });
            }
        }
        // Needed even if empty: this step sets the facts with the device names of the disks.
        steps.push(Step::CreateLayout(Layout { nodes }));
        // The sizes known now; a resize sets them again.
        for (number, sizes) in self.sizes.iter().enumerate() {
            let cut = sizes.last.filter(|last| *last < sizes.largest);
            steps.extend(cut.map(|bytes| Step::SetFact {
                fact: size_fact(number),
                value: (bytes / 1024).to_string().into(),
            }));
        }
        Ok(steps::stage("images", Context::default(), steps))
    }

    fn new_filesystem(
        &self,
        number: usize,
        label: &Text,
        filesystem: FileSystem,
    ) -> Result<Option<Node>, Fault> {
        let label = label.text.clone();
        // The label is passed as an option, since two images may have the same label.
        let (fstype, options) = match filesystem {
            FileSystem::NoFileSystem => return Ok(None),
            FileSystem::Ext4 | FileSystem::Ext4With64Bit => {
                let mut options = ext4_features(filesystem, self.request.attributes);
                options.extend(["-L".into(), label]);
                ("ext4", options)
            }
            // `-I` permits a whole device.
            FileSystem::Vfat => ("vfat", vec!["-I".into(), "-n".into(), label]),
            FileSystem::Iso9660 => {
                let at = self.request.id.at;
                return Err(Fault::new(at, "an empty image cannot be ISO9660"));
            }
        };
        let made = Filesystem {
            base: disk(number),
            fstype: fstype.into(),
            label: None,
            uuid: None,
            options,
        };
        Ok(Some(Node { name: filesystem_node(number), kind: NodeKind::Filesystem(made) }))
    }

    /// Checks whether a change suits the filesystem; that of a shared image is known only now.
    fn check_filesystem(&self, number: usize, change: SizeChange) -> Result<(), Fault> {
        match self.request.filesystems.get(number) {
            Some(filesystem) if change.is_of_filesystem() && !filesystem.is_ext4() => {
                Err(crate::check::no_resize(self.request.id.at, *filesystem))
            }
            _ => Ok(()),
        }
    }

    /// Whether a new filesystem, which fills its disk, is too large: the disk is as large as the
    /// image ever gets, but a script may see the filesystem before it grows, or it may not grow
    /// with its image.
    fn is_made_too_large(&self, number: usize, target: &crate::types::ImageTarget) -> bool {
        let ImageSource::EmptyImage(_, filesystem, ..) = &target.source else { return false };
        let sizes = &self.sizes[number];
        let change = destination_resize(&target.destination).and_then(SizeChange::of);
        let is_seen = self.request.images.running_script().is_some()
            && matches!(target.mount_point, MountPoint::At(_));
        filesystem.is_ext4()
            && sizes.first < sizes.largest
            && (is_seen || matches!(change, Some(SizeChange::Container(_))))
    }

    /// Adds the steps that resize filesystems. A change of the image alone needs no step, unless
    /// only the guest can check that it is allowed.
    fn resize(
        &self,
        name: &str,
        resize: impl Fn(&crate::types::ImageTarget) -> Option<crate::types::ImageResize>,
    ) -> Result<Option<Stage>, Fault> {
        let last = name == "sizes";
        let mut steps = Vec::new();
        for (number, target) in self.request.images.targets.iter().enumerate() {
            let sizes = &self.sizes[number];
            if !last && self.is_made_too_large(number, target) {
                let argv = [
                    format!("{TOOLS}/resize").into(),
                    Value::Fact(format!("device.{}", disk(number))),
                    sizes.largest.to_string().into(),
                    sizes::word(SizeChange::Filesystem(sizes.first)).into(),
                ];
                // The recorded size of the image is already correct.
                steps.push(Step::Run(command(&format!("resize image {number}"), argv.to_vec())));
                continue;
            }
            let Some(change) = resize(target).and_then(SizeChange::of) else { continue };
            self.check_filesystem(number, change)?;
            let before = if last { sizes.middle } else { Some(sizes.first) };
            if let (SizeChange::Container(wanted), Some(before)) = (change, before) {
                if wanted < before {
                    let message = format!(
                        "ResizeImage to {wanted} bytes would cut off data: image {number} has {before}"
                    );
                    return Err(Fault::new(self.request.id.at, message));
                }
                // The change of the source has recorded another size.
                let of_source = source_resize(&target.source).and_then(SizeChange::of);
                if last && of_source.is_some() {
                    let value = (wanted / 1024).to_string().into();
                    steps.push(Step::SetFact { fact: size_fact(number), value });
                }
                continue;
            }
            let current = match before {
                Some(bytes) => Value::Text(bytes.to_string()),
                // Known only after the previous stage; its fact is in KiB.
                None => Value::Fact(size_fact(number)),
            };
            let script = if before.is_some() {
                "exec \"$0\" \"$@\""
            } else {
                "device=$1 kib=$2; shift 2; exec \"$0\" \"$device\" $((kib * 1024)) \"$@\""
            };
            let argv = [
                "/bin/bash".into(),
                "-c".into(),
                script.into(),
                format!("{TOOLS}/resize").into(),
                Value::Fact(format!("device.{}", disk(number))),
                current,
                sizes::word(change).into(),
            ];
            let what = format!("resize image {number}");
            steps.push(Step::Run(Run {
                capture: Some(size_fact(number)),
                ..command(&what, argv.to_vec())
            }));
        }
        Ok((!steps.is_empty()).then(|| steps::stage(name, Context::default(), steps)))
    }

    fn fixup(&self) -> Result<Option<Stage>, Fault> {
        let Some(fixup) = self.request.images.fixup else { return Ok(None) };
        let Some(current) = &self.request.current else {
            let message = "the fixup's current directory is not known";
            return Err(Fault::new(self.request.id.at, message));
        };
        let place = current.directory.to_str().and_then(|path| GuestPath::new(path).ok());
        let place = place.filter(steps::can_be_bound).ok_or_else(|| {
            let message = format!(
                "the fixup cannot run in {}: the guest has files of its own there",
                current.directory.display()
            );
            Fault::new(self.request.id.at, message).hint("start vbuild in a folder of a project")
        })?;
        let mut argv: Vec<Value> =
            vec![format!("{TOOLS}/fixup").into(), format!("{FIXUP}/run.sh").into()];
        for (number, sizes) in self.sizes.iter().enumerate() {
            argv.push(Value::Fact(format!("device.{}", disk(number))));
            argv.push(match sizes.last {
                Some(bytes) => format!("{bytes}b").into(),
                None => Value::Fact(size_fact(number)),
            });
        }
        let bind = Bind { from: at(CURRENT), to: place.clone(), read_only: false };
        let context = Context { binds: vec![bind], ..Context::default() };
        let mut steps = vec![
            steps::script("the fixup", FIXUP, &crate::to_bash(fixup)),
            upload("the current directory", CURRENT, current.entries.clone()),
        ];
        steps.extend(self.show_to_fixup(&current.directory));
        steps.push(steps::mark(TOOLS, NOTES));
        steps.push(Step::Run(Run { cwd: place, ..command("fixup", argv) }));
        let back = (CURRENT.to_owned(), CHANGED_BY_FIXUP.to_owned());
        steps.push(steps::gather(TOOLS, NOTES, back));
        Ok(Some(Stage { network: true, ..steps::stage("fixup", context, steps) }))
    }

    /// The stage that copies shared directories back to the host, after everything has succeeded.
    fn bring_back(&self) -> Option<Stage> {
        let mut steps = match self.request.images.running_script() {
            Some(_) => self.fetch(),
            None => Vec::new(),
        };
        let fixup = self.request.images.fixup.and(self.request.current.as_ref());
        steps.extend(fixup.map(|current| steps::fetch(CHANGED_BY_FIXUP, &current.directory)));
        let stage = || steps::stage("shared directories", Context::default(), steps.clone());
        (!steps.is_empty()).then(stage)
    }
}

#[cfg(test)]
mod tests;
