//! `grub`: the boot loader, for BIOS, UEFI and Open Firmware.

use plan::{GuestPath, Value};

use super::{
    StepKind,
    filesystem::mount_node,
    image::set_flag,
    virtual_filesystems::{bind_system, make_directories},
};
use crate::{
    fields::Fields,
    lowering::{Command, Fault, Lowering, Work},
    state::{Device, MountedAt},
};

const DEFAULTS_SH: &str = include_str!("../../scripts/grub-defaults.sh");
const INSTALL_SH: &str = include_str!("../../scripts/grub-install.sh");
/// Kernel parameters that vmdb2 always sets.
const KERNEL_PARAMS: &[&str] = &["biosdevname=0", "net.ifnames=0", "consoleblank=0", "rw"];

/// The firmware that starts the boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// A PC BIOS.
    Bios,
    /// Boot by UEFI.
    Uefi,
    /// Open Firmware of POWER machines.
    Ieee1275,
}

/// Installs GRUB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grub {
    /// The firmware that starts it.
    pub flavor: Flavor,
    /// The tag of the root filesystem.
    pub tag: String,
    /// The tag of the EFI system partition.
    pub efi: Option<String>,
    /// The tag of the PReP partition.
    pub prep: Option<String>,
    /// Whether the console is a serial line.
    pub serial: bool,
    /// The image's path, if it is not the one that holds the root filesystem.
    pub image_dev: Option<String>,
    /// Whether booting is quiet.
    pub quiet: bool,
    /// Menu timeout in seconds.
    pub timeout: u32,
    /// Additional kernel parameters.
    pub kernel_params: Vec<String>,
}

impl StepKind for Grub {
    fn read(fields: &mut Fields<'_>) -> Self {
        let flavor = match fields.text("grub").as_str() {
            "bios" => Flavor::Bios,
            "uefi" => Flavor::Uefi,
            "ieee1275" => Flavor::Ieee1275,
            other => {
                let hint = "the flavors are `bios`, `uefi` and `ieee1275`";
                fields.fault("grub", format!("`{other}` is not a flavor of GRUB"), Some(hint));
                Flavor::Bios
            }
        };
        let tag = fields.required_alias(&["tag", "root-fs"]);
        let efi = fields.alias(&["efi", "efi-part"]);
        let prep = fields.optional("prep");
        let console = fields.optional("console");
        let timeout = fields.number_or("timeout", 0, i32::MAX.unsigned_abs());
        if flavor == Flavor::Uefi && efi.is_none() {
            fields.fault("", "needs `efi`, the tag of the EFI system partition", None);
        }
        if let Some(console) = console.as_ref().filter(|console| *console != "serial") {
            let message = format!("the key `console` is `{console}`");
            fields.fault("console", message, Some("the one console is `serial`"));
        }
        Self {
            flavor,
            tag,
            efi,
            prep,
            serial: console.is_some(),
            image_dev: fields.optional("image-dev"),
            quiet: fields.flag_or("quiet", false),
            timeout,
            kernel_params: fields.list_or("kernel-params", KERNEL_PARAMS),
        }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let (package, target) = self.package(&lowering.arch)?;
        let root = lowering.root_of("tag", &self.tag)?;
        let disk = match &self.image_dev {
            Some(path) => lowering.disk("image-dev", path)?,
            None => lowering.disk_below("tag", &self.tag)?,
        };
        let mut node = lowering.disks[disk].name.to_string();
        let mut prepare = make_directories(&root, &["proc", "dev", "sys"])?;
        if let Some(efi) = &self.efi {
            flag_partition(lowering, "efi", efi, "esp")?;
            self.mount_esp(lowering, efi, &root, &mut prepare)?;
        } else if let Some(prep) = &self.prep {
            flag_partition(lowering, "prep", prep, "prep")?;
            node = lowering.tag("prep", prep)?.node.clone();
        }
        lowering.stage("-mount", Some(&root), false, prepare);
        bind_system(lowering, &self.tag, &root)?;
        let commands = self.commands(lowering, &root, (package, target), &node);
        lowering.image_stage(&root, commands);
        Ok(())
    }
}

/// Sets the partition flag that the firmware looks for.
fn flag_partition(
    lowering: &mut Lowering<'_>,
    key: &'static str,
    tag: &str,
    flag: &str,
) -> Result<(), Fault> {
    match lowering.tag(key, tag)?.device {
        Device::Partition { disk, part } => set_flag(lowering, disk, part, flag, true),
        // The partition table of an existing image stays as it is, flags included.
        Device::Found { .. } => {}
        _ => return Err(Fault::new(key, format!("`{tag}` is not a partition"))),
    }
    Ok(())
}

