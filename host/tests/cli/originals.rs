//! What users of diskimage-builder and virt-dib type, against the whole program: without a
//! machine, so up to the plan or the error before it.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use super::make_home;

struct Shop {
    _folder: tempfile::TempDir,
    home: PathBuf,
}

/// What a command said.
struct Said {
    status: i32,
    out: String,
    err: String,
}

impl Shop {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().canonicalize().unwrap();
        make_home(&home);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_vbuild"), home.join("ramdisk-image-create"))
            .unwrap();
        Self { _folder: folder, home }
    }

    fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.home.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&path, mode).unwrap();
        path
    }

    fn command(&self, words: &[&str], environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(self.home.join(words[0]));
        command
            .args(&words[1..])
            .current_dir(&self.home)
            .env_clear()
            .envs([("HOME", self.home.as_path()), ("PATH", Path::new("/usr/bin:/bin"))])
            .envs(environment.iter().copied());
        command
    }

    fn run_in(&self, environment: &[(&str, &str)], line: &str) -> Said {
        let line =
            line.replace("[LIB]", &self.home.join("diskimage_builder/lib").display().to_string());
        let words: Vec<&str> = line.split_whitespace().collect();
        let Output { status, stdout, stderr } = self.command(&words, environment).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Said { status: status.code().unwrap(), out: text(stdout), err: text(stderr) }
    }

    fn run(&self, line: &str) -> Said {
        self.run_in(&[], line)
    }

    /// A plan with the element `os`, and what else the line says.
    fn plan(&self, more: &str) -> Said {
        self.run(&format!("vbuild plan -n -B [LIB] os {more}"))
    }
}

#[test]
fn a_drop_in_speaks_of_itself() {
    let shop = Shop::new();
    for name in ["virt-dib", "disk-image-create", "ramdisk-image-create", "vmdb2"] {
        for option in ["--help", "-h"] {
            let help = shop.run(&format!("{name} {option}"));
            assert_eq!(help.status, 0, "{name} {option}");
            assert!(
                help.out.contains(&format!("Usage: {name} ")) && !help.out.contains("Verbs:"),
                "{}",
                help.out
            );
        }
    }
    assert_eq!(shop.run("disk-image-create --version").out, "3.43.0\n");
    assert_eq!(shop.run("vmdb2 --version").out, "0.26\n");
    assert_eq!(shop.run("vmdb2 --wording 0.41 --version").out, "0.41\n");
    assert!(shop.run("virt-dib --version").out.starts_with("virt-dib 1.48"));
}

#[test]
fn disk_image_create_takes_its_own_spellings() {
    let shop = Shop::new();
    let missing = |environment: &[(&str, &str)], options: &str| {
        let line = format!("disk-image-create -B [LIB] -n {options} no-such-element os");
        let said = shop.run_in(environment, &line);
        assert!(
            said.err.contains("Element 'no-such-element' not found"),
            "{options}: {}",
            said.err
        );
    };
    for options in [
        "-c",
        "-c -x -x -u",
        "-xuc",
        "-no image",
        "-oimage",
        "--image-size 6GiB",
        "--image-size=8Gb",
        "--image-extra-size 0.5",
        "--max-online-resize 1T",
        "--mkfs-journal-size 0x40",
        "--offl",
        "--mkfs -K",
        "--ramdisk r",
    ] {
        missing(&[], options);
    }
    for size in
        [("DIB_IMAGE_SIZE", "275G"), ("DIB_JOURNAL_SIZE", "0100"), ("MAX_ONLINE_RESIZE", "9k")]
    {
        missing(&[size], "");
    }
    assert!(shop.run("disk-image-create -z os").err.contains("invalid option -- 'z'"));
}

#[test]
fn sizes_with_their_exact_results_or_a_reason() {
    let shop = Shop::new();
    let disk = |options: &str| {
        let said = shop.plan(&format!("--json {options}"));
        assert_eq!(said.status, 0, "{options}: {}", said.err);
        let plan: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        plan["disks"][1]["size"]["bytes"].as_u64().unwrap()
    };
    assert_eq!(disk("--size 1.2G"), 1_288_490_496);
    assert_eq!(disk("--size 0.7G"), 751_619_584);
    assert_eq!(disk("--image-size 6GiB"), 6 << 30);
    assert_eq!(disk("--envvar DIB_IMAGE_SIZE=275G"), 275 << 30);
    let warned = shop.plan("--image-size 500M");
    assert!(warned.err.contains("`500M` is 500 GiB"), "{}", warned.err);

    let config = "- local_loop: {name: image0}\n- partitioning:\n    base: image0\n    label: gpt\n    \
                  partitions:\n    - name: root\n      size: 10gib\n      mkfs: {mount: {mount_point: /}}\n";
    let file = shop.write("config.yaml", config);
    let refused = shop.plan(&format!("--envvar DIB_BLOCK_DEVICE_CONFIG=file://{}", file.display()));
    assert_eq!(refused.status, 1);
    for part in ["`root`", "`size`", "`10gib`", "line 7", "config.yaml", "GiB"] {
        assert!(refused.err.contains(part), "{part}: {}", refused.err);
    }
    for (size, part) in [("60%", "type"), ("2TiB", "needs")] {
        let text = config
            .replace("10gib", size)
            .replace("name: root\n", "name: root\n      type: '0448'\n");
        let text = if part == "needs" { text.replace("'0448'", "'8300'") } else { text };
        fs::write(&file, text).unwrap();
        let line = format!("--size 1G --envvar DIB_BLOCK_DEVICE_CONFIG=file://{}", file.display());
        let refused = shop.plan(&line);
        assert_eq!(refused.status, 1, "{size}: {}", refused.out);
        assert!(
            refused.err.contains("partition `root`") && refused.err.contains(part),
            "{}",
            refused.err
        );
    }
}

