//! QEMU's command line as a pure function of the machine, checked by snapshot tests. Values that
//! may contain a comma are passed as JSON.

use std::path::Path;

use machine::{Drive, DriveFormat, InvalidSpec, Layer, MachineArchitecture, MachineSpec, Start};
use serde_json::{Value, json};

use crate::{args::Args, handed::SetId};

/// The CPU model for Linux under TCG: all features that QEMU emulates, except those that cost time
/// and do not benefit a build. QEMU has had all these names since 5.2.
///
/// - With ERMS and FSRM, kernel and C library copy with `rep movsb`, which TCG executes byte by
///   byte; without them, they copy eight or sixteen bytes at a time. A guest sends 35 MiB/s over
///   vsock with them and 396 MiB/s without.
/// - RDRAND and RDSEED are so slow that they dominate the start of Python (2.0 s instead of 0.2 s
///   for ten starts).
/// - Five-level paging, SMAP, SMEP, protection keys and UMIP slow down page faults and system
///   calls; XSAVE saves a kilobyte of AVX state at each context switch. AVX depends on XSAVE and
///   must be disabled explicitly: the kernel modules of btrfs and RAID trust the CPUID bit and
///   would crash.
pub(crate) const TCG_CPU: &str =
    "max,-erms,-fsrm,-rdrand,-rdseed,-la57,-smap,-smep,-pku,-umip,-xsave,-avx,-avx2";
/// The CPU model for arm64 under TCG. With the features that `max` has beyond Armv8.0, QEMU
/// flushes fewer translations; pointer authentication would be computed in software, and builds
/// do not need SVE. A build takes 0.6 of the CPU time that it takes with `cortex-a57`.
pub(crate) const TCG_CPU_ARM64: &str = "max,pauth=off,sve=off";

/// The PCI port of the vsock device in machines that are saved and restored.
pub(crate) const VSOCK_PORT: &str = "vsock-port";

/// What QEMU must not do once it runs: it needs no new processes, privileges or scheduling changes.
pub(crate) const SANDBOX: &str =
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// How QEMU runs guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum QemuAccel {
    /// Emulation, with one thread per virtual CPU.
    #[default]
    Tcg,
    /// KVM, for comparison with vbuild's own VMM.
    Kvm,
}

/// Facts about the host that the command line depends on, beside the specification.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Host {
    pub(crate) accel: QemuAccel,
    /// The host's TSC frequency in kHz, which the guest's TSC has under TCG.
    pub(crate) tsc_khz: Option<u32>,
}

/// Descriptors passed to QEMU, by QEMU's names for them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'a> {
    /// Descriptor number of the QMP connection.
    pub(crate) qmp: i32,
    /// Descriptor number of the vhost-user connection.
    pub(crate) vhost: i32,
    /// Descriptor number of the guest's memory.
    pub(crate) memory: i32,
    /// The files of each drive, topmost first.
    pub(crate) images: &'a [Vec<SetId>],
}

/// QEMU's arguments, without the program.
///
/// # Errors
/// Fails if a path is not UTF-8, as QEMU's options require.
pub(crate) fn argv(spec: &MachineSpec, host: Host, given: Given<'_>) -> Result<Args, InvalidSpec> {
    let mut args = Args(Vec::new());
    let memory = format!("{}M", memory_mib(spec));
    args.word("-nodefaults");
    args.word("-no-user-config");
    args.word("-no-reboot");
    args.pair("-display", "none");
    args.pair("-name", format!("guest={}", plain(&spec.name)));
    args.pair("-sandbox", SANDBOX);
    args.pair("-machine", format!("{},memory-backend=mem", board(spec)));
    match host.accel {
        QemuAccel::Tcg => {
            args.pair("-accel", "tcg,thread=multi");
            args.pair("-cpu", tcg_cpu(spec.architecture));
        }
        QemuAccel::Kvm => {
            args.pair("-accel", "kvm");
            args.pair("-cpu", "host");
        }
    }
    args.pair("-smp", spec.vcpus.to_string());
    args.pair("-m", memory.clone());
    // A file of vbuild, which saves and restores it; shared, because the vsock device maps it too.
    let path = format!("/proc/self/fd/{}", given.memory);
    args.pair(
        "-object",
        format!("memory-backend-file,id=mem,size={memory},mem-path={path},share=on"),
    );
    args.pair("-kernel", utf8(&spec.kernel)?);
    args.pair("-initrd", utf8(&spec.initrd)?);
    args.pair("-append", kernel_command_line(spec, host));
    // By default, virtio-mmio offers only the legacy device, which lacks VIRTIO_F_VERSION_1.
    args.pair("-global", "virtio-mmio.force-legacy=false");
    // The console goes to the standard output, a pipe; the standard input is /dev/null.
    args.pair("-chardev", "stdio,id=console,mux=off,signal=off");
    args.pair("-serial", "chardev:console");
    args.pair("-chardev", format!("socket,id=qmp,fd={}", given.qmp));
    args.pair("-mon", "chardev=qmp,mode=control");
    args.pair("-chardev", format!("socket,id=vsock,fd={}", given.vhost));
    match spec.start {
        Start::Boot => args.pair("-device", "vhost-user-vsock-device,chardev=vsock"),
        // QEMU saves no machine with this device, so it comes when the machine is restored: into a
        // port of the PCI bus, since virtio-mmio cannot be plugged.
        Start::BootToSave | Start::Restore(_) => args.pair(
            "-device",
            format!("pcie-root-port,id={VSOCK_PORT},power_controller_present=off"),
        ),
    }
    if matches!(spec.start, Start::Restore(_)) {
        args.word("-S");
        args.pair("-incoming", "defer");
    }
    // getrandom(2) never blocks, so it cannot delay the start of a guest.
    args.pair("-object", "rng-builtin,id=rng");
    args.pair("-device", "virtio-rng-device,rng=rng");
    for (drive, sets) in spec.drives.iter().zip(given.images) {
        args.pair("-blockdev", block_node(drive, sets).to_string());
        args.pair("-device", block_device(drive).to_string());
    }
    Ok(args)
}

