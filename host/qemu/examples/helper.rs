//! Stands in for vbuild's own binary in the tests of this crate: becomes QEMU when called with the
//! child verb; with `hold KERNEL INITRD DIR` it starts a machine and keeps it until it is killed.

use std::{env, io::Write, path::PathBuf, sync::Arc};

use machine::{Backend, ConnectDecision, MachineSpec};
use qemu::{CHILD_VERB, Qemu, QemuAccel, exec_child};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = env::args_os().skip(1);
    let verb = args.next().unwrap_or_default();
    if verb == CHILD_VERB {
        // Before any runtime or thread exists, because it closes descriptors.
        exec_child(args);
    }
    if verb == microvm::VMM_VERB {
        std::process::exit(i32::from(microvm::vmm_child() != std::process::ExitCode::SUCCESS));
    }
    let mut path = || args.next().map(PathBuf::from).ok_or("too few arguments");
    let spec = MachineSpec {
        architecture: machine::MachineArchitecture::Amd64,
        name: "held".to_owned(),
        vcpus: 1,
        memory_mib: 256,
        kernel: path()?,
        initrd: path()?,
        cmdline: Vec::new(),
        drives: Vec::new(),
        on_guest_connect: Arc::new(|_| ConnectDecision::Refuse),
        verbose_console: false,
        start: machine::Start::Boot,
        run_dir: path()?,
    };
    hold(spec)
}

#[tokio::main]
async fn hold(spec: MachineSpec) -> Result<(), Box<dyn std::error::Error>> {
    let _machine =
        Qemu::new(machine::MachineArchitecture::Amd64, None, QemuAccel::Tcg)?.start(spec).await?;
    std::io::stdout().write_all(b"started\n")?;
    std::future::pending().await
}
