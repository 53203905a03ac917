//! One build with the probe in every phase, checked in all aspects.

use std::{fs, os::unix::fs::MetadataExt, sync::OnceLock};

use tests::archive::{Member, members};

use super::harness::{Built, Workshop, workshop};

/// The phases in running order.
pub const PHASES: [&str; 10] = [
    "root.d",
    "extra-data.d",
    "pre-install.d",
    "install.d",
    "post-install.d",
    "post-root.d",
    "block-device.d",
    "pre-finalise.d",
    "finalise.d",
    "cleanup.d",
];
const INSIDE: [&str; 4] = ["pre-install.d", "install.d", "post-install.d", "finalise.d"];

struct Everything {
    _workshop: Workshop,
    built: Built,
}

/// The build that most of these tests inspect; done once.
fn everything(test: &str) -> Option<&'static Everything> {
    static BUILT: OnceLock<Option<Everything>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let workshop = workshop("everything")?;
        workshop.write("greeting", "from the host");
        let share = format!("{}:/shared/greeting", workshop.path("greeting").display());
        let arguments = [
            "--name",
            "all",
            "--formats",
            "tar",
            "--extra-packages",
            "one,two",
            "--extra-packages",
            "three",
            "--envvar",
            "GIVEN=first",
            "--envvar",
            "GIVEN=a 'b' \"c\" $d",
            "--envvar",
            "HOME=/somewhere",
            "--envvar",
            "IMAGE_NAME=other",
            "--envvar",
            "NOT_SET_ANYWHERE",
            "--envvar",
            "EMPTY=",
            "--share",
            &share,
            "tiny-os",
            "probe",
            "keepsakes",
        ];
        let built = workshop.build(&arguments);
        Some(Everything { _workshop: workshop, built })
    });
    if built.is_none() {
        println!("skipped {test}: VBUILD_TEST_CACHE names no cache with an appliance");
    }
    built.as_ref()
}

fn tree(everything: &Everything) -> std::collections::BTreeMap<String, Member> {
    members(&everything.built.dir.join("all.tar"))
}

#[test]
fn phases_run_in_order_and_packages_after_install() {
    let Some(all) = everything("phases_run_in_order") else { return };
    let mut phases: Vec<String> = all
        .built
        .scripts()
        .iter()
        .map(|script| script.split('/').next().unwrap().to_owned())
        .collect();
    phases.dedup();
    let mut expected = PHASES.to_vec();
    expected.insert(4, "packages");
    assert_eq!(phases, expected);
    let records = all.built.records("all");
    assert_eq!(records.fact("post-install.d", "packages-before"), "one two three;");
}

#[test]
fn scripts_run_by_number_and_only_those_with_good_names() {
    let Some(all) = everything("scripts_run_by_number") else { return };
    let records = all.built.records("all");
    assert_eq!(records.text("install-order"), "zz\n01-a\n1-b\n5-x\n50-a\n50-b\n100-z\n");
    assert!(!all.built.scripts().iter().any(|script| script.contains("/6")), "60 to 63 are none");
}

#[test]
fn scripts_that_earlier_phases_added_are_run() {
    let Some(all) = everything("scripts_that_earlier_phases_added") else { return };
    assert_eq!(all.built.records("all").text("added"), "root.d\nlink\n");
}

#[test]
fn environment_files_come_in_byte_order_and_anew_in_each_phase() {
    let Some(all) = everything("environment_files") else { return };
    for phase in PHASES {
        let env = all.built.records("all").env(phase);
        assert_eq!(env["PROBE_SOURCED"], "10-first.bash 100-hundred 11-eleven 9-nine.txt ");
        assert_eq!(env["PROBE_COUNT"], "1", "{phase}");
    }
}

#[test]
fn the_install_type_is_known_from_extra_data_on() {
    let Some(all) = everything("the_install_type") else { return };
    let records = all.built.records("all");
    assert!(!records.env("root.d").contains_key("DIB_DEFAULT_INSTALLTYPE"));
    for phase in &PHASES[1..] {
        assert_eq!(records.env(phase)["DIB_DEFAULT_INSTALLTYPE"], "source");
    }
}

