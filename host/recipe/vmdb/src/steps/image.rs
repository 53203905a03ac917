//! `mkimg`, `mklabel`, `mkpart`, `set_part_flag` and `kpartx`: images and their partitions. A tag
//! is bound to its partition, never to an index in a list.

use plan::{DevicePlace, DiskName, FoundDevice, Layout, Step, TableLabel};

use super::StepKind;
use crate::{
    complaint::nearest,
    fields::{Fields, listed},
    lowering::{Fault, Lowering},
    size,
    state::{Device, ImageDisk, Tag, plain_name},
    table::{self, Misplaced, Part, Role},
};

/// Makes an empty image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mkimg {
    /// The path of the image.
    pub path: String,
    /// Its size, in qemu-img's syntax.
    pub size: String,
}

impl StepKind for Mkimg {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self { path: fields.word("mkimg"), size: fields.word("size") }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let bytes = size::image_bytes(&self.size).filter(|bytes| *bytes > 0).ok_or_else(|| {
            Fault::new("size", format!("`{}` is not a size of an image", self.size))
                .hint("a number, with K, M, G or T for powers of 1024")
        })?;
        add_disk(lowering, "mkimg", &self.path, bytes)?;
        // An empty layout, but from here on facts name the devices.
        lowering.stage("", None, false, vec![Step::CreateLayout(Layout::default()).into()]);
        Ok(())
    }

    fn defines(&self) -> Vec<String> {
        vec![self.path.clone()]
    }
}

fn add_disk(
    lowering: &mut Lowering<'_>,
    key: &'static str,
    path: &str,
    bytes: u64,
) -> Result<(), Fault> {
    if lowering.disks.iter().any(|disk| disk.path == path) {
        return Err(Fault::new(key, format!("the image `{path}` is made a second time")));
    }
    let name = DiskName::new(lowering.names.claim("image"))
        .map_err(|error| Fault::new(key, error.to_string()))?;
    lowering.disks.push(ImageDisk {
        path: path.to_owned(),
        name,
        bytes,
        base: None,
        label: None,
        table_at: None,
        parts: Vec::new(),
        tags: Vec::new(),
    });
    Ok(())
}

/// The disk of a `device` key. With `--image` no step needs to create it.
fn disk(lowering: &mut Lowering<'_>, key: &'static str, path: &str) -> Result<usize, Fault> {
    let image = lowering.settings.image.as_deref();
    if image == Some(path) && !lowering.disks.iter().any(|disk| disk.path == path) {
        let file = lowering.directories.size_of(path).map_err(Fault::input(key))?;
        add_disk(lowering, key, path, file)?;
        lowering.stage("-open", None, false, vec![Step::CreateLayout(Layout::default()).into()]);
    }
    lowering.disk(key, path)
}

/// Writes a partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mklabel {
    /// `msdos` or `gpt`.
    pub label: String,
    /// The image's path.
    pub device: String,
}

impl StepKind for Mklabel {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self { label: fields.word("mklabel"), device: fields.word("device") }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let index = disk(lowering, "device", &self.device)?;
        let label = match self.label.as_str() {
            "msdos" | "dos" => TableLabel::Mbr,
            "gpt" => TableLabel::Gpt,
            other => {
                let fault = Fault::new("mklabel", format!("`{other}` is not a supported label"));
                return Err(fault.hint("the labels are `gpt` and `msdos`"));
            }
        };
        if lowering.disks[index].label.is_some() {
            return Err(Fault::new("device", format!("`{}` already has a label", self.device)));
        }
        let bytes = lowering.disks[index].bytes;
        if !table::fits(label, bytes) {
            let label = &self.label;
            let message = format!("an image of {bytes} bytes is too small for a {label} label");
            return Err(Fault::new("mklabel", message));
        }
        let at = lowering.stage_count();
        lowering.stage("", None, false, vec![Step::CreateLayout(Layout::default()).into()]);
        let disk = &mut lowering.disks[index];
        disk.label = Some(label);
        disk.table_at = Some((at, 0));
        Ok(())
    }
}

/// Makes a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mkpart {
    /// `primary`, `extended`, `logical`; on GPT any name.
    pub kind: String,
    /// The image's path.
    pub device: String,
    /// Its start, in parted's syntax.
    pub start: String,
    /// Its end, in parted's syntax.
    pub end: String,
    /// The tag of the partition, if it has one.
    pub tag: Option<String>,
    /// The filesystem type, which determines the partition type.
    pub fs_type: String,
}