#[test]
fn the_option_is_named_as_it_was_given() {
    let shop = Shop::new();
    for (options, begins) in [
        ("--timeout 0", "--timeout: `0`"),
        ("--mkfs-journal-size 0", "--mkfs-journal-size: `0`"),
        ("--image-size abc", "--image-size: `abc`"),
        ("--size abc", "--size: abc"),
        ("--memsize abc", "--memsize: ‘abc’"),
        ("-m abc", "-m: ‘abc’"),
        ("--max-age soon", "--max-age: `soon`"),
        ("--envvar DIB_IMAGE_SIZE=abc", "DIB_IMAGE_SIZE: `abc`"),
        ("--envvar DIB_JOURNAL_SIZE=abc", "DIB_JOURNAL_SIZE: `abc`"),
    ] {
        let said = shop.plan(options);
        assert_eq!(said.status, 1, "{options}");
        let expected = format!("vbuild: error: {begins}");
        assert!(said.err.starts_with(&expected), "{options}: {}", said.err);
    }
}

#[test]
fn a_missing_element_is_told_with_who_wants_it_and_where_was_looked() {
    let shop = Shop::new();
    let said = shop.plan("needs-missing");
    assert!(
        said.err.contains("`element-deps` of the element needs-missing names it"),
        "{}",
        said.err
    );
    let said = shop.plan("-p /nonexistent/elements no-such");
    assert!(said.err.contains("-p: `/nonexistent/elements` is not a directory"), "{}", said.err);
    let said = shop.plan("other-oss");
    assert!(said.err.contains("did you mean `other-os`?"), "{}", said.err);
    let said = shop.plan("other-os");
    assert!(said.err.contains("other-os provides it too"), "{}", said.err);
}

#[test]
fn what_matches_nothing_is_told_and_what_is_there_twice_is_not() {
    let shop = Shop::new();
    for option in ["--exclude-element=extraz", "--exclude-script=10-oss"] {
        let said = shop.plan(&format!("{option} extras"));
        assert_eq!(said.status, 0);
        let name = option.split_once('=').unwrap().1;
        assert!(
            said.err.contains(&format!("`{name}`")) && said.err.contains("did you mean"),
            "{}",
            said.err
        );
    }
    let quiet = shop.plan("--exclude-element=extras --exclude-script=10-os extras");
    assert_eq!(quiet.err, "");
    let twice = shop.plan("-p [LIB]/../elements -p [LIB]/../elements");
    assert_eq!((twice.status, twice.err.as_str()), (0, ""));
}

#[test]
fn a_plan_refuses_what_a_build_refuses() {
    let shop = Shop::new();
    for (options, part) in [
        ("--refresh=nosuch", "its stages: prepare, root.d"),
        ("--debug-shell=before-nosuch", "before-PHASE"),
        ("--debug-shell=nosuch", "points are after-error"),
        ("--drive nosuch.img", "cannot open the drive"),
        ("--ca-bundle nosuch.pem", "nosuch.pem"),
        ("--allow-host a:b:c", "--allow-host"),
        ("--load-into docker", "no container image is among the outputs"),
        ("--remote-cache /c", "whose results are trusted"),
    ] {
        let said = shop.plan(options);
        assert_eq!(said.status, 1, "{options}: {}", said.out);
        assert!(said.err.contains(part), "{options}: {}", said.err);
    }
    assert_eq!(shop.plan("--refresh=install.d --debug-shell=before-install").status, 0);
    // What an output needs of the host is looked for first, and only where it is needed.
    let without_programs = |line: &str| shop.run_in(&[("PATH", "/nonexistent")], line);
    assert_eq!(without_programs("vbuild plan -n -B [LIB] os").status, 0);
    let options = "-u --qemu-img-options preallocation=metadata,refcount_bits=8";
    for verb in ["vbuild plan", "virt-dib"] {
        let said = without_programs(&format!("{verb} -n -B [LIB] {options} os"));
        assert_eq!(said.status, 1, "{verb}: {}", said.out);
        assert!(said.err.contains("qemu-img needed but not found"), "{verb}: {}", said.err);
        assert!(!said.out.contains("Starting the machine"), "{verb}: {}", said.out);
    }
}

