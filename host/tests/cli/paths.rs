//! Paths that come from outside, against the whole program: what an element's tree holds,
//! what definitions name, whose the cache folder is, who can read what is written.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, chown, lchown, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nix::{sys::stat::Mode, unistd::mkfifo};

use super::{make_home, run};

/// A home, and a folder of elements in it.
fn ground() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().canonicalize().unwrap();
    make_home(&home);
    (folder, home)
}

fn element(home: &Path, name: &str, file: &str, text: &str) -> PathBuf {
    let element = home.join("el").join(name);
    let path = element.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    element
}

/// The plan of a build with these elements: what is uploaded to a place, path to kind.
fn planned(home: &Path, elements: &str, to: &str) -> (BTreeMap<String, serde_json::Value>, String) {
    let line =
        format!("vbuild plan --json -n -B [HOME]/diskimage_builder/lib -p [HOME]/el os {elements}");
    let output = run(home, &line);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let mut found = BTreeMap::new();
    for step in list(&plan["stages"]).iter().flat_map(|stage| list(&stage["steps"])) {
        if step["step"] == "upload" && step["to"] == to {
            for entry in list(&step["entries"]) {
                found.insert(entry["path"].as_str().unwrap().to_owned(), entry["kind"].clone());
            }
        }
    }
    (found, errors)
}

#[test]
fn an_elements_files_reach_the_guest_as_they_are() {
    let (_folder, home) = ground();
    let element = element(&home, "odd", "install.d/50-x", "#!/bin/sh\n");
    let at = |path: &str| element.join(path);
    fs::create_dir_all(at("static/usr/share/x")).unwrap();
    let links = [
        ("/dev/null", "static/apt-daily.timer"),
        ("/usr/share/zoneinfo/UTC", "static/localtime"),
        ("/etc/hostname", "static/name-of-machine"),
        ("/proc/self/environ", "static/environment"),
        ("../run/stub", "static/stub"),
        ("../..", "static/usr/share/top"),
        ("loop", "static/loop"),
        (".", "self"),
        ("..", "install.d/up"),
    ];
    for (target, link) in links {
        symlink(target, at(link)).unwrap();
    }
    fs::write(at("static/usr/share").join(OsStr::from_bytes(b"caf\xe9")), "").unwrap();
    mkfifo(&at("static/pipe"), Mode::from_bits_truncate(0o640)).unwrap();
    fs::set_permissions(at("static/usr"), fs::Permissions::from_mode(0o1777)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("static/socket")).unwrap();
    let (found, errors) = planned(&home, "odd", "/build/hooks");
    for (target, link) in links {
        assert_eq!(found[link]["symlink"], target, "{link}");
    }
    assert!(found["static/usr/share/caf\0e9"]["file"].is_object(), "{found:#?}");
    assert_eq!(found["static/pipe"]["fifo"], 0o640);
    assert_eq!(found["static/usr"]["directory"], 0o1777);
    assert!(!found.contains_key("static/socket"));
    assert!(errors.contains("static/socket` is a socket"), "{errors}");
}