#[test]
fn scripts_inside_have_roots_home_and_a_clean_environment() {
    let Some(all) = everything("scripts_inside") else { return };
    let records = all.built.records("all");
    for phase in INSIDE {
        let env = records.env(phase);
        assert_eq!(records.fact(phase, "uid"), "0");
        assert_eq!(records.fact(phase, "cwd"), "/");
        assert_eq!(env["HOME"], "/root");
        assert_eq!(env["LC_ALL"], "C");
        assert!(!env.contains_key("TMPDIR") && !env.contains_key("VIRTUAL_ENV"));
        let path = &env["PATH"];
        for directory in
            ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        {
            assert!(path.split(':').any(|part| part == directory), "{path}");
        }
        assert!(!env.contains_key("TARGET_ROOT"), "{phase}");
    }
}

#[test]
fn syncs_of_scripts_are_not_carried_out() {
    let Some(all) = everything("syncs_of_scripts") else { return };
    let records = all.built.records("all");
    for phase in INSIDE {
        // One filter: mode 2 of seccomp(2). Some versions of sync(1) take no file argument.
        assert_eq!(records.fact(phase, "seccomp"), "2", "{phase}");
    }
    for phase in ["root.d", "cleanup.d"] {
        assert_eq!(records.fact(phase, "sync-null"), "ignored", "{phase}");
    }
}

#[test]
fn scripts_inside_see_the_systems_mounts() {
    let Some(all) = everything("mounts") else { return };
    let records = all.built.records("all");
    for phase in INSIDE {
        let mounts = records.mounts(phase);
        let (kind, options) = &mounts["/proc"];
        assert!(kind == "proc" && options.starts_with("rw"), "{phase}: {mounts:?}");
        assert!(mounts.contains_key("/dev") && mounts["/dev/pts"].0 == "devpts");
        let (kind, options) = &mounts["/sys"];
        assert!(kind == "sysfs" && options.starts_with("ro"), "{phase}: {mounts:?}");
        assert!(mounts["/tmp/in_target.d"].1.starts_with("ro"));
    }
    // The same mounts exist for scripts outside, below the image.
    assert_eq!(records.fact("cleanup.d", "proc"), "mounted");
    assert_eq!(records.fact("cleanup.d", "sys"), "Read-only file system");
}

#[test]
fn mounts_of_root_d_stay_up_to_the_copy() {
    let Some(all) = everything("mounts_of_root_d") else { return };
    let records = all.built.records("all");
    for phase in ["pre-install.d", "install.d", "post-install.d"] {
        assert!(records.mounts(phase).contains_key("/var/cache/shared"), "{phase}");
    }
    assert!(!records.mounts("finalise.d").contains_key("/var/cache/shared"));
    // Files written there are in the cache and not in the image.
    assert!(!tree(all).contains_key("var/cache/shared/kept"));
}

#[test]
fn hooks_are_read_only_inside_and_gone_afterwards() {
    let Some(all) = everything("hooks_are_read_only") else { return };
    let records = all.built.records("all");
    assert!(records.fact("install.d", "read-only").contains("Read-only file system"));
    assert_eq!(records.fact("install.d", "handed-over"), "handed-over");
    assert_eq!(records.fact("pre-finalise.d", "hooks-gone"), "gone");
    assert_eq!(records.fact("cleanup.d", "hooks-gone"), "gone");
    assert!(!tree(all).contains_key("tmp/in_target.d"));
}

#[test]
fn only_named_variables_reach_scripts_and_the_builds_own_win() {
    let Some(all) = everything("variables") else { return };
    for phase in PHASES {
        let env = all.built.records("all").env(phase);
        assert!(!env.contains_key("VBUILD_TEST_SECRET"), "{phase}");
        assert!(!env.contains_key("NOT_SET_ANYWHERE"));
        assert_eq!(env["GIVEN"], "a 'b' \"c\" $d", "the last one wins, as it is");
        assert_eq!(env["EMPTY"], "");
        assert_ne!(env["HOME"], "/somewhere");
        assert_eq!(env["ARCH"], "amd64");
        assert_eq!(env["FS_TYPE"], "ext4");
        assert_eq!(env["IMAGE_NAME"], "all");
        assert_eq!(env["DIB_OFFLINE"], "1", "with --no-network");
    }
}

#[test]
fn every_phase_knows_the_elements_and_the_layout() {
    let Some(all) = everything("elements_and_layout") else { return };
    let records = all.built.records("all");
    for phase in PHASES {
        let env = records.env(phase);
        assert_eq!(env["IMAGE_ELEMENT"], "keepsakes probe tiny-os");
        assert!(env["IMAGE_ELEMENT_YAML"].contains("probe: /build/elements/0/probe\n"));
        assert!(env.contains_key("BASH_FUNC_get_image_element_array%%"));
        assert_eq!(env["DIB_MOUNTPOINTS"], "/");
        assert_eq!(env["DIB_ROOT_FSTYPE"], "ext4");
        assert_eq!(env["DIB_ROOT_LABEL"], "cloudimg-rootfs");
        assert_eq!(env["DIB_PYTHON_EXEC"], "/usr/bin/python3");
        assert!(env.contains_key("DIB_LOCKFILES"));
    }
    assert_eq!(records.fact("extra-data.d", "element-probe"), "found");
    assert_eq!(records.fact("extra-data.d", "die"), "the last words");
    assert!(records.text("extra-data.d.facts").contains("status 1"));
}

