//! Command lines as snapshots.

use std::{ffi::OsString, sync::Arc};

use expect_test::{Expect, expect};
use machine::{BlockSize, ConnectDecision, DriveSerial, Layer};

use super::*;
use crate::args::one_per_line;

fn spec() -> MachineSpec {
    MachineSpec {
        architecture: MachineArchitecture::Amd64,
        name: "a build, of sorts".to_owned(),
        vcpus: 2,
        memory_mib: 1024,
        kernel: "/k/vmlinuz".into(),
        initrd: "/k/initrd".into(),
        cmdline: vec!["vbuild.x=1".to_owned()],
        drives: Vec::new(),
        on_guest_connect: Arc::new(|_| ConnectDecision::Refuse),
        verbose_console: false,
        start: machine::Start::Boot,
        run_dir: "/run".into(),
    }
}

fn drive(serial: &str, path: &str) -> Drive {
    Drive {
        serial: DriveSerial::new(serial).unwrap(),
        path: path.into(),
        format: DriveFormat::Raw,
        below: Vec::new(),
        read_only: false,
        durable: false,
        block_size: BlockSize::B512,
    }
}

fn check(spec: &MachineSpec, host: Host, expected: &Expect) {
    let mut sets = (1..).map(SetId);
    let files = spec.drives.iter().map(|drive| 1 + drive.below.len());
    let images: Vec<Vec<SetId>> = files.map(|n| sets.by_ref().take(n).collect()).collect();
    let given = Given { qmp: 3, vhost: 4, memory: 5, images: &images };
    expected.assert_eq(&one_per_line(&argv(spec, host, given).unwrap().0));
}

const TCG: Host = Host { accel: QemuAccel::Tcg, tsc_khz: Some(1_999_700) };

