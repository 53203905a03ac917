//! The KVM lab: our VMM on a real `/dev/kvm`, without KVM hardware.
//!
//! ```text
//! level 0  this test: QEMU, TCG, -cpu max,+svm
//! level 1    Debian's cloud kernel with kvm-amd, init = lab_guest, jobs
//! level 2      our VMM (run_kernel), the same kernel, init = lab_guest
//! ```
//!
//! It runs when `VBUILD_LAB_KERNEL_ROOT` names an unpacked kernel package (with
//! `boot/vmlinuz-*` and `lib/modules/*`) and QEMU is there; otherwise it says
//! what is missing. Build the two programs first:
//! `cargo build -p microvm --examples`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// An unpacked kernel package.
const KERNEL_ROOT: &str = "VBUILD_LAB_KERNEL_ROOT";
/// Only the jobs with these names, separated by commas.
const JOBS: &str = "VBUILD_LAB_JOBS";
/// How long the whole lab may take; a loaded machine needs most of it.
const LIMIT_SECONDS: &str = "900";
/// The drivers that level 1 loads, in order.
const LEVEL_ONE_MODULES: [&str; 3] = ["irqbypass", "kvm", "kvm-amd"];
/// The drivers that level 2 loads, in order; those that are built in are absent
/// from the package.
const LEVEL_TWO_MODULES: [&str; 10] = [
    "rng-core",
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "virtio_blk",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
    "virtio-rng",
    "virtio_balloon",
];
/// Devices of the full jobs.
const DISKS: &str =
    "--raw target=/tmp/target.raw --raw second=/tmp/second.raw --read-only tools=/tmp/tools.raw";

/// The jobs: name, arguments of run_kernel, words that must appear.
fn jobs() -> Vec<(&'static str, String, Vec<&'static str>)> {
    let base = "--kernel /vmlinuz --initrd /l2.cpio --quiet";
    let full = |vcpus: u8| format!("{base} --vcpus {vcpus} {DISKS} --connect 7 -- lab=full");
    let all = [
        "ok listen",
        "ok random",
        "ok write",
        "ok read",
        "ok echo",
        "ok refused-port",
        "ok read-only",
        "ok second-write",
        "ok discard",
        "ok second-read",
        "ok host",
        "end Ok(PowerOff)",
    ];
    let with = |first: &'static str| [&[first], &all[..]].concat();
    vec![
        ("one", full(1), with("processors 1")),
        ("two", full(2), with("processors 2")),
        ("four", full(4), with("processors 4")),
        (
            "push",
            format!(
                "{base} --vcpus 2 --raw target=/tmp/target.raw --connect 7 \
                 --push target=/tmp/layer.qcow2 -- lab=push"
            ),
            vec!["push_layer: Ok(())", "ok old-layer", "ok read-layer", "end Ok(PowerOff)"],
        ),
        ("reboot", format!("{base} -- lab=reboot"), vec!["end Ok(Reboot)"]),
        (
            "panic",
            format!("{base} -- lab=panic"),
            vec!["Kernel panic - not syncing", "end Ok(Panic)"],
        ),
        ("kill", format!("{base} --vcpus 2 --kill-after 5000 -- lab=loop"), vec!["end Ok(Killed)"]),
    ]
}

/// A file of an initramfs.
enum Entry {
    Directory,
    File(PathBuf),
    Text(String),
}

/// Packs an initramfs in the "newc" format.
fn pack(entries: &BTreeMap<String, Entry>) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut add = |name: &str, mode: u32, data: &[u8]| {
        let mut head = String::from("070701");
        let sizes = [0, mode as usize, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0];
        for field in sizes {
            write!(head, "{field:08x}").expect("a string takes everything");
        }
        archive.extend(head.as_bytes());
        archive.extend(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    };
    for (name, entry) in entries {
        match entry {
            Entry::Directory => add(name, 0o40755, &[]),
            Entry::File(path) => {
                add(name, 0o100_755, &fs::read(path).expect("a file of the initramfs"))
            }
            Entry::Text(text) => add(name, 0o100_644, text.as_bytes()),
        }
    }
    add("TRAILER!!!", 0, &[]);
    archive
}

