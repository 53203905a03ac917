//! The steps of vmdb2 0.26 to 0.41, one file per family. A step is read once from its keys and
//! lowered once; in between it is plain data.

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
    lowering::{Fault, Lowering},
    yaml::{Node, Position, Value},
};

/// The operations of every kind of step.
trait StepKind: Sized {
    /// Names of other steps that are keys of this one.
    const OTHER_NAMES: &'static [&'static str] = &[];

    /// Reads the step's keys.
    fn read(fields: &mut Fields<'_>) -> Self;

    /// Adds its work to the plan.
    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault>;

    /// Adds the work that it does even if `unless` skips it.
    fn lower_skipped(&self, _lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        Ok(())
    }

    /// Names that it defines for later steps.
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
    /// A name that the step creates and that is visible outside of the plan: of a volume, a group,
    /// or a mapping.
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
    /// The keys that a step of this kind accepts, its name first.
    #[must_use]
    pub fn keys(&self) -> Vec<&'static str> {
        // Reading asks for every key, present or not.
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