#[test]
fn block_devices_are_known_once_there_are_some() {
    let Some(all) = everything("block_devices") else { return };
    let records = all.built.records("all");
    for (number, phase) in PHASES.iter().enumerate() {
        let known = records.env(phase).contains_key("IMAGE_BLOCK_DEVICES");
        assert_eq!(known, number >= 7, "{phase}");
    }
    assert!(records.fact("pre-finalise.d", "devices").starts_with("image0=/dev/"));
    assert_eq!(records.fact("pre-finalise.d", "device-kind"), "block");
    assert_eq!(records.fact("finalise.d", "device-kind"), "block");
    let root = records.env("root.d");
    assert_eq!(root["TARGET_ROOT"], root["TMP_MOUNT_PATH"]);
    assert_eq!(records.env("cleanup.d")["TARGET_ROOT"], root["TARGET_ROOT"]);
}

#[test]
fn sudo_works_outside_in_all_its_forms() {
    let Some(all) = everything("sudo") else { return };
    let records = all.built.records("all");
    for (form, said) in [
        ("sudo-E", "yes"),
        ("sudo-plain", "dropped"),
        ("sudo-u-root", "0"),
        ("sudo-H", "/root"),
        ("sudo-n", "0"),
        ("sudo-variable", "a b"),
        ("sudo-stranger", "1"),
    ] {
        assert_eq!(records.fact("extra-data.d", form), said, "{form}");
    }
}

#[test]
fn programs_of_elements_are_found_and_hide_no_others() {
    let Some(all) = everything("programs_of_elements") else { return };
    for phase in PHASES {
        let said = all.built.records("all").fact(phase, "hooks-bin");
        assert_eq!(said, "tool of the probe", "{phase}");
    }
    // The probe provides a failing `env`; the system's own takes precedence.
    assert_eq!(all.built.records("all").fact("install.d", "bin-overrides"), "1");
}

#[test]
fn shared_files_and_data_of_extra_data_arrive() {
    let Some(all) = everything("shared_files") else { return };
    assert_eq!(all.built.records("all").fact("extra-data.d", "share"), "from the host");
    assert_eq!(tree(all)["from-extra-data"].content, b"extra\n");
}

#[test]
fn files_beside_the_image_belong_to_the_caller() {
    let Some(all) = everything("files_beside_the_image") else { return };
    let manifest = all.built.dir.join("all.d/dib-manifests/probe");
    assert_eq!(fs::read_to_string(&manifest).unwrap(), "of all\n");
    let own = fs::metadata(&all.built.dir).unwrap().uid();
    for path in [manifest, all.built.dir.join("all.tar"), all.built.dir.join("all.d")] {
        assert_eq!(fs::metadata(path).unwrap().uid(), own);
    }
}

#[test]
fn what_is_only_for_the_build_is_cleaned() {
    let Some(all) = everything("cleaning") else { return };
    let tree = tree(all);
    let below =
        |dir: &str| tree.keys().filter(|path| path.starts_with(dir)).cloned().collect::<Vec<_>>();
    assert_eq!(below("tmp/"), Vec::<String>::new());
    for log in ["var/log/some.log", "var/log/sub/other.txt"] {
        assert_eq!(tree[log].content, b"", "{log} is there and empty");
    }
    assert!(!tree.contains_key("root/a.log") && !tree.contains_key("root/sub/b.log"));
    assert_eq!(tree["root/keep.txt"].content, b"x\n");
    assert!(!tree.contains_key("probe-records"));
    assert!(!tree.contains_key("lost+found/of-root.d"), "what root.d lost stays lost");
}

#[test]
fn nothing_of_the_machine_is_in_the_image() {
    let Some(all) = everything("nothing_of_the_machine") else { return };
    let tree = tree(all);
    assert_eq!(tree["etc/resolv.conf"].content, b"# of the operating system\n");
    for path in ["etc/resolv.conf.ORIG", "etc/hostname", "etc/hosts", "helper", "build", ".rw"] {
        assert!(!tree.contains_key(path), "{path}");
    }
    assert_eq!(tree["etc/machine-id"].content, b"");
    for directory in ["dev/", "proc/", "sys/", "run/"] {
        assert!(!tree.keys().any(|path| path.starts_with(directory)), "{directory}");
    }
    assert_eq!(tree["etc/fstab"].content, b"LABEL=cloudimg-rootfs / ext4 defaults 0 1\n");
}