/// A program with the libraries it is linked with.
fn add_program(entries: &mut BTreeMap<String, Entry>, name: &str, program: &Path) {
    let listing = Command::new("ldd").arg(program).output().expect("`ldd` runs");
    for word in String::from_utf8_lossy(&listing.stdout).split_whitespace() {
        if let Some(relative) = word.strip_prefix('/') {
            entries.insert(relative.to_owned(), Entry::File(word.into()));
            let parents = Path::new(relative).ancestors().skip(1);
            for parent in parents.filter(|parent| !parent.as_os_str().is_empty()) {
                entries.insert(parent.to_string_lossy().into_owned(), Entry::Directory);
            }
        }
    }
    entries.insert(name.to_owned(), Entry::File(program.to_owned()));
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            find(&path, name)
        } else {
            (entry.file_name() == name).then_some(path)
        }
    })
}

fn add_modules(entries: &mut BTreeMap<String, Entry>, root: &Path, names: &[&str]) {
    let mut order = String::new();
    for name in names {
        let file = format!("{name}.ko");
        if let Some(path) = find(&root.join("lib/modules"), &file) {
            entries.insert(format!("modules/{file}"), Entry::File(path));
            order += name;
            order.push('\n');
        }
    }
    entries.insert("modules".to_owned(), Entry::Directory);
    entries.insert("modules/order".to_owned(), Entry::Text(order));
}

/// What the lab needs, or why it cannot run.
fn inputs() -> Result<(PathBuf, PathBuf, PathBuf), String> {
    let root = std::env::var_os(KERNEL_ROOT)
        .map(PathBuf::from)
        .ok_or_else(|| format!("{KERNEL_ROOT} does not name an unpacked kernel package"))?;
    let kernel = fs::read_dir(root.join("boot"))
        .map_err(|e| format!("`{}` has no boot directory: {e}", root.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains("vmlinuz"))
        .ok_or_else(|| format!("`{}` has no kernel", root.display()))?;
    let test = std::env::current_exe().map_err(|e| e.to_string())?;
    let examples = test
        .ancestors()
        .find(|dir| dir.join("examples/run_kernel").exists())
        .map(|dir| dir.join("examples"))
        .ok_or("the examples are not built: `cargo build -p microvm --examples`")?;
    Command::new("qemu-system-x86_64")
        .arg("--version")
        .output()
        .map_err(|e| format!("`qemu-system-x86_64` cannot be run: {e}"))?;
    Ok((root, kernel, examples))
}

fn run_lab(jobs: &[(&str, String, Vec<&str>)]) -> Result<String, String> {
    let (root, kernel, examples) = inputs()?;
    let dir = tempfile::tempdir().expect("a directory");
    let guest = examples.join("lab_guest");
    let mut two = BTreeMap::new();
    add_program(&mut two, "init", &guest);
    add_modules(&mut two, &root, &LEVEL_TWO_MODULES);
    let l2 = dir.path().join("l2.cpio");
    fs::write(&l2, pack(&two)).expect("the initramfs is written");
    let mut one = BTreeMap::new();
    add_program(&mut one, "init", &guest);
    add_program(&mut one, "run_kernel", &examples.join("run_kernel"));
    add_modules(&mut one, &root, &LEVEL_ONE_MODULES);
    one.insert("vmlinuz".to_owned(), Entry::File(kernel.clone()));
    one.insert("l2.cpio".to_owned(), Entry::File(l2));
    let list: Vec<String> = jobs.iter().map(|(name, job, _)| format!("{name} {job}")).collect();
    one.insert("jobs".to_owned(), Entry::Text(list.join("\n")));
    let l1 = dir.path().join("l1.cpio");
    fs::write(&l1, pack(&one)).expect("the initramfs is written");
    let output = Command::new("timeout")
        .args([LIMIT_SECONDS, "qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi"])
        .args(["-cpu", "max,+svm", "-smp", "2", "-m", "2048", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-no-reboot", "-serial", "stdio", "-kernel"])
        .arg(kernel)
        .arg("-initrd")
        .arg(l1)
        .args(["-append", "console=ttyS0 quiet panic=-1 lab=l1"])
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_lab() {
    let wanted = std::env::var(JOBS).ok();
    let mut jobs = jobs();
    if let Some(wanted) = wanted {
        jobs.retain(|(name, ..)| wanted.split(',').any(|word| word == *name));
    }
    let log = match run_lab(&jobs) {
        Ok(log) => log,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    println!("{log}");
    for (name, _, expected) in jobs {
        let start = log.find(&format!("[l1] job {name}")).unwrap_or(log.len());
        let end = log.find(&format!("[l1] end of job {name}")).unwrap_or(log.len());
        let part = log.get(start..end).unwrap_or("");
        for words in expected {
            assert!(part.contains(words), "job {name}: `{words}` is missing");
        }
        assert!(!part.contains("FAILED"), "job {name} failed in part");
    }
}
