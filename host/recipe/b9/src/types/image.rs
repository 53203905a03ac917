//! Images: what they are made from, what becomes of them, how large they are.

use crate::{haskell::terms, place::Text};

terms! {
    /// An image that is made.
    pub struct ImageTarget = "ImageTarget"("ImageTarget") {
        /// What becomes of it.
        destination: ImageDestination,
        /// What it begins as.
        source: ImageSource,
        /// Where the script sees it.
        mount_point: MountPoint,
    }
}

terms! {
    /// Where the script sees an image or a directory.
    pub enum MountPoint = "MountPoint" {
        /// An absolute path.
        At = "MountPoint"(path: Text),
        /// The image is not mounted.
        NotMounted = "NotMounted",
    }
}

terms! {
    /// What becomes of an image.
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
        /// Nothing: it is gone after the build.
        Transient = "Transient",
    }
}

terms! {
    /// What an image begins as.
    pub enum ImageSource = "ImageSource" {
        /// A new filesystem. The image type has no meaning.
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
        /// Its path.
        path: Text,
        /// Its format.
        image_type: ImageType,
        /// What is on it.
        filesystem: FileSystem,
    }
}

terms! {
    /// Formats of image files.
    #[derive(Copy, PartialEq, Eq)]
    pub enum ImageType = "ImageType" {
        /// The bytes of the disk.
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
        /// None that B9 knows.
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
    /// Whether it is ext4, of which B9 can change the size.
    #[must_use]
    pub fn is_ext4(self) -> bool {
        matches!(self, Self::Ext4 | Self::Ext4With64Bit)
    }
}

terms! {
    /// A size.
    #[derive(Copy, PartialEq, Eq)]
    pub struct ImageSize = "ImageSize"("ImageSize") {
        /// How many.
        number: i64,
        /// Of what.
        unit: SizeUnit,
    }
}

terms! {
    /// Units of sizes; each is 1024 of the one before.
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
    /// The size in bytes, when it is 1 or more of its unit and fits into 63 bits.
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
    /// How the size of an image is changed.
    #[derive(Copy, PartialEq, Eq)]
    pub enum ImageResize = "ImageResize" {
        /// The size of the image, but not of the filesystem on it.
        ResizeImage = "ResizeImage"(size: ImageSize),
        /// The size of image and filesystem.
        Resize = "Resize"(size: ImageSize),
        /// As small as the filesystem can be, and so much more.
        ShrinkToMinimumAndIncrease = "ShrinkToMinimumAndIncrease"(size: ImageSize),
        /// As small as the filesystem can be.
        ShrinkToMinimum = "ShrinkToMinimum",
        /// Not at all.
        KeepSize = "KeepSize",
    }
}