/// The machine type of an architecture with its properties, except those of memory. Both types
/// have virtio-mmio slots, so drives are the same devices everywhere. GICv3 supports more than
/// eight CPUs, and KVM on most hosts.
pub(crate) fn board(spec: &MachineSpec) -> String {
    let pcie = if spec.start == Start::Boot { "off" } else { "on" };
    match spec.architecture {
        // The PIT is for calibrating the TSC only, and there is no PIC: with the hardware-reduced
        // ACPI of this machine, Linux does not program one, so a tick of the PIT would arrive at
        // vector 0, the divide error, if it came in the moment that interrupts are enabled.
        MachineArchitecture::Amd64 => {
            format!("microvm,acpi=on,pit=on,pic=off,rtc=on,isa-serial=on,pcie={pcie},usb=off")
        }
        MachineArchitecture::Arm64 => "virt,gic-version=3".to_owned(),
    }
}

/// The CPU model of an architecture under TCG.
pub(crate) fn tcg_cpu(architecture: MachineArchitecture) -> &'static str {
    match architecture {
        MachineArchitecture::Amd64 => TCG_CPU,
        MachineArchitecture::Arm64 => TCG_CPU_ARM64,
    }
}

/// The memory size of a machine.
pub(crate) fn memory_mib(spec: &MachineSpec) -> u32 {
    // With exactly 2 GiB, QEMU 10's microvm and Debian's 6.1 kernel disagree about the last page:
    // the first block request reads as zeros and the boot hangs. 2040 and 2049 MiB boot, so the
    // machine gets 1 MiB more.
    match (spec.architecture, spec.memory_mib) {
        (MachineArchitecture::Amd64, 2048) => 2049,
        (MachineArchitecture::Amd64 | MachineArchitecture::Arm64, memory_mib) => memory_mib,
    }
}

/// The node name of a drive's first image. All characters of a serial are valid in node names; the
/// prefix is needed because names must not begin with a digit.
pub(crate) fn node_name(drive: &Drive) -> String {
    format!("drive-{}", drive.serial)
}

/// The block node of a drive, from format down to file. QEMU opens no file named in an image
/// header: every qcow2 node gets its backing node, or explicitly none. External data files were
/// refused when the files were opened, since QEMU has no option for that.
fn block_node(drive: &Drive, sets: &[SetId]) -> Value {
    let access = Access { read_only: drive.read_only, durable: drive.durable };
    let mut node = chain_node(sets, drive.format, &drive.below, access);
    node["node-name"] = json!(node_name(drive));
    if !drive.read_only {
        // Blocks of zeros that the guest writes become holes.
        node["detect-zeroes"] = json!("unmap");
    }
    node
}

/// An image node over its read-only backing layers. `sets` begins with the image's own file; the
/// layers follow, nearest first.
pub(crate) fn chain_node(
    sets: &[SetId],
    format: DriveFormat,
    below: &[Layer],
    access: Access,
) -> Value {
    let formats = std::iter::once(format).chain(below.iter().map(|layer| layer.format));
    let mut layers: Vec<_> = sets.iter().zip(formats).collect();
    layers.reverse();
    let mut node = Value::Null;
    let top = layers.len().saturating_sub(1);
    for (index, (set, format)) in layers.into_iter().enumerate() {
        let read_only = access.read_only || index < top;
        node = image_node(*set, format, Access { read_only, ..access }, node);
    }
    node
}

