//! `mkfs` and `mount`: filesystems and their mount points.

use plan::{FileStep, Filesystem, Layout, Mount as MountNode, Node, NodeKind, Step, Value};

use super::StepKind;
use crate::{
    fields::Fields,
    lowering::{Fault, Lowering, Work, guest_path},
    state::{MountedAt, plain_name},
};

/// Types whose UUID the engine chooses, so it is known in advance. For others it is read from the
/// device.
const UUID_KNOWN: &[&str] =
    &["ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "fat", "msdos", "swap"];

/// Makes a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mkfs {
    /// The type of the filesystem, such as `ext4`.
    pub fstype: String,
    /// The tag of the device.
    pub tag: String,
    /// The label of the filesystem, if it has one.
    pub label: Option<String>,
    /// Additional options for mkfs.
    pub options: Vec<String>,
    /// Whether an old GRUB or kernel must be able to read it.
    pub target_old: bool,
}

impl StepKind for Mkfs {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            fstype: fields.word("mkfs"),
            tag: fields.word("partition"),
            label: fields.optional("label"),
            options: fields.text_or("options", "").split_whitespace().map(str::to_owned).collect(),
            target_old: fields.flag_or("target_old", false),
        }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let tag = lowering.tag("partition", &self.tag)?;
        if tag.filesystem.is_some() {
            let message = format!("`{}` already has a filesystem", self.tag);
            return Err(Fault::new("partition", message));
        }
        let base = tag.node.clone();
        let mut options = Vec::new();
        if self.fstype == "ext4" {
            // GRUB before 2.06-8 refuses these features; files read at boot do not benefit from
            // them.
            options.extend(["-O", "^large_dir,^metadata_csum_seed"]);
            if self.target_old {
                options.extend(["-O", "^orphan_file"]);
            }
        }
        let mut options: Vec<String> = options.into_iter().map(str::to_owned).collect();
        let (own, uuid) = split_uuid(&self.fstype, &self.options)?;
        options.extend(own);
        let mut label = self.label.clone();
        if let Some(text) = &self.label {
            let unique = lowering.labels.insert(text.clone());
            // mkfs.f2fs has its own option letter. vmdb2 accepts duplicate labels, but labels of a
            // plan are unique.
            let letter = match self.fstype.as_str() {
                "f2fs" => Some("-l"),
                "vfat" | "fat" | "msdos" if !unique => Some("-n"),
                _ if !unique => Some("-L"),
                _ => None,
            };
            if let Some(letter) = letter {
                options.extend([letter.to_owned(), text.clone()]);
                label = None;
            }
        }
        let name = lowering.names.claim(&format!("fs-{}", plain_name(&self.tag)));
        let fstype = self.fstype.clone();
        let filesystem = Filesystem { base: base.clone(), fstype, label, uuid, options };
        let kind = NodeKind::Filesystem(filesystem);
        let layout = Layout { nodes: vec![Node { name: name.clone(), kind }] };
        let mut work: Vec<Work> = vec![Step::CreateLayout(layout).into()];
        if !UUID_KNOWN.contains(&self.fstype.as_str()) {
            let words = ["blkid", "-c", "/dev/null", "-o", "value", "-s", "UUID"];
            let mut argv: Vec<Value> = words.iter().map(|word| (*word).into()).collect();
            argv.push(Value::Fact(format!("device.{base}")));
            let command = lowering.tool("look for the UUID", argv);
            work.push(command.capture(format!("uuid.{name}")).work());
        }
        lowering.stage("", None, false, work);
        let tag = lowering.tag_mut("partition", &self.tag)?;
        tag.filesystem = Some((name, self.fstype.clone()));
        Ok(())
    }
}

