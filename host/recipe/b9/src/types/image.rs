//! Images: sources, destinations, formats and sizes.

use crate::{haskell::terms, place::Text};

terms! {
    /// An image to build.
    pub struct ImageTarget = "ImageTarget"("ImageTarget") {
        /// The destination of the image.
        destination: ImageDestination,
        /// The source of the image.
        source: ImageSource,
        /// The mount point of the image in the script.
        mount_point: MountPoint,
    }
}

terms! {
    /// Where a script sees an image or a directory.
    pub enum MountPoint = "MountPoint" {
        /// An absolute path.
        At = "MountPoint"(path: Text),
        /// It is not mounted.
        NotMounted = "NotMounted",
    }
}

terms! {
    /// The destination of an image.
    pub enum ImageDestination = "ImageDestination" {
        /// A revision of a shared image.
        Share = "Share"(name: Text, image_type: ImageType, resize: ImageResize),
        /// The files of a live installer: a name, and a directory.
        LiveInstallerImage = "LiveInstallerImage"(
            name: Text,
            directory: Text,
            resize: ImageResize,
        ),
        /// A file.
        LocalFile = "LocalFile"(image: Image, resize: ImageResize),
        /// None: it is deleted after the build.
        Transient = "Transient",
    }
}

terms! {
    /// The source of an image.
    pub enum ImageSource = "ImageSource" {
        /// A new filesystem. The image type is ignored.
        EmptyImage = "EmptyImage"(
            label: Text,
            filesystem: FileSystem,
            image_type: ImageType,
            size: ImageSize,
        ),
        /// A fresh overlay over an image.
        CopyOnWrite = "CopyOnWrite"(image: Image),
        /// A copy of an image, or of a partition in it.
        SourceImage = "SourceImage"(image: Image, partition: Partition, resize: ImageResize),
        /// A copy of the newest revision of a shared image.
        From = "From"(name: Text, resize: ImageResize),
    }
}

terms! {
    /// A part of a disk.
    #[derive(Copy, PartialEq, Eq)]
    pub enum Partition = "Partition" {
        /// The whole disk, which has no partition table.
        NoPt = "NoPT",
        /// A partition, counted from 1.
        Number = "Partition"(number: i64),
    }
}

terms! {
    /// An image file.
    pub struct Image = "Image"("Image") {
        /// The path of the image file.
        path: Text,
        /// The format of the image file.
        image_type: ImageType,
        /// The type of the filesystem in the image.
        filesystem: FileSystem,
    }
}

terms! {
    /// Formats of image files.
    #[derive(Copy, PartialEq, Eq)]
    pub enum ImageType = "ImageType" {
        /// The raw bytes of the disk.
        Raw = "Raw",
        /// QEMU's format.
        QCow2 = "QCow2",
        /// VMware's format.
        Vmdk = "Vmdk",
    }
}

impl ImageType {
    /// Its name in the `output` crate, and the suffix of shared images.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::QCow2 => "qcow2",
            Self::Vmdk => "vmdk",
        }
    }
}

terms! {
    /// Types of filesystems.
    #[derive(Copy, PartialEq, Eq)]
    pub enum FileSystem = "FileSystem" {
        /// No filesystem that B9 supports.
        NoFileSystem = "NoFileSystem",
        /// ext4 with the attributes of the configuration.
        Ext4 = "Ext4",
        /// ext4 with the feature 64bit.
        Ext4With64Bit = "Ext4_64",
        /// An ISO 9660 filesystem.
        Iso9660 = "ISO9660",
        /// A FAT filesystem.
        Vfat = "VFAT",
    }
}

impl FileSystem {
    /// Whether it is ext4, the only type that B9 can resize.
    #[must_use]
    pub fn is_ext4(self) -> bool {
        matches!(self, Self::Ext4 | Self::Ext4With64Bit)
    }
}

terms! {
    /// A size.
    #[derive(Copy, PartialEq, Eq)]
    pub struct ImageSize = "ImageSize"("ImageSize") {
        /// The number of units.
        number: i64,
        /// The unit.
        unit: SizeUnit,
    }
}

terms! {
    /// Units of sizes; each is 1024 times the previous one.
    #[derive(Copy, PartialEq, Eq)]
    pub enum SizeUnit = "SizeUnit" {
        /// Units of 1024 bytes.
        Kb = "KB",
        /// Units of 1024 KiB.
        Mb = "MB",
        /// Units of 1024 MiB.
        Gb = "GB",
    }
}

impl ImageSize {
    /// The size in bytes, if it is at least 1 of its unit and fits in 63 bits.
    #[must_use]
    pub fn bytes(self) -> Option<u64> {
        let shift = match self.unit {
            SizeUnit::Kb => 10,
            SizeUnit::Mb => 20,
            SizeUnit::Gb => 30,
        };
        let number = u64::try_from(self.number).ok().filter(|number| *number > 0)?;
        number.checked_mul(1 << shift).filter(|bytes| i64::try_from(*bytes).is_ok())
    }
}

terms! {
    /// A change of an image's size.
    #[derive(Copy, PartialEq, Eq)]
    pub enum ImageResize = "ImageResize" {
        /// Sets the size of the image, but not of its filesystem.
        ResizeImage = "ResizeImage"(size: ImageSize),
        /// Sets the size of image and filesystem.
        Resize = "Resize"(size: ImageSize),
        /// Shrinks to the minimum size of the filesystem, plus the given size.
        ShrinkToMinimumAndIncrease = "ShrinkToMinimumAndIncrease"(size: ImageSize),
        /// Shrinks to the minimum size of the filesystem.
        ShrinkToMinimum = "ShrinkToMinimum",
        /// Keeps the size.
        KeepSize = "KeepSize",
    }
}