#[test]
fn a_script_that_is_a_link_out_of_its_element_is_named() {
    let (_folder, home) = ground();
    let own = element(&home, "linked", "scripts/good", "#!/bin/sh\n");
    fs::create_dir(own.join("install.d")).unwrap();
    fs::write(home.join("secret"), "#!/bin/sh\n").unwrap();
    symlink("../scripts/good", own.join("install.d/10-good")).unwrap();
    symlink("../../../secret", own.join("install.d/20-bad")).unwrap();
    let (found, errors) = planned(&home, "linked", "/build/hooks");
    assert_eq!(found["install.d/10-good"]["symlink"], "../scripts/good");
    assert_eq!(found["install.d/20-bad"]["symlink"], "../../../secret");
    assert!(errors.contains("`install.d/20-bad` of the element linked is a link"), "{errors}");
    assert!(!errors.contains("10-good"), "{errors}");
    // An element that is one, too; the folder that it leads to can be named.
    fs::create_dir_all(home.join("theirs/elsewhere/install.d")).unwrap();
    symlink("../theirs/elsewhere", home.join("el/elsewhere")).unwrap();
    let line = "vbuild plan -n -B [HOME]/diskimage_builder/lib -p [HOME]/el os elsewhere";
    let output = run(&home, line);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("el/elsewhere` is a link that leads out of"), "{errors}");
    assert!(errors.contains("`-p`"), "{errors}");
    let output = run(&home, &line.replace("-p [HOME]/el", "-p [HOME]/el -p [HOME]/theirs"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn definitions_write_and_read_in_their_own_folder() {
    let (_folder, home) = ground();
    let project = home.join("project");
    fs::create_dir_all(project.join("logs")).unwrap();
    fs::create_dir(home.join("secrets")).unwrap();
    fs::write(home.join(".bashrc"), "precious").unwrap();
    symlink(home.join(".bashrc"), project.join("sly.log")).unwrap();
    let dry = |definition: &str, more: &str| {
        let text = format!("- elements: [os]\n  skip-base: true\n  {definition}\n");
        fs::write(project.join("images.yaml"), text).unwrap();
        let line = format!("vbuild images --dry-run {more} project/images.yaml");
        let output = run(&home, &line.replace("  ", " "));
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap(), errors)
    };
    for good in [
        "logfile: project/logs/a.log",
        "logfile: project/a.log",
        "imagename: out",
        "environment: {ELEMENTS_PATH: project}",
    ] {
        assert_eq!(dry(good, ""), (0, String::new()), "{good}");
    }
    let outside = home.join("secrets").display().to_string();
    for bad in [
        "logfile: .bashrc".to_owned(),
        "logfile: project/sly.log".to_owned(),
        "logfile: ../a.log".to_owned(),
        format!("logfile: {}/.bashrc", home.display()),
        "logfile: /tmp/vbuild-no-such-folder/a.log".to_owned(),
        "imagename: .config/systemd/user/x.service".to_owned(),
        "imagename: ../x".to_owned(),
        "environment: {DIB_BLOCK_DEVICE_CONFIG: 'file:///etc/passwd'}".to_owned(),
        "environment: {ELEMENTS_PATH: /etc}".to_owned(),
    ] {
        let (status, errors) = dry(&bad, "");
        assert_eq!(status, 1, "{bad}: {errors}");
        assert!(errors.contains("--allow-host-path"), "{bad}: {errors}");
    }
    let allowed = dry(&format!("logfile: {outside}/a.log"), "--allow-host-path secrets");
    assert_eq!(allowed, (0, String::new()));
    let (status, errors) = dry("logfile: project/a.log", "--allow-host-path gone");
    assert!(status == 1 && errors.contains("cannot find `gone`"), "{errors}");
    assert_eq!(fs::read_to_string(home.join(".bashrc")).unwrap(), "precious");
}

#[test]
fn a_spec_names_its_own_files_or_what_was_allowed() {
    let (_folder, home) = ground();
    fs::create_dir_all(home.join("spec")).unwrap();
    fs::create_dir_all(home.join("keys")).unwrap();
    fs::write(home.join("keys/id"), "secret").unwrap();
    let spec = "steps:\n- mkimg: \"{{ output }}\"\n  size: 1G\n- mklabel: gpt\n  device: \"{{ output }}\"\n\
                - mkpart: primary\n  device: \"{{ output }}\"\n  start: 0%\n  end: 100%\n  tag: root\n\
                - kpartx: \"{{ output }}\"\n- mkfs: ext4\n  partition: root\n- mount: root\n\
                - copy-file: /x\n  src: ../keys/id\n";
    fs::write(home.join("spec/a.vmdb"), spec).unwrap();
    let line = "vbuild plan vmdb spec/a.vmdb --output out.img";
    let output = run(&home, line);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    // The working folder holds the spec, but it is a home, and the file is not hidden.
    assert_eq!(output.status.code(), Some(0), "{errors}");
    fs::rename(home.join("keys"), home.join(".keys")).unwrap();
    let hidden = spec.replace("../keys/id", "../.keys/id");
    fs::write(home.join("spec/a.vmdb"), hidden).unwrap();
    let output = run(&home, line);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("`--allow-host-path "), "{errors}");
    assert!(errors.contains("a.vmdb:"), "the place is told: {errors}");
    let output = run(&home, &format!("{line} --allow-host-path .keys"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// Runs the program under a umask, in a home.
fn under(home: &Path, umask: &str, line: &str) -> Output {
    Command::new("/bin/sh")
        .args(["-c", &format!("umask {umask} && exec {line}")])
        .current_dir(home)
        .env_clear()
        .envs([
            ("HOME", home.to_str().unwrap()),
            ("PATH", &format!("{}:/usr/bin:/bin", home.display())),
        ])
        .output()
        .unwrap()
}

#[test]
fn outputs_keep_the_users_umask_and_all_else_is_private() {
    for (umask, file, folder) in
        [("022", 0o644, 0o755), ("002", 0o664, 0o775), ("077", 0o600, 0o700)]
    {
        let (_folder, home) = ground();
        let drive = under(&home, umask, "vbuild cache create --size 64M drive.img");
        assert!(drive.status.success(), "{drive:?}");
        assert_eq!(mode(&home.join("drive.img")), file, "umask {umask}");
        fs::create_dir(home.join("project")).unwrap();
        let layer = under(&home, umask, "vbuild layers new-layer 10_a");
        assert!(layer.status.success(), "{layer:?}");
        assert_eq!(mode(&home.join("10_a")), folder, "umask {umask}");
        let log = under(&home, umask, "vbuild vmdb happy.vmdb --output x --log logs/a.log");
        assert!(log.status.success(), "{log:?}");
        assert_eq!((mode(&home.join("logs")), mode(&home.join("logs/a.log"))), (folder, 0o600));
        let json = under(
            &home,
            umask,
            "vbuild -n --machine-readable=file:events -B diskimage_builder/lib missing os",
        );
        assert_eq!(json.status.code(), Some(1), "{json:?}");
        assert_eq!(mode(&home.join("events")), file, "umask {umask}");
        // The log of that build, with what scripts said.
        let cache = home.join(".cache/vbuild");
        assert_eq!((mode(&cache), mode(&cache.join("logs"))), (0o700, 0o700));
        for log in fs::read_dir(cache.join("logs")).unwrap() {
            assert_eq!(mode(&log.unwrap().path()), 0o600);
        }
    }
}

#[test]
fn the_cache_is_repaired_or_refused() {
    let (_folder, home) = ground();
    let cache = home.join(".cache/vbuild");
    fs::create_dir_all(&cache).unwrap();
    for readable in [0o755, 0o775] {
        fs::set_permissions(&cache, fs::Permissions::from_mode(readable)).unwrap();
        assert!(run(&home, "vbuild store ls").status.success());
        assert_eq!(mode(&cache), 0o700);
    }
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
    let output = run(&home, "vbuild store ls");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && errors.contains("can be written by other users"),
        "{errors}"
    );
    assert!(errors.contains("chmod 700") && errors.contains("--cache-dir"), "{errors}");
    // What the command line names is the user's word, and is told.
    let output = run(&home, "vbuild store ls --cache-dir [HOME]/.cache/vbuild");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && errors.contains("vbuild: warning: the cache"), "{errors}");
    let doctor = run(&home, "vbuild doctor");
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(text.contains("can be written by other users"), "{text}");
}

#[test]
fn without_a_home_nobody_else_chooses_the_cache() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: it needs root, to be two users");
        return;
    }
    let (victim, attacker) = (65_531, 65_532);
    let folder = tempfile::tempdir().unwrap();
    let tmp = folder.path().canonicalize().unwrap().join("tmp");
    fs::create_dir(&tmp).unwrap();
    for (path, bits) in [(folder.path(), 0o755), (tmp.as_path(), 0o1777)] {
        fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
    }
    // Others can run it where it lies, or the test says nothing.
    let program = folder.path().join("vbuild");
    fs::copy(env!("CARGO_BIN_EXE_vbuild"), &program).unwrap();
    let usual = tmp.join(format!("vbuild-{victim}"));
    let store = || {
        let output = Command::new(&program)
            .args(["store", "du"])
            .uid(victim)
            .gid(victim)
            .current_dir("/")
            .env_clear()
            .envs([("PATH", "/usr/bin:/bin".as_ref()), ("TMPDIR", tmp.as_os_str())])
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let entries = |path: &Path| fs::read_dir(path).unwrap().count();
    // A folder of somebody else's.
    fs::create_dir(&usual).unwrap();
    fs::set_permissions(&usual, fs::Permissions::from_mode(0o777)).unwrap();
    chown(&usual, Some(attacker), None).unwrap();
    let (good, errors) = store();
    assert!(!good && errors.contains("belongs to the user 65532, not to 65531"), "{errors}");
    assert!(errors.contains("--cache-dir") && errors.contains("XDG_CACHE_HOME"), "{errors}");
    assert_eq!(entries(&usual), 0);
    fs::remove_dir(&usual).unwrap();
    // A link of somebody else's.
    let theirs = tmp.join("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o777)).unwrap();
    chown(&theirs, Some(attacker), None).unwrap();
    symlink(&theirs, &usual).unwrap();
    lchown(&usual, Some(attacker), None).unwrap();
    let (good, errors) = store();
    assert!(!good && errors.contains("belongs to the user 65532"), "{errors}");
    assert_eq!(entries(&theirs), 0);
    fs::remove_file(&usual).unwrap();
    // The victim's own, which its group could have written to.
    fs::create_dir(&usual).unwrap();
    chown(&usual, Some(victim), Some(victim)).unwrap();
    fs::set_permissions(&usual, fs::Permissions::from_mode(0o770)).unwrap();
    let (good, errors) = store();
    assert!(!good && errors.contains("can be written by other users"), "{errors}");
    fs::set_permissions(&usual, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(store(), (true, String::new()));
    assert_eq!(mode(&usual), 0o700);
    fs::remove_dir_all(&usual).unwrap();
    assert_eq!(store(), (true, String::new()));
    assert_eq!(mode(&usual), 0o700);
}
