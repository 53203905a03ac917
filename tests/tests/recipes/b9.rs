//! B9 files: the eight samples of `tests/b9`, with the results that its README documents, the
//! results of the vectors, and an image based on a Debian system that boots to a login prompt.

use std::{
    fs,
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use tests::accelerator;

use crate::ground::{Ground, done, step, tool};

const SECTOR: u64 = 512;

/// The samples in build order; the sixth is built three times, for its revisions.
const SAMPLES: [&str; 9] = [
    "01-empty-disk",
    "02-seed",
    "03-merge-config",
    "04-install",
    "05-partition",
    "06-share-base",
    "06-share-base",
    "06-share-base",
    "08-fixup-transient",
];

fn ground() -> Ground {
    let ground = Ground::new("b9");
    ground.copy("b9", &ground.at("out"));
    ground
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Reads the label of an ext filesystem.
fn label(image: &Path) -> String {
    let said = done(Command::new("dumpe2fs").arg("-h").arg(image));
    let line = said.lines().find_map(|line| line.strip_prefix("Filesystem volume name:"));
    line.unwrap().trim().to_owned()
}

/// Reads a file of an ext filesystem.
fn content(image: &Path, path: &str) -> Vec<u8> {
    let request = format!("cat {path}");
    Command::new("debugfs").args(["-R", &request]).arg(image).output().unwrap().stdout
}

/// Converts an image to a raw file beside it.
fn raw(image: &Path) -> PathBuf {
    let raw = image.with_extension("looked-at");
    done(Command::new("qemu-img").args(["convert", "-O", "raw"]).args([image, &raw]));
    raw
}

/// The output of `qemu-img info` about an image.
fn info(image: &Path) -> serde_json::Value {
    let said = done(Command::new("qemu-img").args(["info", "--output=json"]).arg(image));
    serde_json::from_str(&said).unwrap()
}

/// Creates the inputs of the samples: an ext4 filesystem without partition table with a small
/// Debian system, the root of vbuild's own appliance, and a disk with two partitions.
fn make_inputs(ground: &Ground) {
    ground.ok(&["exec", "--accel", &accelerator(), "--no-network", "--", "true"]);
    let appliances = fs::read_dir(ground.cache().join("appliance")).unwrap().flatten();
    let root = appliances.map(|entry| entry.path().join("root.img")).find(|root| root.exists());
    let folder = ground.out("in");
    fs::create_dir_all(&folder).unwrap();
    let base = folder.join("base.raw");
    done(Command::new("cp").arg("--sparse=always").args([&root.unwrap(), &base]));

    let disk = File::create(folder.join("disk.raw")).unwrap();
    disk.set_len(200 << 20).unwrap();
    let part = folder.join("part");
    let mut table = Vec::new();
    for (start, sectors, label) in [(2048_u32, 131_072_u32, "first"), (133_120, 262_144, "second")]
    {
        File::create(&part).unwrap().set_len(u64::from(sectors) * SECTOR).unwrap();
        done(Command::new("mkfs.ext4").args(["-q", "-F", "-L", label]).arg(&part));
        disk.write_all_at(&fs::read(&part).unwrap(), u64::from(start) * SECTOR).unwrap();
        table.extend([0, 0, 0, 0, 0x83, 0, 0, 0]);
        table.extend(start.to_le_bytes());
        table.extend(sectors.to_le_bytes());
    }
    fs::remove_file(part).unwrap();
    disk.write_all_at(&table, 446).unwrap();
    disk.write_all_at(&[0x55, 0xaa], 510).unwrap();
    let (raw, packed) = (folder.join("disk.raw"), folder.join("disk.qcow2"));
    done(Command::new("qemu-img").args(["convert", "-O", "qcow2"]).args([&raw, &packed]));
    fs::remove_file(raw).unwrap();
    ground.give(&folder);
}

/// Builds a B9 file with additional arguments.
fn build(ground: &Ground, file: &str, arguments: &[&str]) {
    let accel = accelerator();
    let words = ["b9", "build", "-f", file, "--accel", &accel];
    ground.ok(&[words.as_slice(), arguments].concat());
}

#[test]
#[ignore = "slow proof: ten minutes"]
fn samples() {
    let ground = ground();
    make_inputs(&ground);
    for sample in SAMPLES {
        build(&ground, &format!("{sample}.b9"), &[]);
    }
    for time in ["first", "second"] {
        let started = Instant::now();
        build(&ground, "07-matrix.b9", &["--", "r42"]);
        step(&format!("sample 07 for the {time} time: {} s", started.elapsed().as_secs()));
    }
    let revisions = ground.ok(&["b9", "list"]);
    let revisions = revisions.said.lines().filter(|line| line.starts_with("demo-base "));
    assert_eq!(revisions.count(), 2);
    empty_disk_and_texts(&ground);
    installed(&ground);
    partitions(&ground);
    matrix(&ground);
    fixed_up(&ground);
}

fn empty_disk_and_texts(ground: &Ground) {
    let blank = ground.out("out/01/blank.qcow2");
    assert_eq!(info(&blank)["format"], "qcow2");
    assert_eq!(info(&blank)["virtual-size"], 96 << 20);
    assert_eq!(label(&raw(&blank)), "blank");
    let same = |expected: &str, found: &str| {
        let (expected, found) = (ground.out(expected), ground.out(found));
        assert_eq!(text(&expected), text(&found), "{}", found.display());
    };
    for name in ["meta-data", "network-config", "user-data"] {
        let found = format!("out/02/web-01.lab.example.test/{name}");
        same(&format!("expected/02/{name}"), &found);
    }
    for stage in ["test", "prod"] {
        for name in ["app.yaml", "sys.config", "logo.b64"] {
            same(&format!("expected/03/{stage}/{name}"), &format!("out/03/{stage}/{name}"));
        }
    }
}

fn installed(ground: &Ground) {
    let report = |name: &str| text(&ground.out(&format!("out/04/report/{name}")));
    assert_eq!(report("env.txt").trim_end(), "home=/root user=root");
    assert_eq!(report("uid.txt").trim_end(), "0");
    assert!(report("mounts.txt").trim_end().parse::<u32>().unwrap() >= 1);
    let root = raw(&ground.out("out/04/root.qcow2"));
    assert_eq!(content(&root, "/etc/issue"), b"demo image\n");
    let logo = fs::read(ground.out("payload/logo.bin")).unwrap();
    assert_eq!(content(&raw(&ground.out("out/04/data.vmdk")), "/logo.bin"), logo);
}

fn partitions(ground: &Ground) {
    let first = ground.out("out/05/p1.raw");
    assert_eq!(fs::metadata(&first).unwrap().len(), 64 << 20);
    assert_eq!(label(&first), "first");
    assert_eq!(label(&raw(&ground.out("out/05/p2.qcow2"))), "second");
}

fn matrix(ground: &Ground) {
    let logo = fs::read(ground.out("payload/logo.bin")).unwrap();
    for machine in ["db-qa", "web-qa", "db-prod", "web-prod"] {
        let image = ground.out(&format!("out/07/{machine}.qcow2"));
        assert_eq!(info(&image)["virtual-size"], 1200 << 20, "{machine}");
        let data = ground.out(&format!("out/07/{machine}-data.raw"));
        assert_eq!(content(&data, "/logo.bin"), logo, "{machine}");
        let (image, seed) = (raw(&image), format!("expected/07/{machine}.user-data"));
        assert_eq!(content(&image, "/etc/demo/seed.yaml"), fs::read(ground.out(&seed)).unwrap());
        if machine == "db-qa" {
            assert_eq!(content(&image, "/etc/demo/vm").trim_ascii(), b"db-qa 10.9.0.11 small r42");
        }
        fs::remove_file(image).unwrap();
    }
}

fn fixed_up(ground: &Ground) {
    let report = text(&ground.out("out/08/report.txt"));
    assert_eq!(report.split_whitespace().collect::<Vec<_>>(), ["line-1", "line-2", "line-3"]);
    let stamped = ground.out("out/08/stamped.raw");
    assert_eq!(fs::metadata(&stamped).unwrap().len(), 48 << 20);
    assert_eq!(label(&stamped), "fixed");
}

/// Builds the vectors of kind `result`.
#[test]
#[ignore = "slow proof: ten minutes; needs python3, qemu-img and e2fsprogs"]
fn results() {
    let ground = ground();
    let folder = ground.at("results");
    fs::create_dir_all(&folder).unwrap();
    ground.give(&folder);
    let vectors = ground.out("images.json");
    ground.copy("../host/recipe/b9/tests/vectors/images.json", &vectors);
    let program = ground.at("bin/vbuild");
    let words = ["results.py", "images.json", program.to_str().unwrap()];
    let mut command = ground.command(Path::new("python3"), &words);
    command.env("B9_RESULTS_DIR", &folder);
    assert!(command.status().unwrap().success());
}

/// Runs the script of sample 04 on the root filesystem of a Debian image, which then boots to
/// a login prompt with its own kernel, passed to QEMU: B9 images are single filesystems, which
/// firmware cannot boot.
#[test]
#[ignore = "slow proof: ten minutes; VBUILD_TEST_DEBIAN names an image of tests/first-image.sh"]
fn login() {
    let debian = std::env::var("VBUILD_TEST_DEBIAN").expect("VBUILD_TEST_DEBIAN names an image");
    let ground = ground();
    let input = ground.out("in/debian.qcow2");
    fs::create_dir_all(ground.out("in")).unwrap();
    tool(&["cp", "--sparse=always", &debian, input.to_str().unwrap()]);
    ground.give(&ground.out("in"));
    let sample = text(&ground.out("04-install.b9"));
    let from = "(Image \"in/base.raw\" Raw Ext4) NoPT (Resize (ImageSize 1 GB))";
    let to = "(Image \"in/debian.qcow2\" QCow2 Ext4) (Partition 1) (Resize (ImageSize 4 GB))";
    assert!(sample.contains(from), "sample 04 has another base now");
    let sample = sample.replace(from, to).replace("out/04", "out/login");
    fs::write(ground.out("login.b9"), sample).unwrap();
    build(&ground, "login.b9", &[]);
    let image = raw(&ground.out("out/login/root.qcow2"));
    let said = done(Command::new("debugfs").args(["-R", "ls -p /boot"]).arg(&image));
    for name in ["vmlinuz-", "initrd.img-"] {
        let file = said.split('/').filter(|word| word.starts_with(name)).max().unwrap();
        let bytes = content(&image, &format!("/boot/{file}"));
        fs::write(ground.at(name.trim_end_matches('-')), bytes).unwrap();
    }
    console_shows(&ground, &image, "login:");
}

/// Boots a filesystem without partition table with its own kernel in QEMU, without vbuild.
fn console_shows(ground: &Ground, image: &Path, text: &str) {
    let console = ground.at("console");
    let drive = format!("file={},format=raw,if=virtio", image.display());
    let mut machine = Command::new("timeout")
        .args(["900", "qemu-system-x86_64", "-machine", "q35", "-m", "1024", "-nographic"])
        .args(["-no-reboot", "-monitor", "none", "-snapshot", "-drive", &drive])
        .args(["-append", "root=/dev/vda rw console=ttyS0"])
        .arg("-kernel")
        .arg(ground.at("vmlinuz"))
        .arg("-initrd")
        .arg(ground.at("initrd.img"))
        .stdin(Stdio::null())
        .stdout(File::create(&console).unwrap())
        .spawn()
        .unwrap();
    loop {
        let said = String::from_utf8_lossy(&fs::read(&console).unwrap()).into_owned();
        if said.contains(text) {
            break;
        }
        let ended = machine.try_wait().unwrap();
        assert!(ended.is_none(), "the machine has ended: {said}");
        std::thread::sleep(std::time::Duration::from_secs(2));
    }
    // `timeout` forwards the signal.
    tool(&["kill", &machine.id().to_string()]);
    machine.wait().unwrap();
}
