//! Finds the kernel package, and extracts the kernel and its modules.

use std::{collections::BTreeSet, fs::File};

use crate::{
    deb::{Content, Deb, Kind},
    index::{Index, Package, parse_relations},
    modules::{ModuleError, Modules},
};

/// Modules that the agent needs to mount the tools root: bus, disks, its connection to the host,
/// randomness for the first processes, and the filesystems of the tools root and of its overlay.
const EARLY: &[&str] =
    &["virtio_mmio", "virtio_blk", "vmw_vsock_virtio_transport", "virtio_rng", "ext4", "overlay"];

/// Modules that are of no use in a machine with virtio devices only: drivers of real hardware,
/// filesystems, and network protocols. Omitting them halves the time of `depmod` in the first boot.
const USELESS: &[&str] = &[
    "drivers/accessibility/",
    "drivers/acpi/",
    "drivers/ata/",
    "drivers/bluetooth/",
    "drivers/comedi/",
    "drivers/counter/",
    "drivers/cpufreq/",
    "drivers/dax/",
    "drivers/dca/",
    "drivers/dma/",
    "drivers/edac/",
    "drivers/extcon/",
    "drivers/firmware/",
    "drivers/gpio/",
    "drivers/gpu/",
    "drivers/greybus/",
    "drivers/hid/",
    "drivers/hv/",
    "drivers/hwmon/",
    "drivers/i2c/",
    "drivers/idle/",
    "drivers/infiniband/",
    "drivers/input/",
    "drivers/iommu/",
    "drivers/isdn/",
    "drivers/mailbox/",
    "drivers/media/",
    "drivers/message/",
    "drivers/mfd/",
    "drivers/misc/",
    "drivers/mmc/",
    "drivers/net/ethernet/",
    "drivers/net/hyperv/",
    "drivers/net/phy/",
    "drivers/net/wireless/",
    "drivers/net/wwan/",
    "drivers/ntb/",
    "drivers/nvdimm/",
    "drivers/nvme/",
    "drivers/parport/",
    "drivers/pci/",
    "drivers/pcmcia/",
    "drivers/pinctrl/",
    "drivers/platform/",
    "drivers/power/",
    "drivers/powercap/",
    "drivers/pps/",
    "drivers/ptp/",
    "drivers/rpmsg/",
    "drivers/rtc/",
    "drivers/scsi/",
    "drivers/soundwire/",
    "drivers/spi/",
    "drivers/staging/",
    "drivers/target/",
    "drivers/thermal/",
    "drivers/thunderbolt/",
    "drivers/tty/",
    "drivers/uio/",
    "drivers/usb/",
    "drivers/vfio/",
    "drivers/video/",
    "drivers/watchdog/",
    "drivers/xen/",
    "arch/x86/events/",
    "fs/afs/",
    "fs/ceph/",
    "fs/dlm/",
    "fs/gfs2/",
    "fs/lockd/",
    "fs/nfs",
    "fs/ocfs2/",
    "fs/orangefs/",
    "fs/smb/",
    "net/6lowpan/",
    "net/9p/",
    "net/batman-adv/",
    "net/ceph/",
    "net/dccp/",
    "net/ieee802154/",
    "net/l2tp/",
    "net/mpls/",
    "net/mptcp/",
    "net/netfilter/ipvs/",
    "net/openvswitch/",
    "net/rds/",
    "net/rxrpc/",
    "net/sctp/",
    "net/smc/",
    "net/sunrpc/",
    "net/tipc/",
    "net/wireless/",
    "net/x25/",
    "sound/",
];

/// An error while finding or extracting the kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The release has no such kernel.
    #[error("the release has no kernel package `{name}`")]
    NoPackage {
        /// The package name.
        name: String,
    },
    /// The package lacks a part of a kernel package.
    #[error("the kernel package `{package}` has no {what}")]
    Incomplete {
        /// The package name.
        package: String,
        /// The missing part.
        what: &'static str,
    },
    /// The archive of modules cannot be created.
    #[error("cannot make the archive of modules")]
    Archive(#[source] std::io::Error),
    /// The modules cannot be used.
    #[error(transparent)]
    Modules(#[from] ModuleError),
}

/// The content extracted from a kernel package.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// The kernel's release, as in `uname -r`.
    pub version: String,
    /// The bzImage, in the spool.
    pub image: Content,
    /// The archive of the modules that the agent loads.
    pub modules_archive: Vec<u8>,
    /// The paths in the package that belong in the tools root.
    pub tool_root_paths: BTreeSet<String>,
}

