//! Booting a finished image on an ordinary PC: `vbuild boot IMAGE` for people,
//! [`Session`] for tests. The image is never written to; what the guest changes
//! goes to a temporary file that QEMU has already deleted.

mod firmware;

pub use firmware::{Uefi, find_uefi};

use std::{ffi::OsString, io, path::PathBuf, process::ExitStatus, thread, time::Duration};

use machine::{BlockSize, DriveFormat, InvalidSpec, Layer, MachineError};
use serde_json::json;
use tokio::{sync::watch, time::Instant};

use crate::{
    Qemu, QemuAccel,
    argv::{Args, ImageNode, SANDBOX, TCG_CPU, image_node, utf8},
    halt,
    process::{Exit, Input, LAST_STANDARD_FD, Launch, Process, helper_command},
};

/// The console text that a session keeps: a verbose boot prints some 100 KiB.
const CONSOLE_MAX_BYTES: usize = 1 << 20;
/// How often a session looks for what it waits for.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The firmware that starts the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, which is part of QEMU.
    Bios,
    /// UEFI, see [`find_uefi`].
    Uefi(Uefi),
}

/// What is to be booted, and on what.
#[derive(Debug, Clone)]
pub struct BootSpec {
    /// The image.
    pub image: PathBuf,
    /// Its format, never guessed.
    pub format: DriveFormat,
    /// The files that it stands on, nearest first. QEMU opens no other, whatever the
    /// image's header names.
    pub below: Vec<Layer>,
    /// The logical block size of the disk.
    pub block_size: BlockSize,
    /// The firmware.
    pub firmware: Firmware,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Number of processors.
    pub vcpus: u8,
    /// Whether there is a network card, behind QEMU's user-mode network.
    pub network: bool,
}

/// Whose console it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Console {
    /// A person's, with QEMU's keys (Ctrl-A X ends it).
    Terminal,
    /// A program's: bytes as they are.
    Pipe,
}

/// QEMU's arguments, without the program.
fn argv(spec: &BootSpec, accel: QemuAccel, console: Console) -> Result<Vec<OsString>, InvalidSpec> {
    let mut args = Args(Vec::new());
    args.word("-nodefaults");
    args.word("-no-user-config");
    args.pair("-display", "none");
    args.pair("-sandbox", SANDBOX);
    // Without graphics, SeaBIOS and boot loaders talk to the serial port.
    args.pair("-machine", "q35,graphics=off");
    match accel {
        QemuAccel::Tcg => {
            args.pair("-accel", "tcg,thread=multi");
            args.pair("-cpu", TCG_CPU);
        }
        QemuAccel::Kvm => {
            args.pair("-accel", "kvm");
            args.pair("-cpu", "host");
        }
    }
    args.pair("-smp", spec.vcpus.to_string());
    args.pair("-m", format!("{}M", spec.memory_mib));
    match console {
        Console::Terminal => args.pair("-serial", "mon:stdio"),
        Console::Pipe => {
            args.pair("-chardev", "stdio,id=console,mux=off,signal=off");
            args.pair("-serial", "chardev:console");
        }
    }
    if let Firmware::Uefi(uefi) = &spec.firmware {
        let code = comma_free(utf8(&uefi.code)?);
        args.pair("-drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={code}"));
        let variables = comma_free(utf8(&uefi.variables)?);
        args.pair("-drive", format!("if=pflash,unit=1,format=raw,snapshot=on,file={variables}"));
    }
    let cache = json!({ "direct": false, "no-flush": true });
    let image = ImageNode { path: &spec.image, format: spec.format, read_only: true };
    let image = image_node(&image, &spec.below, &cache)?.to_string();
    // `snapshot` exists only for -drive, not for -blockdev.
    args.pair(
        "-drive",
        format!("if=none,id=disk,snapshot=on,cache=unsafe,file=json:{}", comma_free(&image)),
    );
    let block = spec.block_size.bytes();
    let disk = json!({
        "driver": "virtio-blk-pci", "drive": "disk", "bootindex": 0,
        "logical_block_size": block, "physical_block_size": block,
    });
    args.pair("-device", disk.to_string());
    args.pair("-object", "rng-builtin,id=rng");
    args.pair("-device", "virtio-rng-pci,rng=rng");
    if spec.network {
        args.pair("-netdev", "user,id=net");
        args.pair("-device", "virtio-net-pci,netdev=net");
    }
    Ok(args.0)
}

