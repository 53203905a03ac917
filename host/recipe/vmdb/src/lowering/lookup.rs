//! Looks up what the names of a spec stand for: tags, disks, paths.

use plan::GuestPath;

use super::{Fault, LAYOUT_AT, Lowering, OWN_AT, guest_path};
use crate::state::{Device, MountedAt, Tag};

impl Lowering<'_> {
    pub(crate) fn add_tag(&mut self, key: &'static str, tag: Tag) -> Result<(), Fault> {
        if self.tags.iter().any(|other| other.name == tag.name) {
            return Err(Fault::new(key, format!("the tag `{}` is already in use", tag.name)));
        }
        self.tags.push(tag);
        Ok(())
    }

    pub(crate) fn tag(&self, key: &'static str, name: &str) -> Result<&Tag, Fault> {
        if self.poisoned.contains(name) {
            return Err(Fault::silent());
        }
        self.tags.iter().find(|tag| tag.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.tags.iter().map(|tag| tag.name.as_str()).collect();
            let fault = Fault::new(key, format!("there is no tag `{name}` at this step"));
            match crate::complaint::nearest(name, &known) {
                Some(meant) => fault.hint(format!("did you mean `{meant}`?")),
                None if known.is_empty() => fault,
                None => fault.hint(format!("the tags are {}", crate::fields::listed(&known))),
            }
        })
    }

    pub(crate) fn tag_mut(&mut self, key: &'static str, name: &str) -> Result<&mut Tag, Fault> {
        self.tag(key, name)?;
        self.tags.iter_mut().find(|tag| tag.name == name).ok_or_else(Fault::silent)
    }

    /// The mount of a tag's filesystem.
    pub(crate) fn mounted(&self, key: &'static str, name: &str) -> Result<&MountedAt, Fault> {
        self.tag(key, name)?.mounted.as_ref().ok_or_else(|| {
            Fault::new(key, format!("`{name}` is not mounted at this step"))
                .hint(format!("put `mount: {name}` before it"))
        })
    }

    /// The tag mounted at `/`, for steps without a tag.
    pub(crate) fn root_tag(&self) -> Result<String, Fault> {
        let is_root = |tag: &&Tag| tag.mounted.as_ref().is_some_and(|m| m.target == "/");
        match self.tags.iter().find(is_root) {
            Some(tag) => Ok(tag.name.clone()),
            None if self.poisoned.is_empty() => {
                Err(Fault::new("", "no filesystem is mounted at `/` at this step"))
            }
            None => Err(Fault::silent()),
        }
    }

    /// The disk of an image path in the spec.
    pub(crate) fn disk(&self, key: &'static str, path: &str) -> Result<usize, Fault> {
        if self.poisoned.contains(path) {
            return Err(Fault::silent());
        }
        self.disks.iter().position(|disk| disk.path == path).ok_or_else(|| {
            let fault = Fault::new(key, format!("`{path}` is not an image of this build"));
            fault.hint("`mkimg` makes an image; in the spec it is mostly \"{{ output }}\"")
        })
    }

    /// The disk that holds a tag's device.
    pub(crate) fn disk_below(&self, key: &'static str, name: &str) -> Result<usize, Fault> {
        match &self.tag(key, name)?.device {
            Device::Partition { disk, .. } | Device::Found { disk } => Ok(*disk),
            Device::Container { below } => self.disk_below(key, below),
            Device::Volume { group } => {
                let physical = self.groups.iter().find(|(name, _)| name == group);
                match physical.and_then(|(_, tags)| tags.first()) {
                    Some(tag) => self.disk_below(key, tag),
                    None => Err(Fault::silent()),
                }
            }
        }
    }

    /// The root of a tag's filesystem, as a guest path.
    pub(crate) fn root_of(&self, key: &'static str, tag: &str) -> Result<GuestPath, Fault> {
        let point = &self.mounted(key, tag)?.point;
        guest_path(key, &format!("{LAYOUT_AT}{point}"))
    }

    /// A guest directory for files that the current step needs.
    pub(crate) fn own_directory(&self) -> GuestPath {
        GuestPath::new(format!("{OWN_AT}/{:02}", self.number)).expect("digits are a normal name")
    }
}