/// Extracts the UUID from the mkfs options: the engine sets the UUID itself and must know it.
fn split_uuid(fstype: &str, options: &[String]) -> Result<(Vec<String>, Option<String>), Fault> {
    let letter = match fstype {
        "ext2" | "ext3" | "ext4" | "btrfs" | "swap" => "-U",
        "vfat" | "fat" | "msdos" => "-i",
        _ => return Ok((options.to_vec(), None)),
    };
    let mut rest = Vec::new();
    let mut uuid = None;
    let mut words = options.iter();
    while let Some(word) = words.next() {
        if word != letter {
            rest.push(word.clone());
            continue;
        }
        let value = words.next().map(String::as_str).unwrap_or_default();
        let digits = value.replace('-', "");
        let is_hex = digits.chars().all(|c| c.is_ascii_hexdigit());
        match (fstype, value) {
            ("ext2" | "ext3" | "ext4", "random" | "time") => {}
            ("vfat" | "fat" | "msdos", _) if is_hex && digits.len() == 8 => {
                uuid = Some(format!("{digits}-0000-0000-0000-000000000000"));
            }
            (_, value) if is_hex && digits.len() == 32 => uuid = Some(value.to_owned()),
            _ => {
                let message = format!("`{value}` is not a UUID for {fstype}");
                return Err(Fault::new("options", message));
            }
        }
    }
    Ok((rest, uuid))
}

/// Mounts a filesystem until the build ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The tag of the filesystem.
    pub tag: String,
    /// The mount point below another filesystem; `None` for the root of the image.
    pub dirname: Option<String>,
    /// The tag of that other filesystem.
    pub mount_on: Option<String>,
}

impl StepKind for Mount {
    fn read(fields: &mut Fields<'_>) -> Self {
        let step = Self {
            tag: fields.word("mount"),
            dirname: fields.optional("dirname"),
            mount_on: fields.optional("mount-on"),
        };
        // Free blocks are always discarded, and resolv.conf never comes from the host, so these
        // options have no effect; their types are still checked.
        fields.flag_or("zerofree", true);
        fields.flag_or("keep_resolvconf", false);
        if step.dirname.is_some() && step.mount_on.is_none() {
            fields.fault("dirname", "`dirname` needs `mount-on`, the tag of what it is in", None);
        }
        step
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let tag = lowering.tag("mount", &self.tag)?;
        if tag.mounted.is_some() {
            return Err(Fault::new("mount", format!("`{}` is already mounted", self.tag)));
        }
        let Some((filesystem, _)) = tag.filesystem.clone() else {
            let message = format!("`{}` has no filesystem at this step", self.tag);
            return Err(
                Fault::new("mount", message).hint(format!("`mkfs` with `partition: {}`", self.tag))
            );
        };
        let mut work: Vec<Work> = Vec::new();
        let mut root = None;
        let mounted = match (&self.dirname, &self.mount_on) {
            (Some(dirname), Some(below)) => {
                let on = lowering.mounted("mount-on", below)?.clone();
                let relative = guest_path("dirname", &format!("/{dirname}"))?;
                let relative = relative.as_str().trim_end_matches('/').to_owned();
                let at = lowering.root_of("mount-on", below)?;
                let path = guest_path("dirname", &format!("{at}{relative}"))?;
                work.push(Step::File(FileStep::MakeDirectory { path, mode: 0o755 }).into());
                root = Some(at);
                MountedAt {
                    point: format!("{}{relative}", on.point),
                    target: format!("{}{relative}", on.target.trim_end_matches('/')),
                }
            }
            _ => {
                let directory = lowering.names.claim(&format!("/{}", plain_name(&self.tag)));
                MountedAt { point: directory, target: "/".into() }
            }
        };
        work.push(mount_node(lowering, &self.tag, filesystem, &mounted.point).into());
        lowering.stage("", root.as_ref(), false, work);
        lowering.tag_mut("mount", &self.tag)?.mounted = Some(mounted);
        Ok(())
    }
}

/// The step that mounts a filesystem, from the next stage on.
pub(super) fn mount_node(
    lowering: &mut Lowering<'_>,
    tag: &str,
    base: String,
    point: &str,
) -> Step {
    let name = lowering.names.claim(&format!("mount-{}", plain_name(tag)));
    let kind = NodeKind::Mount(MountNode { base, mount_point: point.to_owned(), fstab: None });
    Step::CreateLayout(Layout { nodes: vec![Node { name, kind }] })
}
