//! A project of layers with `nocache` and `noshare`, changed and built again with other
//! caches: checks which layers run, which are skipped, and which are shared.

use std::{fs, os::unix::fs::symlink};

use tests::accelerator;

use crate::ground::{Ground, Ran};

/// A project based on the image of its own spec.
struct Project {
    ground: Ground,
    accelerator: String,
}

impl Project {
    fn new() -> Self {
        let ground = Ground::new("layers");
        ground.ok(&["appliance", "build", "--accel", &accelerator()]);
        let _ = fs::remove_dir_all(ground.out("project"));
        ground.copy("layers/project", &ground.out("project"));
        for user in ["one", "two"] {
            let _ = fs::remove_dir_all(ground.out(user));
            fs::create_dir(ground.out(user)).unwrap();
            // Only the appliance is shared: each has its own store and base images.
            for part in ["appliance", "agent"] {
                if ground.cache().join(part).exists() {
                    let link = ground.out(user).join(part);
                    symlink(ground.cache().join(part), link).unwrap();
                }
            }
            ground.give(&ground.out(user));
        }
        let project = Self { ground, accelerator: accelerator() };
        let spec = ["vmdb", "project/base.vmdb", "--output", "base.raw", "--cache-dir", "one"];
        project.ground.build(&spec);
        project
    }

    fn words<'a>(&'a self, user: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let mut words = vec!["layers", "project", "--cache-dir", user, "--base", "base.raw"];
        words.extend(["--accel", &self.accelerator]);
        words.extend(more);
        words
    }

    #[track_caller]
    fn build(&self, user: &str, more: &[&str]) -> Ran {
        self.ground.ok(&self.words(user, more))
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.ground.out(path);
        fs::write(&path, text).unwrap();
        self.ground.give(&path);
    }
}

/// The layers that ran, in order.
fn layers(ran: &Ran) -> Vec<&str> {
    let mut layers: Vec<_> = ran
        .said
        .lines()
        .filter_map(|line| line.split_once("Running: ")?.1.split_once('/'))
        .map(|(layer, _)| layer)
        .collect();
    layers.dedup();
    layers
}

const SHARED: [&str; 3] = ["--remote-cache", "shared", "--remote-unsigned"];

#[test]
#[ignore = "slow proof: two minutes"]
fn what_changed_runs_and_what_may_be_shared_is() {
    let project = Project::new();
    let ground = &project.ground;
    let first = project.build("one", &SHARED);
    assert_eq!(layers(&first), ["05_resize", "10_base", "20_app", "30_last"]);
    let result = fs::read_link(ground.out("project/build/image.qcow2")).unwrap();
    assert_eq!(result.to_str(), Some("30_last.qcow2"));
    assert!(ground.out("shared/v1/stages").is_dir(), "nothing was shared");
    let (last, copy) = ("project/build/30_last.qcow2", "project/build/first.qcow2");
    fs::copy(ground.out(last), ground.out(copy)).unwrap();
    ground.give(&ground.out(copy));

    let again = project.build("one", &SHARED);
    assert_eq!(layers(&again), ["30_last"], "a layer that is kept runs no more, nocache does");
    let other = project.build("two", &SHARED);
    assert!(!layers(&other).contains(&"10_base"), "a shared layer is fetched");
    assert!(layers(&other).contains(&"20_app"), "noshare is not shared");

    let flat = ["--last", "20_app", "--flatten", "-o", "flat.qcow2"];
    project.write("project/20_app/more", "changed\n");
    assert_eq!(layers(&project.build("one", &flat)), ["20_app"]);
    fs::remove_file(ground.out("project/20_app/more")).unwrap();
    assert!(layers(&project.build("one", &flat)).is_empty(), "going back finds the old layer");
    compared(ground, copy);
    a_push_that_fails(&project);
}

/// A copy of an overlay is refused, since vbuild did not create it, until the user allows its
/// backing file.
fn compared(ground: &Ground, copy: &str) {
    let accel = accelerator();
    let words =
        ["layers", "compare-layers", "--exit-code", "flat.qcow2", copy, "--cache-dir", "one"];
    let mut words = words.to_vec();
    words.extend(["--accel", &accel]);
    let refused = ground.run(&words);
    assert!(refused.status.code() > Some(1), "{}", refused.said);
    assert!(refused.says("--allow-backing="), "{}", refused.said);
    let base = format!("--allow-backing={}", ground.out("base.raw").display());
    words.push(&base);
    let found = ground.run(&words);
    assert_eq!(found.status.code(), Some(1), "{}", found.said);
    let differences =
        |line: &&str| line.strip_prefix("  ").is_some_and(|rest| rest.starts_with(['-', '+', '~']));
    let differences: Vec<_> = found.said.lines().filter(differences).collect();
    let only = |line: &&str| line.starts_with("  + /etc/built-last ");
    assert!(differences.len() == 1 && differences.iter().all(only), "{differences:?}");
}

/// A failed push is an error, and no results are lost.
fn a_push_that_fails(project: &Project) {
    let ground = &project.ground;
    let folders = ["shared/v1/stages", "shared/v1/objects"];
    let permit = |mode: u32| {
        for folder in folders {
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(ground.out(folder), permissions).unwrap();
        }
    };
    project.write("project/10_base/data", "again\n");
    permit(0o555);
    let failed = ground.run(&project.words("one", &SHARED));
    permit(0o755);
    assert!(!failed.status.success(), "{}", failed.said);
    assert!(failed.says("results are kept in your own cache"), "{}", failed.said);
    assert!(!layers(&project.build("one", &[])).contains(&"10_base"), "the result is kept");
}
