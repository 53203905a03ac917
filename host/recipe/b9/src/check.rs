//! Checks artifacts before anything is written or any machine boots, and reports all faults at
//! once.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Instance, Origin,
    images::{Images, SizeChange, destination_resize, filesystem, source_resize},
    paths::{absolute, relative},
    place::{Fault, Place, Text},
    script::runs_anything,
    types::{
        ArtifactAssembly, Ast, Content, FileSystem, ImageDestination, ImageResize, ImageSource,
        ImageTarget, MountPoint, Partition, SharedDirectory, VmScript,
    },
};

/// Maximum label length of ext4 in bytes, from ext4(5).
const EXT4_LABEL_BYTES: usize = 16;
/// Maximum label length of FAT in bytes, from mkfs.fat(8).
const FAT_LABEL_BYTES: usize = 11;
/// Maximum partition number: the default number of GPT entries.
const PARTITION_MAX: i64 = 128;
/// Maximum images per artifact: the number of disks that a machine supports, less a reserve for
/// vbuild's own.
const TARGETS_MAX: usize = 12;

/// Faults and warnings found in artifacts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// Faults: the build does not start.
    pub faults: Vec<Fault>,
    /// Warnings: the build continues.
    pub warnings: Vec<Fault>,
}

/// Checks expanded artifacts.
#[must_use]
pub fn check(instances: &[Instance]) -> Findings {
    let mut it = Findings::default();
    let mut shared: BTreeMap<&str, Place> = BTreeMap::new();
    for instance in instances {
        it.id(&instance.id);
        it.sources(instance);
        match &instance.assembly {
            ArtifactAssembly::CloudInit(types, path) => {
                it.path(path, "the path of a seed");
                if !types.is_empty() {
                    it.seed(instance);
                }
            }
            assembly => {
                if let Some(images) = Images::of(assembly) {
                    it.images(&instance.id, images);
                }
            }
        }
        for target in Images::of(&instance.assembly).map_or(&[][..], |images| images.targets) {
            if let ImageDestination::Share(name, ..) = &target.destination
                && shared.insert(&name.text, name.at).is_some()
            {
                let message = format!("the name `{}` is already shared in this build", name.text);
                it.faults.push(Fault::new(name.at, message));
            }
        }
    }
    it
}

impl Findings {
    fn fault(&mut self, at: Place, message: impl Into<String>) {
        self.faults.push(Fault::new(at, message));
    }

    /// Checks an artifact's id, which is part of a directory name.
    fn id(&mut self, id: &Text) {
        if id.contains('/') || matches!(id.text.as_str(), "." | "..") || id.contains('\0') {
            let message =
                format!("the artifact's id `{}` cannot be part of a file's name", id.text);
            self.fault(id.at, message);
        }
    }

    fn path(&mut self, path: &Text, what: &str) {
        if path.is_empty() || path.contains('\0') {
            self.fault(path.at, format!("{what} is empty or has a NUL"));
        }
    }

    fn sources(&mut self, instance: &Instance) {
        let mut seen = BTreeSet::new();
        for source in &instance.sources {
            let destination = &source.destination;
            match source.path() {
                Err(fault) => self.faults.push(fault),
                Ok(path) => {
                    if !seen.insert(path) {
                        let message = format!(
                            "`{}` is generated twice for `{}`: the last one stays",
                            destination.text, instance.id.text
                        );
                        self.warnings.push(Fault::new(destination.at, message));
                    }
                }
            }
            if let Some(Err(fault)) = source.permissions.map(crate::expand::Permissions::mode) {
                self.faults.push(fault.or_at(destination.at));
            }
            if let Origin::Content(content) = &source.origin {
                self.content(content);
            }
        }
    }

    fn content(&mut self, content: &Content) {
        match content {
            Content::RenderErlang(tree) => self.tree(tree),
            Content::RenderYamlObject(tree) => self.tree(tree),
            Content::RenderCloudConfig(tree) => self.tree(tree),
            Content::FromByteString(_)
            | Content::FromString(_)
            | Content::FromTextFile(_)
            | Content::RenderBase64BinaryFile(_)
            | Content::RenderBase64Binary(_)
            | Content::FromUrl(_) => {}
        }
    }