/// Returns the package that a kernel metapackage depends on.
///
/// # Errors
/// Fails if the release does not have the metapackage or its kernel package.
pub(crate) fn find(index: &Index, metapackage: &str) -> Result<Package, KernelError> {
    let missing = || KernelError::NoPackage { name: metapackage.to_owned() };
    let meta = index.get(metapackage).ok_or_else(missing)?;
    parse_relations(&meta.depends)
        .into_iter()
        .flatten()
        .find(|wanted| wanted.name.starts_with("linux-image-"))
        .and_then(|wanted| index.get(&wanted.name).filter(|package| package.satisfies(&wanted)))
        .ok_or_else(missing)
}

/// Whether a file of a kernel package is needed.
#[must_use]
pub(crate) fn wanted(path: &str) -> bool {
    path.starts_with("boot/vmlinuz-") || in_modules(path).is_some()
}

/// Returns the kernel release and the remaining path below `lib/modules`; since trixie, below
/// `usr/lib/modules`.
fn in_modules(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix("usr/").unwrap_or(path);
    path.strip_prefix("lib/modules/")?.split_once('/')
}

/// Extracts the kernel from its unpacked package.
///
/// # Errors
/// Fails if a part is missing, or if a module cannot be used.
pub(crate) fn take(package: &str, deb: &Deb, spools: &[File]) -> Result<Kernel, KernelError> {
    let incomplete = |what| KernelError::Incomplete { package: package.to_owned(), what };
    let file = |prefix: &str| -> Option<(&str, &Content)> {
        deb.entries.iter().find_map(|entry| match &entry.kind {
            Kind::File(content) => Some((entry.path.strip_prefix(prefix)?, content)),
            _ => None,
        })
    };
    let (version, image) = file("boot/vmlinuz-").ok_or_else(|| incomplete("kernel image"))?;
    let modules = Modules::of(deb, spools)?;
    let early = modules.closure(EARLY)?;
    let modules_archive =
        crate::initramfs::modules_archive(&early).map_err(KernelError::Archive)?;
    let useful = |path: &str| {
        let inside = in_modules(path).and_then(|(_, rest)| rest.strip_prefix("kernel/"));
        inside.is_some_and(|rest| !USELESS.iter().any(|prefix| rest.starts_with(prefix)))
    };
    let mut tool_root_paths = modules.paths(&useful)?;
    if tool_root_paths.is_empty() {
        return Err(incomplete("modules"));
    }
    for entry in &deb.entries {
        let index = in_modules(&entry.path).is_some_and(|(_, rest)| rest.starts_with("modules."));
        if index && matches!(entry.kind, Kind::File(_)) {
            tool_root_paths.insert(entry.path.clone());
        }
    }
    let (version, image) = (version.to_owned(), image.clone());
    Ok(Kernel { version, image, modules_archive, tool_root_paths })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metapackage_leads_to_the_kernel() {
        let index = crate::index::tests::index_of(&[
            ("linux-image-cloud-amd64", "Depends: linux-image-6.1.0-9-cloud-amd64 (= 1)\n"),
            ("linux-image-6.1.0-9-cloud-amd64", ""),
        ]);
        let found = find(&index, "linux-image-cloud-amd64").unwrap();
        assert_eq!(found.name, "linux-image-6.1.0-9-cloud-amd64");
        assert!(find(&index, "linux-image-none").is_err());
    }

    #[test]
    fn files_worth_unpacking() {
        assert!(wanted("boot/vmlinuz-6.1"));
        assert!(wanted("lib/modules/6.1/kernel/fs/x.ko"));
        assert!(wanted("usr/lib/modules/6.12/modules.builtin"));
        assert!(!wanted("boot/System.map-6.1"));
        assert!(!wanted("usr/share/bug/x"));
    }
}