/// The node of a new topmost layer of a running drive. It has no backing node yet; that becomes the
/// current node of the drive.
pub(crate) fn layer_node(name: &str, set: SetId, durable: bool) -> Value {
    let access = Access { read_only: false, durable };
    let mut node = image_node(set, DriveFormat::Qcow2, access, Value::Null);
    node["node-name"] = json!(name);
    node["detect-zeroes"] = json!("unmap");
    node
}

/// Access mode of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    pub(crate) read_only: bool,
    /// Whether a guest's flush reaches stable storage.
    pub(crate) durable: bool,
}

/// The node of one image file, with its backing node.
pub(crate) fn image_node(set: SetId, format: DriveFormat, access: Access, below: Value) -> Value {
    let Access { read_only, durable } = access;
    let cache = json!({ "direct": false, "no-flush": !durable });
    let mut node = json!({
        "driver": format.name(),
        "read-only": read_only,
        "cache": cache,
        "discard": "unmap",
        "file": {
            "driver": "file",
            "filename": set.path(),
            "read-only": read_only,
            "cache": cache,
            "discard": "unmap",
        },
    });
    if format == DriveFormat::Qcow2 {
        node["backing"] = below;
    }
    node
}

/// The device of a drive.
fn block_device(drive: &Drive) -> Value {
    let block = drive.block_size.bytes();
    json!({
        "driver": "virtio-blk-device",
        "id": format!("disk-{}", drive.serial),
        "drive": node_name(drive),
        "serial": drive.serial.as_str(),
        "logical_block_size": block,
        "physical_block_size": 4096,
        "discard": !drive.read_only,
        "write-zeroes": !drive.read_only,
        // If the host's disk is full, the guest is stopped and the machine ends with that reason;
        // otherwise the guest would only see I/O errors in its filesystem.
        "werror": "stop",
        "rerror": "stop",
    })
}

/// The kernel's command line. The caller's words come last and so take precedence.
fn kernel_command_line(spec: &MachineSpec, host: Host) -> String {
    // A panic reboots at once, which ends QEMU (-no-reboot). Its message has the highest level, so
    // `quiet` does not hide it.
    let mut words = match spec.architecture {
        MachineArchitecture::Amd64 => amd64_words(spec, host),
        MachineArchitecture::Arm64 => {
            let console = ["console=ttyAMA0", "panic=-1"].into_iter();
            console.chain(spec.verbose_console.then_some("earlycon")).map(str::to_owned).collect()
        }
    };
    if spec.start == Start::BootToSave {
        // No driver of PCI ports: it would wait 5 s for a second push of a button before it adds a
        // device. The agent looks for the vsock device there instead.
        words.push("pcie_ports=compat".to_owned());
    }
    words.push(if spec.verbose_console { "ignore_loglevel" } else { "quiet" }.to_owned());
    words.extend(machine::QUICK_BOOT_WORDS.iter().map(|word| (*word).to_owned()));
    words.extend(spec.cmdline.iter().cloned());
    words.join(" ")
}

/// Parameters of x86 kernels.
fn amd64_words(spec: &MachineSpec, host: Host) -> Vec<String> {
    // The reboot uses a triple fault, because the reset register of QEMU 7.2's microvm has no
    // effect.
    let mut words = ["console=ttyS0", "panic=-1", "reboot=t"].map(str::to_owned).to_vec();
    if spec.verbose_console {
        words.push("earlyprintk=ttyS0".to_owned());
    }
    if host.accel == QemuAccel::Tcg {
        // The PIT is the only timer for calibrating the TSC; on a busy host this fails and the boot
        // loops forever. TCG's TSC is the host's, and equal on all CPUs.
        if let Some(khz) = host.tsc_khz {
            words.push(format!("tsc_early_khz={khz}"));
        }
        words.extend(["tsc=reliable", "no_timer_check"].map(str::to_owned));
    }
    words
}

/// Removes characters that have a meaning in QEMU's option syntax.
fn plain(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
        .collect()
}

/// A path as UTF-8.
pub(crate) fn utf8(path: &Path) -> Result<&str, InvalidSpec> {
    path.to_str().ok_or_else(|| {
        InvalidSpec(format!("the path `{}` is not UTF-8, which QEMU needs", path.display()))
    })
}

#[cfg(test)]
mod tests;