/// A path as a value of an old-style option, in which a comma is doubled.
fn comma_free(path: &str) -> String {
    path.replace(',', ",,")
}

fn start_failed(source: io::Error) -> MachineError {
    MachineError::Io { action: "start QEMU".to_owned(), source }
}

/// Boots the image on the terminal of this process and waits for its end. The
/// terminal is QEMU's meanwhile: Ctrl-A X ends it, Ctrl-C goes to the guest.
///
/// # Errors
/// When QEMU cannot be started.
pub async fn on_terminal(qemu: &Qemu, spec: &BootSpec) -> Result<ExitStatus, MachineError> {
    let args = argv(spec, qemu.accel, Console::Terminal)?;
    let mut command = helper_command(&qemu.helper, &qemu.program, &args, LAST_STANDARD_FD);
    let (tell, told) = tokio::sync::oneshot::channel();
    // The parent-death signal follows the thread, see `process`.
    thread::Builder::new()
        .name("qemu".to_owned())
        .spawn(move || tell.send(command.status()))
        .map_err(start_failed)?;
    told.await.map_err(|cause| start_failed(io::Error::other(cause)))?.map_err(start_failed)
}

/// Why a text did not appear on the console.
#[derive(Debug, thiserror::Error)]
pub enum NotSeen {
    /// The time is over.
    #[error("`{needle}` did not appear on the console within {} s", limit.as_secs())]
    TimedOut {
        /// What was waited for.
        needle: String,
        /// How long.
        limit: Duration,
    },
    /// QEMU has ended before.
    #[error("`{needle}` did not appear on the console: {ending}")]
    Ended {
        /// What was waited for.
        needle: String,
        /// How QEMU ended.
        ending: String,
    },
}

/// A booted image with its serial console in the hands of a program. Dropping
/// it ends the guest.
#[derive(Debug)]
pub struct Session {
    process: Process,
    ended: watch::Receiver<Option<String>>,
    /// How far the console has been looked through.
    looked: u64,
}

impl Session {
    /// Boots the image.
    ///
    /// # Errors
    /// When QEMU cannot be started. What it complains about afterwards shows in
    /// [`Session::expect`].
    pub async fn start(qemu: &Qemu, spec: &BootSpec) -> Result<Self, MachineError> {
        let launch = Launch {
            helper: qemu.helper.clone(),
            program: qemu.program.clone(),
            args: argv(spec, qemu.accel, Console::Pipe)?,
            descriptors: Vec::new(),
            input: Input::Pipe,
            console_max_bytes: CONSOLE_MAX_BYTES,
        };
        let (tell, ended) = watch::channel(None);
        let on_exit = move |exit: Exit| {
            let _ = tell.send(Some(halt::ending(&exit)));
        };
        let process = Process::start(launch, on_exit).await.map_err(start_failed)?;
        Ok(Self { process, ended, looked: 0 })
    }

