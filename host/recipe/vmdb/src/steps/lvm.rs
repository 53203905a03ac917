//! LVM: `vgcreate`, `lvcreate`, `lvscan`.

use plan::{DevicePlace, Layout, LogicalVolume, LvSize, Node, NodeKind, Step};

use super::{StepKind, image::take_over};
use crate::{
    fields::Fields,
    lowering::{Fault, Lowering},
    size,
    state::{Device, Tag, plain_name},
};

/// Makes a volume group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vgcreate {
    /// The name of the volume group.
    pub name: String,
    /// Tags of its physical volumes.
    pub physical: Vec<String>,
}

impl StepKind for Vgcreate {
    fn read(fields: &mut Fields<'_>) -> Self {
        let (name, physical) = (fields.word("vgcreate"), fields.list_or("physical", &[]));
        if physical.is_empty() {
            fields.fault("physical", "the list `physical` names no tag", None);
        }
        Self { name, physical }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let mut nodes = Vec::new();
        let mut bases = Vec::new();
        for tag in &self.physical {
            let base = lowering.tag("physical", tag)?.node.clone();
            let name = lowering.names.claim(&format!("pv-{}", plain_name(tag)));
            bases.push(name.clone());
            nodes.push(Node { name, kind: NodeKind::PhysicalVolume { base, options: Vec::new() } });
        }
        if !lowering.names.reserve(&self.name) {
            let message = format!("the name `{}` is already in use", self.name);
            return Err(Fault::new("vgcreate", message));
        }
        let kind = NodeKind::VolumeGroup { bases, options: Vec::new() };
        nodes.push(Node { name: self.name.clone(), kind });
        lowering.stage("", None, false, vec![Step::CreateLayout(Layout { nodes }).into()]);
        lowering.groups.push((self.name.clone(), self.physical.clone()));
        Ok(())
    }
}

/// Checks that this spec creates the group.
fn group(lowering: &Lowering<'_>, key: &'static str, name: &str) -> Result<(), Fault> {
    if lowering.groups.iter().any(|(group, _)| group == name) {
        return Ok(());
    }
    Err(Fault::new(key, format!("there is no volume group `{name}` at this step")))
}

/// Makes a logical volume; its name is its tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lvcreate {
    /// The group.
    pub group: String,
    /// The name of the logical volume.
    pub name: String,
    /// Its size in LVM's syntax, or `fill`.
    pub size: String,
}

impl StepKind for Lvcreate {
    fn read(fields: &mut Fields<'_>) -> Self {
        let group = fields.word("lvcreate");
        Self { group, name: fields.word("name"), size: fields.word("size") }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        group(lowering, "lvcreate", &self.group)?;
        let size = if self.size.eq_ignore_ascii_case("fill") {
            LvSize::Extents("100%FREE".into())
        } else if self.size.contains('%') {
            LvSize::Extents(self.size.clone())
        } else {
            let bytes = size::volume_bytes(&self.size).ok_or_else(|| {
                Fault::new("size", format!("`{}` is not a size of a volume", self.size))
                    .hint("a number with M, G or T, `fill`, or a percentage such as 50%VG")
            })?;
            LvSize::Bytes(bytes)
        };
        if !lowering.names.reserve(&self.name) {
            return Err(Fault::new("name", format!("the name `{}` is already in use", self.name)));
        }
        let kind = NodeKind::LogicalVolume(LogicalVolume {
            group: self.group.clone(),
            size,
            thin_pool: None,
            is_thin_pool: false,
            options: Vec::new(),
        });
        let layout = Layout { nodes: vec![Node { name: self.name.clone(), kind }] };
        lowering.stage("", None, false, vec![Step::CreateLayout(layout).into()]);
        let device = Device::Volume { group: self.group.clone() };
        let (name, node) = (self.name.clone(), self.name.clone());
        lowering.add_tag("name", Tag { name, device, node, filesystem: None, mounted: None })
    }

    fn defines(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

/// Makes volumes of a group available as tags. Volumes of this spec already are; those of an
/// existing image are adopted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lvscan {
    /// The group.
    pub group: String,
    /// Names of volumes.
    pub tags: Vec<String>,
}

impl StepKind for Lvscan {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self { group: fields.word("lvscan"), tags: fields.list_or("tags", &[]) }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let made_here = lowering.groups.iter().any(|(group, _)| *group == self.group);
        let taken_over = lowering.disks.iter().position(|disk| disk.base.is_some());
        if let (false, Some(disk)) = (made_here, taken_over) {
            let found = self.tags.iter().map(|tag| {
                let place = DevicePlace::Volume(self.group.clone(), tag.clone());
                (place, format!("{}/{tag}", self.group), tag.clone())
            });
            return take_over("tags", lowering, disk, found.collect());
        }
        group(lowering, "lvscan", &self.group)?;
        for tag in &self.tags {
            let own = Device::Volume { group: self.group.clone() };
            if lowering.tag("tags", tag)?.device != own {
                let message = format!("`{tag}` is not a volume of the group `{}`", self.group);
                return Err(Fault::new("tags", message));
            }
        }
        Ok(())
    }

    fn defines(&self) -> Vec<String> {
        self.tags.clone()
    }
}
