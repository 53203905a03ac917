//! Tests which machines are saved, under which names, and which of them are kept.

use machine::MachineArchitecture;

use super::*;

fn spec(dir: &Path) -> MachineSpec {
    let file = |name: &str| {
        let path = dir.join(name);
        fs::write(&path, name).unwrap();
        path
    };
    let root = Drive {
        serial: DriveSerial::new("root").unwrap(),
        path: file("root"),
        format: DriveFormat::Raw,
        below: Vec::new(),
        read_only: true,
        durable: false,
        block_size: BlockSize::B512,
    };
    MachineSpec {
        name: "test".to_owned(),
        architecture: MachineArchitecture::default(),
        vcpus: 1,
        memory_mib: 512,
        kernel: file("kernel"),
        initrd: file("initrd"),
        cmdline: vec!["vbuild.root=root".to_owned()],
        drives: vec![root],
        on_guest_connect: Arc::new(|_| ConnectDecision::Refuse),
        verbose_console: false,
        start: machine::Start::Boot,
        run_dir: dir.to_owned(),
    }
}

#[test]
fn only_machines_that_boot_from_their_first_disk_are_saved() {
    let dir = tempfile::tempdir().unwrap();
    let fine = spec(dir.path());
    assert!(suitable(&fine).is_ok());
    let mut writable = fine.clone();
    writable.drives[0].read_only = false;
    let mut many = fine.clone();
    many.drives = vec![fine.drives[0].clone(); SLOTS + 1];
    for other in [
        writable,
        many,
        MachineSpec { cmdline: Vec::new(), ..fine.clone() },
        MachineSpec { drives: Vec::new(), ..fine.clone() },
        MachineSpec { verbose_console: true, ..fine.clone() },
    ] {
        assert!(suitable(&other).is_err(), "{other:?}");
    }
}

#[test]
fn the_key_follows_shape_files_and_backend_but_no_disk_of_a_build() {
    let dir = tempfile::tempdir().unwrap();
    let first = spec(dir.path());
    let of = |spec: &MachineSpec| key("qemu", spec).unwrap();
    let mut with_disk = first.clone();
    with_disk.drives.push(Drive { path: dir.path().join("secret"), ..first.drives[0].clone() });
    with_disk.name = "another".to_owned();
    assert_eq!(of(&first), of(&with_disk));
    assert_ne!(of(&first), key("microvm", &first).unwrap());
    assert_ne!(of(&first), of(&MachineSpec { vcpus: 2, ..first.clone() }));
    assert_ne!(of(&first), of(&MachineSpec { memory_mib: 513, ..first.clone() }));
    let before = of(&first);
    fs::write(&first.initrd, "another one").unwrap();
    assert_ne!(before, of(&first));
    fs::remove_file(&first.kernel).unwrap();
    assert!(key("qemu", &first).is_err());
}

#[test]
fn spares_fill_the_slots_behind_the_disks() {
    let names = |used| {
        let spares = spares(used, Path::new("spare")).unwrap();
        spares.iter().map(|drive| drive.serial.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(0).len(), SLOTS - 1);
    assert_eq!(names(SLOTS - 2), ["spare-7"]);
    assert!(names(SLOTS - 1).is_empty());
}

#[test]
fn the_oldest_go() {
    let dir = tempfile::tempdir().unwrap();
    let warm = WarmMachines::new(dir.path().to_owned());
    let made: Vec<_> = (0..KEPT_MAX + 2).map(|n| dir.path().join(n.to_string())).collect();
    for (age, path) in made.iter().rev().enumerate() {
        fs::create_dir(path).unwrap();
        let time = SystemTime::now() - Duration::from_secs(60 * u64::try_from(age).unwrap());
        let times = FileTimes::new().set_modified(time);
        File::open(path).unwrap().set_times(times).unwrap();
    }
    warm.forget_oldest(made.last().unwrap());
    let left: Vec<_> = made.iter().filter(|path| path.exists()).collect();
    assert_eq!(left, made[2..].iter().collect::<Vec<_>>());
    assert_eq!(warm.clear().unwrap(), KEPT_MAX);
    assert_eq!(warm.clear().unwrap(), 0);
    assert_eq!(WarmMachines::new(dir.path().join("missing")).clear().unwrap(), 0);
}

#[test]
fn the_second_failure_in_a_row_is_a_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let killed = io::Error::other("ended by signal 9");
    doubt(dir.path(), false, &killed).unwrap();
    doubt(dir.path(), false, &killed).unwrap();
    assert!(refusal(dir.path()).is_none(), "failures at the same time are one");
    doubt(dir.path(), true, &killed).unwrap();
    assert!(refusal(dir.path()).unwrap().reason.contains("signal 9"));
}

#[test]
fn a_refusal_holds_for_a_day() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refusal(dir.path()).is_none());
    refuse(dir.path(), &io::Error::other("no space")).unwrap();
    let recent = refusal(dir.path()).unwrap();
    assert!(!recent.is_old());
    assert_eq!(recent.reason, "no space");
    let yesterday = SystemTime::now() - REFUSED_FOR - Duration::from_secs(1);
    let file = File::options().write(true).open(dir.path().join(REFUSED)).unwrap();
    file.set_times(FileTimes::new().set_modified(yesterday)).unwrap();
    assert!(refusal(dir.path()).unwrap().is_old());
}