impl StepKind for Mkpart {
    fn read(fields: &mut Fields<'_>) -> Self {
        let step = Self {
            kind: fields.word("mkpart"),
            device: fields.word("device"),
            start: fields.word("start"),
            end: fields.word("end"),
            tag: fields.alias(&["tag", "part-tag"]),
            fs_type: fields.text_or("fs-type", "ext2"),
        };
        if !table::FS_TYPES.contains(&step.fs_type.as_str()) {
            let meant = match step.fs_type.as_str() {
                "vfat" | "fat" => Some("fat32"),
                "swap" => Some("linux-swap"),
                other => nearest(other, table::FS_TYPES),
            };
            let hint = meant.map(|meant| format!("did you mean `{meant}`?"));
            let message = format!("`{}` is not a filesystem type that parted knows", step.fs_type);
            fields.fault("fs-type", message, hint.as_deref());
        }
        step
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let index = disk(lowering, "device", &self.device)?;
        let disk = &lowering.disks[index];
        let Some(label) = disk.label else {
            let fault = Fault::new("device", format!("`{}` has no label yet", self.device));
            return Err(fault.hint("put `mklabel` before it"));
        };
        let role = match (label, self.kind.as_str()) {
            (TableLabel::Gpt, _) | (TableLabel::Mbr, "primary") => Role::Primary,
            (TableLabel::Mbr, "extended") => Role::Extended,
            (TableLabel::Mbr, "logical") => Role::Logical,
            (TableLabel::Mbr, other) => {
                let fault = Fault::new("mkpart", format!("`{other}` is not a kind of partition"));
                return Err(fault.hint("the kinds are `primary`, `extended` and `logical`"));
            }
        };
        let (start, end) =
            table::place(label, disk.bytes, &disk.parts, role, (&self.start, &self.end))
                .map_err(|Misplaced { key, message }| Fault::new(key, message))?;
        let part = disk.parts.len();
        let wished = match &self.tag {
            Some(tag) => plain_name(tag),
            None => format!("{}-part{}", disk.name, part + 1),
        };
        let node = lowering.names.claim(&wished);
        if role != Role::Extended
            && let Some(name) = self.tag.clone()
        {
            let device = Device::Partition { disk: index, part };
            let node = node.clone();
            lowering.add_tag("tag", Tag { name, device, node, filesystem: None, mounted: None })?;
        }
        let disk = &mut lowering.disks[index];
        let (fs_type, flags) = (self.fs_type.clone(), Vec::new());
        disk.parts.push(Part { node, role, start, end, fs_type, flags });
        disk.tags.push(self.tag.clone());
        Ok(())
    }

    fn defines(&self) -> Vec<String> {
        self.tag.clone().into_iter().collect()
    }
}

/// Sets or clears a flag of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetPartFlag {
    /// The image's path.
    pub device: String,
    /// The partition's tag.
    pub tag: String,
    /// The flag, in parted's names.
    pub flag: String,
    /// Whether it is set.
    pub enabled: bool,
}

impl StepKind for SetPartFlag {
    fn read(fields: &mut Fields<'_>) -> Self {
        let device = fields.word("set_part_flag");
        let (tag, flag) = (fields.word("tag"), fields.word("flag"));
        let state = fields.text_or("state", "enabled");
        if !matches!(state.as_str(), "enabled" | "disabled") {
            let message = format!("the key `state` is `{state}`");
            fields.fault("state", message, Some("the states are `enabled` and `disabled`"));
        }
        let flags = table::flag_names();
        if !flag.is_empty() && !flags.contains(&flag.as_str()) {
            let hint = match nearest(&flag, &flags) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("the flags are {}", listed(&flags)),
            };
            let message = format!("`{flag}` is not a flag that can be set");
            fields.fault("flag", message, Some(&hint));
        }
        Self { device, tag, flag, enabled: state == "enabled" }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let index = disk(lowering, "set_part_flag", &self.device)?;
        let Device::Partition { disk, part } = lowering.tag("tag", &self.tag)?.device else {
            return Err(Fault::new("tag", format!("`{}` is not a partition", self.tag)));
        };
        if disk != index {
            let message = format!("`{}` is not a partition of `{}`", self.tag, self.device);
            return Err(Fault::new("tag", message));
        }
        if lowering.disks[disk].label.is_some_and(|label| !table::has_flag(label, &self.flag)) {
            let message = format!("the label of `{}` has no flag `{}`", self.device, self.flag);
            return Err(Fault::new("flag", message));
        }
        set_flag(lowering, disk, part, &self.flag, self.enabled);
        Ok(())
    }
}

