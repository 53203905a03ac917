//! What is done to the images of an artifact, in order: made, changed in size, given to
//! the script, changed again, given to the fixup, exported.
//!
//! Each target has an image of its own, whatever it is made from. While it is built an
//! image is raw; its format is a matter of the export.

use crate::{
    place::Text,
    types::{
        ArtifactAssembly, FileSystem, Image, ImageDestination, ImageResize, ImageSource,
        ImageTarget, Partition, Script, VmScript,
    },
};

/// One thing that is done; `target` is the number of the image in its artifact.
#[derive(Debug, Clone)]
pub enum ImageStep {
    /// Begins as a copy of an image, or of a partition in it.
    Copy {
        /// Which image.
        target: usize,
        /// What is copied.
        image: Image,
        /// Which part of it.
        partition: Partition,
    },
    /// Begins as a copy of the newest revision of a shared image.
    CopyShared {
        /// Which image.
        target: usize,
        /// The name.
        name: Text,
    },
    /// Begins empty.
    Create {
        /// Which image.
        target: usize,
        /// How large.
        bytes: u64,
    },
    /// Gets a filesystem.
    Format {
        /// Which image.
        target: usize,
        /// The filesystem.
        filesystem: FileSystem,
        /// Its label.
        label: Text,
    },
    /// Changes its size.
    Resize {
        /// Which image.
        target: usize,
        /// How the size changes.
        change: SizeChange,
    },
    /// The script runs, with the images mounted.
    Script,
    /// The fixup runs, with the images as files.
    Fixup,
    /// Is written where it belongs.
    Export {
        /// Which image.
        target: usize,
    },
}

/// A change of a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeChange {
    /// The image, not the filesystem on it: bytes.
    Container(u64),
    /// Filesystem and image: bytes.
    Filesystem(u64),
    /// As small as the filesystem can be.
    Minimum,
    /// As small as the filesystem can be, and then so many bytes more, the first part
    /// rounded up to KiB.
    MinimumPlus(u64),
}

impl SizeChange {
    /// What a resize of B9 means; nothing for one that keeps the size, or whose size is
    /// none (see [`crate::check`]).
    #[must_use]
    pub fn of(resize: ImageResize) -> Option<Self> {
        match resize {
            ImageResize::KeepSize => None,
            ImageResize::ShrinkToMinimum => Some(Self::Minimum),
            ImageResize::ResizeImage(size) => size.bytes().map(Self::Container),
            ImageResize::Resize(size) => size.bytes().map(Self::Filesystem),
            ImageResize::ShrinkToMinimumAndIncrease(size) => size.bytes().map(Self::MinimumPlus),
        }
    }

    /// Whether a filesystem must be understood for it.
    #[must_use]
    pub fn is_of_filesystem(self) -> bool {
        !matches!(self, Self::Container(_))
    }
}

/// The parts of an assembly of images.
#[derive(Debug, Clone, Copy)]
pub struct Images<'a> {
    /// The images.
    pub targets: &'a [ImageTarget],
    /// The script.
    pub script: &'a VmScript,
    /// The fixup.
    pub fixup: Option<&'a Script>,
}

impl<'a> Images<'a> {
    /// The images of an assembly; a seed has none.
    #[must_use]
    pub fn of(assembly: &'a ArtifactAssembly) -> Option<Self> {
        match assembly {
            ArtifactAssembly::CloudInit(..) => None,
            ArtifactAssembly::VmImages(targets, script) => {
                Some(Self { targets, script, fixup: None })
            }
            ArtifactAssembly::VmImagesWithFixup(targets, script, fixup) => {
                let fixup = Some(fixup).filter(|fixup| !matches!(fixup, Script::NoOp));
                Some(Self { targets, script, fixup })
            }
        }
    }

    /// The script, when it runs anything.
    #[must_use]
    pub fn running_script(&self) -> Option<&'a Script> {
        match self.script {
            VmScript::Run(_, _, script) if crate::runs_anything(script) => Some(script),
            _ => None,
        }
    }

    /// All that is done, in order.
    #[must_use]
    pub fn steps(&self) -> Vec<ImageStep> {
        let mut steps = Vec::new();
        for (target, image) in self.targets.iter().enumerate() {
            steps.extend(begin(target, &image.source));
            let change = source_resize(&image.source).and_then(SizeChange::of);
            steps.extend(change.map(|change| ImageStep::Resize { target, change }));
        }
        steps.extend(self.running_script().map(|_| ImageStep::Script));
        for (target, image) in self.targets.iter().enumerate() {
            let change = destination_resize(&image.destination).and_then(SizeChange::of);
            steps.extend(change.map(|change| ImageStep::Resize { target, change }));
        }
        steps.extend(self.fixup.map(|_| ImageStep::Fixup));
        let exported = |(_, image): &(usize, &ImageTarget)| {
            !matches!(image.destination, ImageDestination::Transient)
        };
        let exported = self.targets.iter().enumerate().filter(exported);
        steps.extend(exported.map(|(target, _)| ImageStep::Export { target }));
        steps
    }
}

fn begin(target: usize, source: &ImageSource) -> Vec<ImageStep> {
    match source {
        ImageSource::EmptyImage(label, filesystem, _, size) => {
            let bytes = size.bytes().unwrap_or(0);
            let format =
                ImageStep::Format { target, filesystem: *filesystem, label: label.clone() };
            let create = ImageStep::Create { target, bytes };
            if *filesystem == FileSystem::NoFileSystem {
                vec![create]
            } else {
                vec![create, format]
            }
        }
        ImageSource::CopyOnWrite(image) => {
            vec![ImageStep::Copy { target, image: image.clone(), partition: Partition::NoPt }]
        }
        ImageSource::SourceImage(image, partition, _) => {
            vec![ImageStep::Copy { target, image: image.clone(), partition: *partition }]
        }
        ImageSource::From(name, _) => vec![ImageStep::CopyShared { target, name: name.clone() }],
    }
}

pub(crate) fn source_resize(source: &ImageSource) -> Option<ImageResize> {
    match source {
        ImageSource::EmptyImage(..) | ImageSource::CopyOnWrite(_) => None,
        ImageSource::SourceImage(_, _, resize) | ImageSource::From(_, resize) => Some(*resize),
    }
}

pub(crate) fn destination_resize(destination: &ImageDestination) -> Option<ImageResize> {
    match destination {
        ImageDestination::Transient => None,
        ImageDestination::Share(_, _, resize)
        | ImageDestination::LiveInstallerImage(_, _, resize)
        | ImageDestination::LocalFile(_, resize) => Some(*resize),
    }
}

/// What is on an image when it begins. Of a shared one only its `.b9si` knows.
pub(crate) fn filesystem(source: &ImageSource) -> Option<FileSystem> {
    match source {
        ImageSource::EmptyImage(_, filesystem, ..) => Some(*filesystem),
        ImageSource::CopyOnWrite(image) | ImageSource::SourceImage(image, ..) => {
            Some(image.filesystem)
        }
        ImageSource::From(..) => None,
    }
}

/// Options of `mkfs.ext4` for its features: B9's default without the key
/// `ext4_attributes`, none with an empty list.
#[must_use]
pub fn ext4_features(filesystem: FileSystem, attributes: Option<&[String]>) -> Vec<String> {
    let features = match (filesystem, attributes) {
        (FileSystem::Ext4With64Bit, _) => "64bit".to_owned(),
        (_, None) => "^64bit".to_owned(),
        (_, Some([])) => return Vec::new(),
        (_, Some(attributes)) => attributes.join(","),
    };
    vec!["-O".into(), features]
}