#[test]
fn quiet_hides_progress_and_no_errors() {
    let shop = Shop::new();
    let loud = shop.run("virt-dib -B [LIB] -n no-such os");
    assert!(loud.out.contains("Elements: no-such os"), "{}", loud.out);
    let quiet = shop.run("virt-dib -q -B [LIB] -n no-such os");
    assert_eq!((quiet.status, quiet.out.as_str()), (1, ""));
    assert!(quiet.err.contains("element no-such not found"), "{}", quiet.err);
}

#[test]
fn the_log_of_a_build_stays_in_the_cache() {
    let shop = Shop::new();
    assert_eq!(shop.run("virt-dib -B [LIB] -n no-such os").status, 1);
    let logs: Vec<PathBuf> = fs::read_dir(shop.home.join(".cache/vbuild/logs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(logs.len(), 1, "{logs:?}");
    let name = logs[0].file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("vbuild-2") && name.ends_with(".log"), "{name}");
    let text = fs::read_to_string(&logs[0]).unwrap();
    assert!(text.contains("element no-such not found"), "{text}");
}

#[test]
fn an_answer_that_cannot_be_written_is_no_success() {
    let shop = Shop::new();
    let lib = shop.home.join("diskimage_builder/lib").display().to_string();
    let plan = ["vbuild", "plan", "--json", "-n", "-B", &lib, "os"];
    let lines: [&[&str]; 6] = [
        &plan,
        &["vbuild", "--help"],
        &["disk-image-create", "--version"],
        &["vbuild", "completions", "bash"],
        &["vbuild", "--machine-readable"],
        &["vbuild", "images", "--dry-run", "images.yaml"],
    ];
    for line in lines {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = shop.command(line, &[]).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{line:?}");
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(err.contains("cannot write to standard output"), "{line:?}: {err}");
        assert!(err.contains("No space left on device"), "{line:?}: {err}");
        // A reader that goes away is none.
        let closed = Stdio::from(closed_pipe());
        let status = shop.command(line, &[]).stdout(closed).stderr(Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(0), "{line:?}");
    }
}

/// A pipe without a reader.
fn closed_pipe() -> std::io::PipeWriter {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer
}

#[test]
fn the_environment_of_disk_image_create_is_passed_or_named() {
    let shop = Shop::new();
    let environment = [
        ("REG_METHOD", "portal"),
        ("NO_SOURCE_REPOSITORIES", "1"),
        ("http_proxy", "http://192.0.2.1:3128"),
        ("SECRET", "x"),
    ];
    let said = shop.run_in(&environment, "disk-image-create -B [LIB] -n no-such os");
    let line = said.out.lines().find(|line| line.contains("Variables of the environment")).unwrap();
    assert!(line.contains("passed to scripts: NO_SOURCE_REPOSITORIES REG_METHOD"), "{line}");
    assert!(line.contains("not passed: http_proxy") && !line.contains("SECRET"), "{line}");
    for line in ["disk-image-create -c -B [LIB] -n no-such os", "virt-dib -B [LIB] -n no-such os"] {
        let said = shop.run_in(&environment, line);
        assert!(!said.out.contains("Variables of"), "{}", said.out);
    }
}

#[test]
fn a_file_of_the_host_that_scripts_cannot_see_is_told_with_its_share() {
    let shop = Shop::new();
    let key = shop.write("id.pub", "ssh-ed25519 AAAA\n");
    let key = key.display();
    for value in [key.to_string(), "~/id.pub".into(), "./id.pub".into()] {
        let said = shop.plan(&format!("--envvar DIB_DEV_USER_AUTHORIZED_KEYS={value}"));
        assert_eq!(said.status, 0);
        assert!(said.err.contains(&format!("`--share {key}`")), "{value}: {}", said.err);
    }
    let line = format!("--share {key} --envvar DIB_DEV_USER_AUTHORIZED_KEYS={key}");
    assert_eq!(shop.plan(&line).err, "");
    let cache = shop.plan("--envvar DIB_IMAGE_CACHE=/srv/cache");
    assert!(cache.err.contains("`/srv/cache` of this host is not used"), "{}", cache.err);
    shop.write(
        "diskimage_builder/elements/sets/environment.d/10-x",
        &format!("export DIB_CA={key}\n"),
    );
    let said = shop.plan("sets");
    assert!(said.err.contains("environment.d/10-x of the element sets"), "{}", said.err);
}

#[test]
fn scripts_that_cannot_start_are_refused_before_anything_boots() {
    let shop = Shop::new();
    let script =
        shop.write("diskimage_builder/elements/dos/install.d/50-dos", "#!/bin/bash\r\ntrue\r\n");
    let said = shop.plan("dos");
    assert_eq!(said.status, 1);
    assert!(
        said.err.contains("CR LF") && said.err.contains(&script.display().to_string()),
        "{}",
        said.err
    );
    let left_out = shop.plan("dos --exclude-script 50-dos");
    assert_eq!(left_out.status, 0, "{}", left_out.err);
}
