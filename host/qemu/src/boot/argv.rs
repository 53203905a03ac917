//! QEMU's command line for booting a finished image, as a pure function.

use machine::{DriveFormat, MachineArchitecture};
use serde_json::{Value, json};

use super::{BootSpec, Console, files::Files};
use crate::{
    QemuAccel,
    args::Args,
    argv::{Access, SANDBOX, chain_node, image_node, tcg_cpu},
};

/// Access to temporary files, which need not be durable.
const THROWN_AWAY: Access = Access { read_only: false, durable: false };
/// Files that are only read.
const READ: Access = Access { read_only: true, durable: false };

/// QEMU's arguments, without the program. `card` is the number of the descriptor for the frames of
/// the network card.
pub(super) fn argv(
    spec: &BootSpec,
    accel: QemuAccel,
    console: Console,
    files: &Files,
    card: Option<i32>,
) -> Args {
    let mut args = Args(Vec::new());
    args.word("-nodefaults");
    args.word("-no-user-config");
    args.pair("-display", "none");
    args.pair("-sandbox", SANDBOX);
    let mut nodes = Vec::new();
    let mut machine = match spec.architecture {
        // Without graphics, SeaBIOS and boot loaders use the serial port.
        MachineArchitecture::Amd64 => "q35,graphics=off",
        MachineArchitecture::Arm64 => "virt,gic-version=3",
    }
    .to_owned();
    if let Some([code, variables]) = files.flash {
        nodes.push(named("code", image_node(code, DriveFormat::Raw, READ, Value::Null)));
        let node = image_node(variables, DriveFormat::Raw, THROWN_AWAY, Value::Null);
        nodes.push(named("variables", node));
        machine.push_str(",pflash0=code,pflash1=variables");
    }
    args.pair("-machine", machine);
    match accel {
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
    args.pair("-m", format!("{}M", spec.memory_mib));
    match console {
        Console::Terminal => args.pair("-serial", "mon:stdio"),
        Console::Pipe => {
            args.pair("-chardev", "stdio,id=console,mux=off,signal=off");
            args.pair("-serial", "chardev:console");
        }
    }
    let image = chain_node(&files.image, spec.format, &spec.below, READ);
    nodes.push(named("disk", image_node(files.changes, DriveFormat::Qcow2, THROWN_AWAY, image)));
    for node in nodes {
        args.pair("-blockdev", node.to_string());
    }
    let block = spec.block_size.bytes();
    let disk = json!({
        "driver": "virtio-blk-pci", "drive": "disk", "bootindex": 0,
        "logical_block_size": block, "physical_block_size": block,
    });
    args.pair("-device", disk.to_string());
    args.pair("-object", "rng-builtin,id=rng");
    args.pair("-device", "virtio-rng-pci,rng=rng");
    if let Some(number) = card {
        // A stream of frames to `microvm::NicProcess`; QEMU itself opens no socket.
        args.pair("-netdev", format!("socket,id=net,fd={number}"));
        args.pair("-device", "virtio-net-pci,netdev=net");
    }
    args
}

fn named(name: &str, mut node: Value) -> Value {
    node["node-name"] = json!(name);
    node
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use machine::{BlockSize, DriveFormat};

    use super::*;
    use crate::{
        boot::{Firmware, Uefi},
        handed::SetId,
    };

    fn spec() -> BootSpec {
        BootSpec {
            architecture: MachineArchitecture::Amd64,
            image: "/images/a,b.qcow2".into(),
            format: DriveFormat::Qcow2,
            below: Vec::new(),
            block_size: BlockSize::B512,
            firmware: Firmware::Bios,
            memory_mib: 512,
            vcpus: 2,
            network: None,
        }
    }

    fn check(spec: &BootSpec, accel: QemuAccel, console: Console, expected: &Expect) {
        let flash = matches!(spec.firmware, Firmware::Uefi(_)).then_some([SetId(3), SetId(4)]);
        let files = Files { image: vec![SetId(1)], changes: SetId(2), flash, file_bytes: 0 };
        let card = (console == Console::Pipe).then_some(7);
        let args = argv(spec, accel, console, &files, card);
        expected.assert_eq(&crate::args::one_per_line(&args.0));
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
                -blockdev {"backing":{"backing":null,"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"qcow2","file":{"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"file","filename":"/dev/fdset/1","read-only":true},"read-only":true},"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"qcow2","file":{"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"file","filename":"/dev/fdset/2","read-only":false},"node-name":"disk","read-only":false}
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
            block_size: BlockSize::B4096,
            firmware: Firmware::Uefi(uefi),
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
            -machine q35,graphics=off,pflash0=code,pflash1=variables
            -accel kvm
            -cpu host
            -smp 2
            -m 512M
            -chardev stdio,id=console,mux=off,signal=off
            -serial chardev:console
            -blockdev {"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"raw","file":{"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"file","filename":"/dev/fdset/3","read-only":true},"node-name":"code","read-only":true}
            -blockdev {"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"raw","file":{"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"file","filename":"/dev/fdset/4","read-only":false},"node-name":"variables","read-only":false}
            -blockdev {"backing":{"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"raw","file":{"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"file","filename":"/dev/fdset/1","read-only":true},"read-only":true},"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"qcow2","file":{"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"file","filename":"/dev/fdset/2","read-only":false},"node-name":"disk","read-only":false}
            -device {"bootindex":0,"drive":"disk","driver":"virtio-blk-pci","logical_block_size":4096,"physical_block_size":4096}
            -object rng-builtin,id=rng
            -device virtio-rng-pci,rng=rng
            -netdev socket,id=net,fd=7
            -device virtio-net-pci,netdev=net"#]],
        );
    }
}
