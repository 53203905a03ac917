//! Boots images: under BIOS, a boot sector that writes to its disk, prints a text and echoes keys;
//! under UEFI, the firmware only searches for a boot loader.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail tests, and a skip says why"
)]

use std::{env, fs, path::PathBuf, time::Duration};

use machine::{BlockSize, DriveFormat, MachineArchitecture};
use qemu::{
    Qemu, QemuAccel,
    boot::{BootSpec, Firmware, NotSeen, Session, find_uefi},
};

/// Firmware takes seconds on an idle host; the tests run in parallel.
const LIMIT: Duration = Duration::from_secs(120);

/// 16-bit code, loaded at 0x7c00: overwrites the second sector with itself, prints the text at its
/// end, then echoes keys, all through the BIOS.
const BOOT_SECTOR: [u8; 41] = [
    0xb8, 0x01, 0x03, // mov ax, 0x0301     write one sector
    0xbb, 0x00, 0x7c, // mov bx, 0x7c00     from here
    0xb9, 0x02, 0x00, // mov cx, 2          to the second sector
    0xba, 0x80, 0x00, // mov dx, 0x80       of the first disk
    0xcd, 0x13, // int 0x13
    0xbe, 0x29, 0x7c, // mov si, text
    0xac, // lodsb
    0x84, 0xc0, // test al, al
    0x74, 0x09, // jz echo
    0xb4, 0x0e, // mov ah, 0x0e       print al
    0xbb, 0x07, 0x00, // mov bx, 7
    0xcd, 0x10, // int 0x10
    0xeb, 0xf2, // jmp lodsb
    0xb4, 0x00, // echo: mov ah, 0    wait for a key
    0xcd, 0x16, // int 0x16
    0xb4, 0x0e, 0xcd, 0x10, // print it
    0xeb, 0xf6, // jmp echo
];
const TEXT: &[u8] = b"the disk speaks\0";

fn qemu() -> Option<Qemu> {
    let mut helper = env::current_exe().unwrap();
    helper.pop();
    helper.pop();
    match Qemu::new(MachineArchitecture::Amd64, None, QemuAccel::Tcg) {
        Ok(qemu) => Some(qemu.with_helper(helper.join("examples/helper"))),
        Err(cause) => {
            println!("skipped: {cause}");
            None
        }
    }
}

fn image(dir: &tempfile::TempDir) -> (PathBuf, Vec<u8>) {
    let mut disk = vec![0; 1 << 20];
    disk[..BOOT_SECTOR.len()].copy_from_slice(&BOOT_SECTOR);
    disk[BOOT_SECTOR.len()..][..TEXT.len()].copy_from_slice(TEXT);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let path = dir.path().join("disk, finished.img");
    fs::write(&path, &disk).unwrap();
    (path, disk)
}

fn spec(image: PathBuf, firmware: Firmware) -> BootSpec {
    BootSpec {
        architecture: MachineArchitecture::Amd64,
        image,
        format: DriveFormat::Raw,
        below: Vec::new(),
        block_size: BlockSize::B512,
        firmware,
        memory_mib: 256,
        vcpus: 1,
        network: None,
    }
}

#[tokio::test]
async fn bios_boots_the_disk_and_leaves_it_alone() {
    let Some(qemu) = qemu() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (path, before) = image(&dir);
    let mut session = Session::start(&qemu, &spec(path.clone(), Firmware::Bios)).await.unwrap();
    if let Err(cause) = session.expect("the disk speaks", LIMIT).await {
        panic!("{cause}\n{}", session.console());
    }
    session.send("knock").await.unwrap();
    session.expect("knock", LIMIT).await.unwrap();
    let missing = session.expect("never said", Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(missing, NotSeen::TimedOut { .. }), "{missing}");
    assert_eq!(fs::read(&path).unwrap(), before, "the image has been written to");
}

#[tokio::test]
async fn what_is_wrong_is_told_before_and_by_qemu() {
    let Some(qemu) = qemu() else { return };
    let missing = spec("/no/such/image".into(), Firmware::Bios);
    let error = Session::start(&qemu, &missing).await.unwrap_err().to_string();
    assert!(error.contains("/no/such/image"), "{error}");
    // More memory than a CPU can address.
    let dir = tempfile::tempdir().unwrap();
    let impossible = BootSpec { memory_mib: u32::MAX, ..spec(image(&dir).0, Firmware::Bios) };
    let mut session = Session::start(&qemu, &impossible).await.unwrap();
    let error = session.expect("anything", LIMIT).await.unwrap_err().to_string();
    assert!(error.contains("QEMU ended with status 1"), "{error}");
    assert!(session.ended(LIMIT).await.is_some());
}

#[tokio::test]
async fn uefi_starts_and_looks_for_a_boot_option() {
    let Some(qemu) = qemu() else { return };
    let uefi = match find_uefi(MachineArchitecture::Amd64) {
        Ok(uefi) => uefi,
        Err(cause) => {
            println!("skipped: {cause}");
            return;
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = image(&dir);
    let mut session = Session::start(&qemu, &spec(path, Firmware::Uefi(uefi))).await.unwrap();
    if let Err(cause) = session.expect("BdsDxe:", LIMIT).await {
        panic!("{cause}\n{}", session.console());
    }
}
