//! The steps of vmdb2, 0.26 to 0.41, one file for each family. A step is read
//! from its keys once and lowered once; between the two it is plain data.

mod ansible;
mod apt;
mod command;
mod debootstrap;
mod files;
mod filesystem;
mod fstab;
mod grub;
mod image;
mod luks;
mod lvm;
mod message;
mod resize;
mod rootfs;
mod virtual_filesystems;

pub use ansible::Ansible;
pub use apt::Apt;
pub use command::{Chroot, Shell};
pub use debootstrap::{Debootstrap, QemuDebootstrap};
pub use files::{CopyDir, CopyFile, CreateDir, CreateFile};
pub use filesystem::{Mkfs, Mount};
pub use fstab::Fstab;
pub use grub::{Flavor, Grub};
pub use image::{Kpartx, Mkimg, Mklabel, Mkpart, SetPartFlag};
pub use luks::{Cryptsetup, Key};
pub use lvm::{Lvcreate, Lvscan, Vgcreate};
pub use message::{Echo, ErrorStep};
pub use resize::ResizeRootfs;
pub use rootfs::{CacheRootfs, UnpackRootfs};
pub use virtual_filesystems::VirtualFilesystems;

use crate::{
    fields::Fields,
    lower::{Fault, Lowering},
    yaml::{Node, Position, Value},
};

/// What every kind of step can do.
trait StepKind: Sized {
    /// Names of other steps that are keys of this one.
    const OTHER_NAMES: &'static [&'static str] = &[];

    /// Takes the step's keys.
    fn read(fields: &mut Fields<'_>) -> Self;

    /// Adds what it does to the plan.
    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault>;

    /// Adds what it does even when `unless` skips it.
    fn lower_skipped(&self, _lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        Ok(())
    }

    /// Names that later steps know from this one.
    fn defines(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A kind of step.
#[derive(Debug)]
pub struct Kind {
    /// The key that names it.
    pub name: &'static str,
    /// Names of other steps that are keys of this one.
    pub(crate) other_names: &'static [&'static str],
    pub(crate) read: fn(&mut Fields<'_>) -> Action,
}

impl Action {
    /// The name that the step gives to something and that is seen outside of
    /// the plan: of a volume, a group, a mapping.
    pub(crate) fn fixed_name(&self) -> Option<&str> {
        match self {
            Self::Cryptsetup(step) => Some(&step.name),
            Self::Vgcreate(step) => Some(&step.name),
            Self::Lvcreate(step) => Some(&step.name),
            _ => None,
        }
    }
}

impl Kind {
    /// The keys that a step of this kind can have, its name first.
    #[must_use]
    pub fn keys(&self) -> Vec<&'static str> {
        // Reading asks for every key, whether it is there or not.
        let nothing = Node { at: Position::default(), value: Value::Map(Vec::new()) };
        let mut fields = Fields::new(&nothing);
        (self.read)(&mut fields);
        fields.unless();
        let mut keys: Vec<&str> = vec![self.name];
        for key in fields.asked() {
            if !keys.contains(key) {
                keys.push(key);
            }
        }
        keys
    }
}

macro_rules! kinds {
    ($($name:literal $kind:ident),* $(,)?) => {
        /// A step.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Action {
            $(#[doc = concat!("`", $name, "`.")] $kind($kind),)*
        }

        impl Action {
            pub(crate) fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
                match self { $(Self::$kind(step) => step.lower(lowering),)* }
            }

            pub(crate) fn lower_skipped(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
                match self { $(Self::$kind(step) => step.lower_skipped(lowering),)* }
            }

            pub(crate) fn defines(&self) -> Vec<String> {
                match self { $(Self::$kind(step) => step.defines(),)* }
            }
        }

        /// Every kind of step, by name.
        pub const KINDS: &[Kind] = &[
            $(Kind {
                name: $name,
                other_names: <$kind as StepKind>::OTHER_NAMES,
                read: |fields| Action::$kind(<$kind as StepKind>::read(fields)),
            },)*
        ];
    };
}

kinds! {
    "mkimg" Mkimg,
    "mklabel" Mklabel,
    "mkpart" Mkpart,
    "set_part_flag" SetPartFlag,
    "kpartx" Kpartx,
    "cryptsetup" Cryptsetup,
    "vgcreate" Vgcreate,
    "lvcreate" Lvcreate,
    "lvscan" Lvscan,
    "mkfs" Mkfs,
    "mount" Mount,
    "unpack-rootfs" UnpackRootfs,
    "debootstrap" Debootstrap,
    "qemu-debootstrap" QemuDebootstrap,
    "apt" Apt,
    "cache-rootfs" CacheRootfs,
    "virtual-filesystems" VirtualFilesystems,
    "chroot" Chroot,
    "shell" Shell,
    "copy-file" CopyFile,
    "copy-dir" CopyDir,
    "create-file" CreateFile,
    "create-dir" CreateDir,
    "ansible" Ansible,
    "fstab" Fstab,
    "grub" Grub,
    "resize-rootfs" ResizeRootfs,
    "echo" Echo,
    "error" ErrorStep,
}
