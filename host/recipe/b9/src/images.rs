//! The operations on the images of an artifact, in order: created, resized, used by the script,
//! resized again, used by the fixup, exported.
//!
//! Each target has its own image, whatever its source. During the build an image is raw; its format
//! applies only to the export.

use crate::{
    place::Text,
    types::{
        ArtifactAssembly, FileSystem, Image, ImageDestination, ImageResize, ImageSource,
        ImageTarget, Partition, Script, VmScript,
    },
};

/// One operation; `target` is the index of the image in its artifact.
#[derive(Debug, Clone)]
pub enum ImageStep {
    /// Initializes an image with a copy of another, or of a partition in it.
    Copy {
        /// Index of the image.
        target: usize,
        /// The image to copy.
        image: Image,
        /// The partition to copy.
        partition: Partition,
    },
    /// Initializes an image with a copy of the newest revision of a shared image.
    CopyShared {
        /// Index of the image.
        target: usize,
        /// The name of the shared image.
        name: Text,
    },
    /// Creates an empty image.
    Create {
        /// Index of the image.
        target: usize,
        /// The size of the image in bytes.
        bytes: u64,
    },
    /// Creates a filesystem.
    Format {
        /// Index of the image.
        target: usize,
        /// The filesystem.
        filesystem: FileSystem,
        /// The label of the filesystem.
        label: Text,
    },
    /// Changes the size.
    Resize {
        /// Index of the image.
        target: usize,
        /// The change.
        change: SizeChange,
    },
    /// The script runs, with the images mounted.
    Script,
    /// The fixup runs, with the images as files.
    Fixup,
    /// Writes the image to its destination.
    Export {
        /// Index of the image.
        target: usize,
    },
}

/// A change of size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeChange {
    /// Sets the size of the image in bytes, but not of its filesystem.
    Container(u64),
    /// Sets the size of filesystem and image in bytes.
    Filesystem(u64),
    /// Shrinks to the minimum size of the filesystem.
    Minimum,
    /// Shrinks to the minimum size of the filesystem, rounded up to KiB, plus this number of bytes.
    MinimumPlus(u64),
}

impl SizeChange {
    /// The change of a B9 resize; `None` if it keeps the size or has an invalid size (see
    /// [`crate::check`]).
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

    /// Whether it resizes the filesystem, whose type must support that.
    #[must_use]
    pub fn is_of_filesystem(self) -> bool {
        !matches!(self, Self::Container(_))
    }
}

/// The parts of an image assembly.
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
    /// The parts of an assembly; `None` for a seed, which has no images.
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

    /// The script, if it runs any command.
    #[must_use]
    pub fn running_script(&self) -> Option<&'a Script> {
        match self.script {
            VmScript::Run(_, _, script) if crate::runs_anything(script) => Some(script),
            _ => None,
        }
    }

    /// All operations in order.
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

/// The filesystem of an image at the start; `None` for a shared one, where only its `.b9si` records
/// it.
pub(crate) fn filesystem(source: &ImageSource) -> Option<FileSystem> {
    match source {
        ImageSource::EmptyImage(_, filesystem, ..) => Some(*filesystem),
        ImageSource::CopyOnWrite(image) | ImageSource::SourceImage(image, ..) => {
            Some(image.filesystem)
        }
        ImageSource::From(..) => None,
    }
}

/// Feature options of `mkfs.ext4`: B9's default without the key `ext4_attributes`, none with an
/// empty list.
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