    /// Waits until this text appears behind what was found the last time.
    ///
    /// # Errors
    /// When it does not.
    pub async fn expect(&mut self, needle: &str, limit: Duration) -> Result<(), NotSeen> {
        let deadline = Instant::now() + limit;
        loop {
            // Looked at in this order, so that the last words are not missed.
            let ending = self.ended.borrow().clone();
            if let Some(end) = self.process.console.find(needle.as_bytes(), self.looked) {
                self.looked = end;
                return Ok(());
            }
            let needle = needle.to_owned();
            if let Some(ending) = ending {
                return Err(NotSeen::Ended { needle, ending });
            }
            if Instant::now() >= deadline {
                return Err(NotSeen::TimedOut { needle, limit });
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Types this text, to which a line end is not added.
    ///
    /// # Errors
    /// When the guest has ended.
    pub fn send(&self, text: &str) -> io::Result<()> {
        self.process.send(text.as_bytes())
    }

    /// Waits for the end of QEMU and says how it came, or `None` after `limit`.
    pub async fn ended(&mut self, limit: Duration) -> Option<String> {
        let ended = tokio::time::timeout(limit, self.ended.wait_for(Option::is_some)).await;
        ended.ok()?.ok()?.clone()
    }

    /// The console so far, its last mebibyte at least.
    #[must_use]
    pub fn console(&self) -> String {
        self.process.console.text()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.process.kill();
        self.process.wait_gone();
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn spec() -> BootSpec {
        BootSpec {
            image: "/images/a,b.qcow2".into(),
            format: DriveFormat::Qcow2,
            below: vec![Layer { path: "/images/base.raw".into(), format: DriveFormat::Raw }],
            block_size: BlockSize::B512,
            firmware: Firmware::Bios,
            memory_mib: 512,
            vcpus: 2,
            network: false,
        }
    }

    fn check(spec: &BootSpec, accel: QemuAccel, console: Console, expected: &Expect) {
        expected.assert_eq(&crate::argv::one_per_line(&argv(spec, accel, console).unwrap()));
    }

    #[test]
    fn bios_on_a_terminal() {
        check(
            &spec(),
            QemuAccel::Tcg,
            Console::Terminal,
            &expect![[r#"
                -nodefaults
                -no-user-config
                -display none
                -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
                -machine q35,graphics=off
                -accel tcg,thread=multi
                -cpu max,-erms,-fsrm,-rdrand,-rdseed,-la57,-smap,-smep,-pku,-umip,-xsave,-avx,-avx2
                -smp 2
                -m 512M
                -serial mon:stdio
                -drive if=none,id=disk,format=qcow2,snapshot=on,cache=unsafe,file=/images/a,,b.qcow2
                -device {"bootindex":0,"drive":"disk","driver":"virtio-blk-pci","logical_block_size":512,"physical_block_size":512}
                -object rng-builtin,id=rng
                -device virtio-rng-pci,rng=rng"#]],
        );
    }

    #[test]
    fn uefi_in_a_session() {
        let uefi = Uefi { code: "/fw/code.fd".into(), variables: "/fw/vars.fd".into() };
        let spec = BootSpec {
            format: DriveFormat::Raw,
            below: Vec::new(),
            block_size: BlockSize::B4096,
            firmware: Firmware::Uefi(uefi),
            network: true,
            ..spec()
        };
        check(
            &spec,
            QemuAccel::Kvm,
            Console::Pipe,
            &expect![[r#"
            -nodefaults
            -no-user-config
            -display none
            -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
            -machine q35,graphics=off
            -accel kvm
            -cpu host
            -smp 2
            -m 512M
            -chardev stdio,id=console,mux=off,signal=off
            -serial chardev:console
            -drive if=pflash,unit=0,format=raw,readonly=on,file=/fw/code.fd
            -drive if=pflash,unit=1,format=raw,snapshot=on,file=/fw/vars.fd
            -drive if=none,id=disk,format=raw,snapshot=on,cache=unsafe,file=/images/a,,b.qcow2
            -device {"bootindex":0,"drive":"disk","driver":"virtio-blk-pci","logical_block_size":4096,"physical_block_size":4096}
            -object rng-builtin,id=rng
            -device virtio-rng-pci,rng=rng
            -netdev user,id=net
            -device virtio-net-pci,netdev=net"#]],
        );
    }
}