impl Grub {
    /// The package with this flavor, and GRUB's name of the target.
    fn package(&self, arch: &str) -> Result<(&'static str, &'static str), Fault> {
        match (self.flavor, arch) {
            (Flavor::Bios, "amd64" | "i386") => Ok(("grub-pc", "i386-pc")),
            (Flavor::Uefi, "amd64") => Ok(("grub-efi-amd64", "x86_64-efi")),
            (Flavor::Uefi, "i386") => Ok(("grub-efi-ia32", "i386-efi")),
            (Flavor::Uefi, "arm64") => Ok(("grub-efi-arm64", "arm64-efi")),
            (Flavor::Uefi, "armhf") => Ok(("grub-efi-arm", "arm-efi")),
            (Flavor::Ieee1275, "ppc64el" | "ppc64" | "powerpc") => {
                Ok(("grub-ieee1275", "powerpc-ieee1275"))
            }
            _ => {
                let message = format!("there is no GRUB of this flavor for {arch}");
                Err(Fault::new("grub", message))
            }
        }
    }

    /// Mounts the EFI system partition where GRUB expects it, from the next stage to the end of the
    /// build.
    fn mount_esp(
        &self,
        lowering: &mut Lowering<'_>,
        efi: &str,
        root: &GuestPath,
        prepare: &mut Vec<Work>,
    ) -> Result<(), Fault> {
        let point = format!("{}/boot/efi", lowering.mounted("tag", &self.tag)?.point);
        let tag = lowering.tag("efi", efi)?;
        if tag.mounted.as_ref().is_some_and(|mounted| mounted.point == point) {
            return Ok(());
        }
        let Some((filesystem, _)) = tag.filesystem.clone() else {
            return Err(Fault::new("efi", format!("`{efi}` has no filesystem at this step")));
        };
        if let Some(MountedAt { target, .. }) = &tag.mounted {
            let message =
                format!("`{efi}` is mounted on `{target}`, but GRUB needs it on /boot/efi");
            return Err(Fault::new("efi", message));
        }
        prepare.extend(make_directories(root, &["boot/efi"])?);
        prepare.push(mount_node(lowering, efi, filesystem, &point).into());
        Ok(())
    }

    fn commands(
        &self,
        lowering: &Lowering<'_>,
        root: &GuestPath,
        (package, target): (&str, &str),
        node: &str,
    ) -> Vec<Command> {
        let run = |what: &str, words: &[&str]| {
            let argv: Vec<Value> = words.iter().map(|word| (*word).into()).collect();
            lowering.in_image(root, what, argv).env("DEBIAN_FRONTEND", "noninteractive")
        };
        let defaults: Vec<Value> = vec![
            root.as_str().into(),
            self.command_line(&lowering.arch).into(),
            self.timeout.to_string().into(),
            if self.serial { "serial" } else { "" }.into(),
        ];
        let device = Value::Fact(format!("device.{node}"));
        let mut install: Vec<Value> = vec!["sh".into(), "-c".into(), INSTALL_SH.into()];
        install.extend(["grub-install".into(), target.into(), device]);
        let option = format!("--target={target}");
        let shown = ["chroot", root.as_str(), "grub-install", &option];
        vec![
            run("apt-get update", &["apt-get", "update"]),
            run("install GRUB", &["apt-get", "-y", "--no-show-progress", "install", package]),
            lowering
                .script("configure GRUB", DEFAULTS_SH, defaults)
                .shown(&["write", "/etc/default/grub"]),
            run("grub-mkconfig", &["grub-mkconfig", "-o", "/boot/grub/grub.cfg"]),
            lowering.in_image(root, "grub-install", install).shown(&shown),
        ]
    }

    /// The kernel command line.
    fn command_line(&self, arch: &str) -> String {
        let mut words: Vec<&str> = self.kernel_params.iter().map(String::as_str).collect();
        if self.serial {
            let console = match arch {
                "ppc64" | "ppc64el" => "console=hvc0,115200n8",
                arch if arch.starts_with("arm") => "console=ttyAMA0,115200n8",
                _ => "console=ttyS0,115200n8",
            };
            words.extend(["loglevel=3", "console=tty0", console]);
        }
        if self.quiet {
            words.extend(["quiet", "systemd.show_status=false", "rd.systemd.show_status=false"]);
        } else {
            words.push("systemd.show_status=true");
        }
        words.join(" ")
    }
}