/// Records a flag for the partition table, which is written as a whole.
pub(super) fn set_flag(
    lowering: &mut Lowering<'_>,
    disk: usize,
    part: usize,
    flag: &str,
    enabled: bool,
) {
    let partition = &mut lowering.disks[disk].parts[part];
    partition.flags.push((flag.to_owned(), enabled));
}

/// Makes the partitions of an image available. In vmdb2, tags get their devices here. In vbuild
/// they have them from `mkpart` on, so this step only adds tags and adopts the partitions of an
/// existing image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kpartx {
    /// The image's path.
    pub device: String,
    /// Tags for partitions without one, in order.
    pub tags: Vec<String>,
}

impl StepKind for Kpartx {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self { device: fields.word("kpartx"), tags: fields.list_or("tags", &[]) }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let index = disk(lowering, "kpartx", &self.device)?;
        if lowering.disks[index].label.is_none() {
            return self.take_over(lowering, index);
        }
        for (part, tag) in self.tags.iter().enumerate() {
            let disk = &lowering.disks[index];
            let Some(known) = disk.tags.get(part) else {
                let count = disk.parts.len();
                let message =
                    format!("`{}` has {count} partitions, too few for the tags", self.device);
                return Err(Fault::new("tags", message));
            };
            match known {
                Some(known) if known == tag => {}
                Some(known) => {
                    let number = part + 1;
                    let message =
                        format!("partition {number} has the tag `{known}` already, not `{tag}`");
                    return Err(Fault::new("tags", message));
                }
                None => {
                    let node = disk.parts[part].node.clone();
                    let device = Device::Partition { disk: index, part };
                    let name = tag.clone();
                    let tag = Tag { name, device, node, filesystem: None, mounted: None };
                    lowering.add_tag("tags", tag)?;
                    lowering.disks[index].tags[part] = self.tags.get(part).cloned();
                }
            }
        }
        Ok(())
    }

    fn defines(&self) -> Vec<String> {
        self.tags.clone()
    }
}

impl Kpartx {
    /// Adopts the partitions of an existing image. Their content is kept.
    fn take_over(&self, lowering: &mut Lowering<'_>, disk: usize) -> Result<(), Fault> {
        if lowering.settings.image.as_deref() != Some(&self.device) {
            let message = format!("`{}` has no label yet", self.device);
            return Err(Fault::new("kpartx", message).hint("put `mklabel` before it"));
        }
        if crate::formats::format_of(&self.device).0 != "raw" {
            let message = format!("`{}` is not a raw image, which --image must be", self.device);
            return Err(Fault::new("kpartx", message).hint("`qemu-img convert` makes one of it"));
        }
        let file = lowering.directories.file_of_user(&self.device);
        let file = file.map_err(Fault::input("kpartx"))?;
        if file.bytes % size::SECTOR_BYTES != 0 {
            let message = format!("the size of `{}` is not a multiple of 512", self.device);
            return Err(Fault::new("kpartx", message));
        }
        lowering.disks[disk].base = Some(file.base());
        let places = (1..).map(DevicePlace::Partition).zip(&self.tags);
        let found = places.map(|(place, tag)| (place, plain_name(tag), tag.clone()));
        take_over("tags", lowering, disk, found.collect())
    }
}

/// Adopts devices that exist on a disk: place, wished name of the node, tag.
pub(super) fn take_over(
    key: &'static str,
    lowering: &mut Lowering<'_>,
    disk: usize,
    found: Vec<(DevicePlace, String, String)>,
) -> Result<(), Fault> {
    let mut devices = Vec::new();
    for (place, wished, name) in found {
        let node = match &place {
            DevicePlace::Partition(_) => lowering.names.claim(&wished),
            // Disks and volumes already have names.
            DevicePlace::Disk | DevicePlace::Volume(..) => wished,
        };
        let filesystem = lowering.names.claim(&format!("fs-{}", plain_name(&name)));
        devices.push(FoundDevice { place, name: node.clone(), filesystem: filesystem.clone() });
        let filesystem = Some((filesystem, String::new()));
        let device = Device::Found { disk };
        lowering.add_tag(key, Tag { name, device, node, filesystem, mounted: None })?;
    }
    let disk = lowering.disks[disk].name.to_string();
    lowering.stage("", None, false, vec![Step::FindDevices { disk, devices }.into()]);
    Ok(())
}