    fn tree<L>(&mut self, tree: &Ast<L>) {
        match tree {
            Ast::Obj(entries) => entries.iter().for_each(|(_, value)| self.tree(value)),
            Ast::Arr(items) => items.iter().for_each(|item| self.tree(item)),
            Ast::Merge(trees, at) if trees.is_empty() => {
                self.faults.push(crate::content::empty_merge(*at));
            }
            Ast::Merge(trees, _) => trees.iter().for_each(|tree| self.tree(tree)),
            Ast::Embed(content) => self.content(content),
            Ast::String(_) | Ast::Int(_) | Ast::Parse(_) | Ast::Literal(_) => {}
        }
    }

    fn seed(&mut self, instance: &Instance) {
        let has = |name: &str| {
            instance
                .sources
                .iter()
                .any(|source| relative(&source.destination).as_deref() == Some(name))
        };
        let missing: Vec<&str> =
            ["meta-data", "user-data"].into_iter().filter(|name| !has(name)).collect();
        let message = match missing.as_slice() {
            _ if instance.sources.is_empty() => {
                "the seed `{}` is empty: it has no Sources".to_owned()
            }
            [] => return,
            names => format!(
                "the seed `{{}}` has no {}, without which cloud-init finds nothing",
                names.join(" and no ")
            ),
        };
        let message = message.replace("{}", &instance.id.text);
        self.warnings.push(Fault::new(instance.id.at, message));
    }

    fn images(&mut self, id: &Text, images: Images<'_>) {
        if images.targets.len() > TARGETS_MAX {
            let message = format!(
                "an artifact can have {TARGETS_MAX} images, this one has {}",
                images.targets.len()
            );
            self.fault(id.at, message);
        }
        for target in images.targets {
            self.target(target);
        }
        if images.running_script().is_some() {
            self.mount_points(id, images);
        }
        if let VmScript::Run(_, shares, script) = images.script {
            for share in shares {
                self.share(share, runs_anything(script));
            }
        }
    }

    fn target(&mut self, target: &ImageTarget) {
        let at = place_of(&target.source);
        self.begin(&target.source);
        match &target.destination {
            ImageDestination::LocalFile(image, _) => {
                self.path(&image.path, "the path of an image");
                let from = match &target.source {
                    ImageSource::SourceImage(from, ..) | ImageSource::CopyOnWrite(from) => {
                        Some(from)
                    }
                    _ => None,
                };
                if from.is_some_and(|from| {
                    relative(&from.path) == relative(&image.path)
                        && from.path.starts_with('/') == image.path.starts_with('/')
                }) {
                    let message =
                        format!("`{}` would be replaced by what is made from it", image.path.text);
                    self.fault(image.path.at, message);
                }
            }
            ImageDestination::Share(name, ..) => self.file_name(name, "the name of a shared image"),
            ImageDestination::LiveInstallerImage(name, directory, _) => {
                self.file_name(name, "the name of a live installer's image");
                self.path(directory, "the directory of a live installer");
            }
            ImageDestination::Transient => {}
        }
        let resizes = [source_resize(&target.source), destination_resize(&target.destination)];
        for resize in resizes.into_iter().flatten() {
            self.resize(resize, filesystem(&target.source), at);
        }
    }

    fn begin(&mut self, source: &ImageSource) {
        match source {
            ImageSource::EmptyImage(label, filesystem, _, size) => {
                if size.bytes().is_none() {
                    self.size(label.at, size.number);
                }
                let longest = match filesystem {
                    FileSystem::Ext4 | FileSystem::Ext4With64Bit => EXT4_LABEL_BYTES,
                    FileSystem::Vfat => FAT_LABEL_BYTES,
                    FileSystem::NoFileSystem => usize::MAX,
                    FileSystem::Iso9660 => {
                        self.fault(
                            label.at,
                            "an empty image cannot be ISO9660, which is only read",
                        );
                        usize::MAX
                    }
                };
                if label.len() > longest {
                    let message =
                        format!("the label `{}` has more than {longest} bytes", label.text);
                    self.fault(label.at, message);
                }
            }
            ImageSource::CopyOnWrite(image) => self.path(&image.path, "the path of an image"),
            ImageSource::SourceImage(image, partition, _) => {
                self.path(&image.path, "the path of an image");
                if let Partition::Number(number) = partition
                    && !(1..=PARTITION_MAX).contains(number)
                {
                    let message = format!(
                        "partition {number}: partitions are counted from 1 to {PARTITION_MAX}"
                    );
                    self.fault(image.path.at, message);
                }
            }
            ImageSource::From(name, _) => self.file_name(name, "the name of a shared image"),
        }
    }