#[test]
fn the_smallest_machine() {
    check(
        &spec(),
        TCG,
        &expect![[r#"
            -nodefaults
            -no-user-config
            -no-reboot
            -display none
            -name guest=a_build__of_sorts
            -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
            -machine microvm,acpi=on,pit=on,pic=off,rtc=on,isa-serial=on,pcie=off,usb=off,memory-backend=mem
            -accel tcg,thread=multi
            -cpu max,-erms,-fsrm,-rdrand,-rdseed,-la57,-smap,-smep,-pku,-umip,-xsave,-avx,-avx2
            -smp 2
            -m 1024M
            -object memory-backend-file,id=mem,size=1024M,mem-path=/proc/self/fd/5,share=on
            -kernel /k/vmlinuz
            -initrd /k/initrd
            -append console=ttyS0 panic=-1 reboot=t tsc_early_khz=1999700 tsc=reliable no_timer_check quiet cryptomgr.notests mitigations=off vbuild.x=1
            -global virtio-mmio.force-legacy=false
            -chardev stdio,id=console,mux=off,signal=off
            -serial chardev:console
            -chardev socket,id=qmp,fd=3
            -mon chardev=qmp,mode=control
            -chardev socket,id=vsock,fd=4
            -device vhost-user-vsock-device,chardev=vsock
            -object rng-builtin,id=rng
            -device virtio-rng-device,rng=rng"#]],
    );
}

#[test]
fn a_machine_of_arm64() {
    let spec = MachineSpec { architecture: MachineArchitecture::Arm64, ..spec() };
    check(
        &spec,
        Host { tsc_khz: None, ..TCG },
        &expect![[r#"
            -nodefaults
            -no-user-config
            -no-reboot
            -display none
            -name guest=a_build__of_sorts
            -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
            -machine virt,gic-version=3,memory-backend=mem
            -accel tcg,thread=multi
            -cpu max,pauth=off,sve=off
            -smp 2
            -m 1024M
            -object memory-backend-file,id=mem,size=1024M,mem-path=/proc/self/fd/5,share=on
            -kernel /k/vmlinuz
            -initrd /k/initrd
            -append console=ttyAMA0 panic=-1 quiet cryptomgr.notests mitigations=off vbuild.x=1
            -global virtio-mmio.force-legacy=false
            -chardev stdio,id=console,mux=off,signal=off
            -serial chardev:console
            -chardev socket,id=qmp,fd=3
            -mon chardev=qmp,mode=control
            -chardev socket,id=vsock,fd=4
            -device vhost-user-vsock-device,chardev=vsock
            -object rng-builtin,id=rng
            -device virtio-rng-device,rng=rng"#]],
    );
}

#[test]
fn drives_and_kvm() {
    let mut spec = spec();
    spec.verbose_console = true;
    spec.drives = vec![
        drive("scratch", "/tmp/a,b \"c\".raw"),
        Drive {
            format: DriveFormat::Qcow2,
            below: vec![
                Layer { path: "/d.1.qcow2".into(), format: DriveFormat::Qcow2 },
                Layer { path: "/d.raw".into(), format: DriveFormat::Raw },
            ],
            ..drive("resumed", "/d.2.qcow2")
        },
        Drive { read_only: true, ..drive("tools", "/t.sqfs") },
        Drive {
            format: DriveFormat::Qcow2,
            durable: true,
            block_size: BlockSize::B4096,
            ..drive("cache", "/c.qcow2")
        },
    ];
    let kvm = Host { accel: QemuAccel::Kvm, tsc_khz: None };
    check(
        &spec,
        kvm,
        &expect![[r#"
            -nodefaults
            -no-user-config
            -no-reboot
            -display none
            -name guest=a_build__of_sorts
            -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
            -machine microvm,acpi=on,pit=on,pic=off,rtc=on,isa-serial=on,pcie=off,usb=off,memory-backend=mem
            -accel kvm
            -cpu host
            -smp 2
            -m 1024M
            -object memory-backend-file,id=mem,size=1024M,mem-path=/proc/self/fd/5,share=on
            -kernel /k/vmlinuz
            -initrd /k/initrd
            -append console=ttyS0 panic=-1 reboot=t earlyprintk=ttyS0 ignore_loglevel cryptomgr.notests mitigations=off vbuild.x=1
            -global virtio-mmio.force-legacy=false
            -chardev stdio,id=console,mux=off,signal=off
            -serial chardev:console
            -chardev socket,id=qmp,fd=3
            -mon chardev=qmp,mode=control
            -chardev socket,id=vsock,fd=4
            -device vhost-user-vsock-device,chardev=vsock
            -object rng-builtin,id=rng
            -device virtio-rng-device,rng=rng
            -blockdev {"cache":{"direct":false,"no-flush":true},"detect-zeroes":"unmap","discard":"unmap","driver":"raw","file":{"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"file","filename":"/dev/fdset/1","read-only":false},"node-name":"drive-scratch","read-only":false}
            -device {"discard":true,"drive":"drive-scratch","driver":"virtio-blk-device","id":"disk-scratch","logical_block_size":512,"physical_block_size":4096,"rerror":"stop","serial":"scratch","werror":"stop","write-zeroes":true}
            -blockdev {"backing":{"backing":{"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"raw","file":{"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"file","filename":"/dev/fdset/4","read-only":true},"read-only":true},"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"qcow2","file":{"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"file","filename":"/dev/fdset/3","read-only":true},"read-only":true},"cache":{"direct":false,"no-flush":true},"detect-zeroes":"unmap","discard":"unmap","driver":"qcow2","file":{"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"file","filename":"/dev/fdset/2","read-only":false},"node-name":"drive-resumed","read-only":false}
            -device {"discard":true,"drive":"drive-resumed","driver":"virtio-blk-device","id":"disk-resumed","logical_block_size":512,"physical_block_size":4096,"rerror":"stop","serial":"resumed","werror":"stop","write-zeroes":true}
            -blockdev {"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"raw","file":{"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"file","filename":"/dev/fdset/5","read-only":true},"node-name":"drive-tools","read-only":true}
            -device {"discard":false,"drive":"drive-tools","driver":"virtio-blk-device","id":"disk-tools","logical_block_size":512,"physical_block_size":4096,"rerror":"stop","serial":"tools","werror":"stop","write-zeroes":false}
            -blockdev {"backing":null,"cache":{"direct":false,"no-flush":false},"detect-zeroes":"unmap","discard":"unmap","driver":"qcow2","file":{"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"file","filename":"/dev/fdset/6","read-only":false},"node-name":"drive-cache","read-only":false}
            -device {"discard":true,"drive":"drive-cache","driver":"virtio-blk-device","id":"disk-cache","logical_block_size":4096,"physical_block_size":4096,"rerror":"stop","serial":"cache","werror":"stop","write-zeroes":true}"#]],
    );
}

/// The options that differ from those of a machine that boots.
fn differences(start: Start) -> String {
    let given = Given { qmp: 3, vhost: 4, memory: 5, images: &[] };
    let of = |start| {
        let args = argv(&MachineSpec { start, ..spec() }, TCG, given).unwrap();
        one_per_line(&args.0)
    };
    let (boots, other) = (of(Start::Boot), of(start));
    let new = other.lines().filter(|line| !boots.lines().any(|old| old == *line));
    new.collect::<Vec<_>>().join("\n")
}

#[test]
fn machines_that_are_saved_and_restored_have_a_port_for_the_vsock_device() {
    expect![[r#"
        -machine microvm,acpi=on,pit=on,pic=off,rtc=on,isa-serial=on,pcie=on,usb=off,memory-backend=mem
        -append console=ttyS0 panic=-1 reboot=t tsc_early_khz=1999700 tsc=reliable no_timer_check pcie_ports=compat quiet cryptomgr.notests mitigations=off vbuild.x=1
        -device pcie-root-port,id=vsock-port,power_controller_present=off"#]].assert_eq(&differences(Start::BootToSave));
    let saved = machine::SavedMachine("/saved".into());
    expect![[r#"
        -machine microvm,acpi=on,pit=on,pic=off,rtc=on,isa-serial=on,pcie=on,usb=off,memory-backend=mem
        -device pcie-root-port,id=vsock-port,power_controller_present=off
        -S
        -incoming defer"#]].assert_eq(&differences(Start::Restore(saved)));
}

#[test]
fn a_path_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let mut spec = spec();
    spec.kernel = std::path::PathBuf::from(OsString::from_vec(vec![b'/', 0xff]));
    let refused =
        argv(&spec, TCG, Given { qmp: 3, vhost: 4, memory: 5, images: &[] }).err().unwrap();
    assert!(refused.to_string().contains("UTF-8"), "{refused}");
}