#[test]
fn files_that_are_easily_lost_survive() {
    let Some(all) = everything("keepsakes") else { return };
    let tree = tree(all);
    assert_eq!(tree[".top-level-file"].content, b"top\n");
    assert!(tree.contains_key(".top-level-directory/file"));
    let file = &tree["keep/file"];
    assert_eq!((file.mode & 0o7777, file.owner), (0o640, (1234, 5678)));
    assert_eq!(file.seconds, 981_173_106);
    assert_eq!(file.extensions["SCHILY.xattr.user.colour"], b"light blue");
    let link = &tree["keep/hard-link"];
    assert_eq!(link.kind, tar::EntryType::Link);
    assert!(link.link.as_ref().unwrap().ends_with("keep/file"));
    assert!(tree["keep/capable"].extensions.contains_key("SCHILY.xattr.security.capability"));
    let has_acl = |name: &str, key: &str| tree[name].extensions.keys().any(|k| k.contains(key));
    assert!(has_acl("keep/with-acl", "posix_acl_access") || has_acl("keep/with-acl", "acl.access"));
    assert!(has_acl("keep/setgid", "posix_acl_default") || has_acl("keep/setgid", "acl.default"));
    assert_eq!(tree["keep/setuid"].mode & 0o7777, 0o4755);
    assert_eq!(tree["keep/sticky"].mode & 0o7777, 0o1777);
    assert_eq!(tree["keep/setgid"].mode & 0o7777, 0o2775);
    assert_eq!(tree["keep/null"].device, Some((1, 3)));
    assert_eq!(tree["keep/disk"].device, Some((7, 200)));
    assert_eq!(tree["keep/pipe"].kind, tar::EntryType::Fifo);
    assert_eq!(tree["keep/dangling"].link.as_deref(), Some("/nowhere/at/all"));
    assert_eq!(tree["keep/line\nbreak"].content, b"odd\n");
    assert!(tree.contains_key("keep/ünïcode"));
    assert!(tree.contains_key("keep/a name with  blanks and \"quotes\""));
    // A hole of eight mebibytes takes a block or two.
    let listed = all.built.records("all").text("attributes");
    let blocks = listed.lines().find_map(|line| line.strip_prefix("keep/sparse ")).unwrap();
    assert!(blocks.parse::<u32>().unwrap() < 64, "{blocks}");
}

#[test]
fn names_with_odd_letters_do_not_confuse_anything() {
    let Some(all) = everything("odd names") else { return };
    let sparse = &tree(all)["keep/sparse"];
    let real = sparse.extensions.get("GNU.sparse.realsize");
    let size = real
        .map_or(sparse.content.len(), |size| std::str::from_utf8(size).unwrap().parse().unwrap());
    assert_eq!(size, 8 * 1024 * 1024 + 4);
}

#[test]
fn the_log_has_times_and_a_table_for_each_phase() {
    let Some(all) = everything("the log") else { return };
    for line in all.built.log.lines().filter(|line| !line.is_empty()) {
        let stamp: Vec<char> = line.chars().take(26).collect();
        assert!(stamp[4] == '-' && stamp[10] == ' ' && stamp[19] == '.', "{line}");
        assert_eq!(stamp[23..26], [' ', '|', ' '], "{line}");
    }
    for phase in PHASES {
        assert!(all.built.log.contains(&format!("dib-run-parts Target: {phase}\n")), "{phase}");
    }
    assert!(all.built.log.contains("dib-run-parts 10-tiny-os"));
}

#[test]
fn progress_is_told_as_virt_dib_tells_it() {
    let Some(all) = everything("progress") else { return };
    let line = all.built.stdout.lines().find(|line| line.contains("Running: root.d/50-probe"));
    let line = line.expect(&all.built.stdout);
    let seconds = line.strip_prefix('[').and_then(|rest| rest.split_once(']')).unwrap().0;
    assert!(seconds.len() == 6 && seconds.trim().parse::<f64>().is_ok(), "{line}");
    assert!(all.built.stdout.contains("Expanded elements: keepsakes probe tiny-os"));
    assert!(all.built.stdout.contains("Installing: one two three"));
}