    fn size(&mut self, at: Place, number: i64) {
        let fault = Fault::new(at, format!("the size {number} is not valid"));
        self.faults.push(fault.hint("sizes are 1 or more of their unit, and less than 8 EiB"));
    }

    fn resize(&mut self, resize: ImageResize, filesystem: Option<FileSystem>, at: Place) {
        let size = match resize {
            ImageResize::ResizeImage(size)
            | ImageResize::Resize(size)
            | ImageResize::ShrinkToMinimumAndIncrease(size) => Some(size),
            ImageResize::ShrinkToMinimum | ImageResize::KeepSize => None,
        };
        if let Some(size) = size.filter(|size| size.bytes().is_none()) {
            self.size(at, size.number);
        }
        let needs = SizeChange::of(resize).is_some_and(SizeChange::is_of_filesystem);
        if let Some(other) = filesystem.filter(|filesystem| needs && !filesystem.is_ext4()) {
            self.faults.push(no_resize(at, other));
        }
    }

    fn file_name(&mut self, name: &Text, what: &str) {
        if name.is_empty() || name.contains(['/', '\0', '\n']) || name.starts_with('.') {
            self.fault(name.at, format!("{what} cannot be `{}`", name.text));
        }
    }

    fn mount_points(&mut self, id: &Text, images: Images<'_>) {
        let mut seen = BTreeSet::new();
        let mut roots = 0;
        for target in images.targets {
            let MountPoint::At(path) = &target.mount_point else { continue };
            let Some(normal) = absolute(path) else {
                self.fault(
                    path.at,
                    format!("the mount point `{}` must be absolute, without `..`", path.text),
                );
                continue;
            };
            roots += usize::from(normal.is_empty());
            if !normal.is_empty() && !seen.insert(normal) {
                self.fault(path.at, format!("two images are mounted at `{}`", path.text));
            }
        }
        let message = match roots {
            0 => {
                "A containerized build requires that a disk image for the root-, i.e. the '/' directory is configured."
            }
            1 => return,
            _ => {
                "A containerized build requires that only one disk image for the root-, i.e. the '/' directory is configured."
            }
        };
        let fault = Fault::new(id.at, message);
        self.faults.push(
            fault.hint("an artifact with a script has exactly one image with (MountPoint \"/\")"),
        );
    }

    fn share(&mut self, share: &SharedDirectory, used: bool) {
        let at = match share {
            SharedDirectory::ReadWrite(directory, at)
            | SharedDirectory::ReadOnly(directory, at) => {
                self.path(directory, "the path of a shared directory");
                at
            }
            SharedDirectory::Sources(at) => at,
        };
        if let MountPoint::At(path) = at
            && used
            && absolute(path).is_none_or(|normal| normal.is_empty())
        {
            let message = format!(
                "the mount point `{}` must be absolute, without `..`, and not `/`",
                path.text
            );
            self.fault(path.at, message);
        }
    }
}

/// The fault for a filesystem that cannot be resized.
pub(crate) fn no_resize(at: Place, filesystem: FileSystem) -> Fault {
    let name = crate::haskell::Term::shown(&filesystem).one_line();
    Fault::new(at, format!("Invalid image type or filesystem, cannot resize image: {name}"))
        .hint("only ext4 can be resized; ResizeImage changes the image alone")
}

fn place_of(source: &ImageSource) -> Place {
    match source {
        ImageSource::EmptyImage(text, ..) | ImageSource::From(text, _) => text.at,
        ImageSource::CopyOnWrite(image) | ImageSource::SourceImage(image, ..) => image.path.at,
    }
}

#[cfg(test)]
mod tests;
