//! Tests of lowering projects to plans.

use std::collections::BTreeMap;

use plan::{Digest, StageKey, Surroundings};

use super::*;
use crate::project::{
    read,
    tests::{project, read_own, sources},
};

fn base() -> DiskBase {
    let sha256 = Digest::of(b"base");
    DiskBase { path: "/cache/base.raw".into(), offset: 0, bytes: 10 << 20, sha256 }
}

fn lowered(folder: &Path, size: Option<u64>, last: Option<&str>) -> Plan {
    let project = read_own(folder).unwrap();
    let file = File {
        format: "qcow2".into(),
        path: "/out/image.qcow2".into(),
        is_of_tree: false,
        container: None,
    };
    let target = Target { files: vec![file], compress: true, options: None, checksums: Vec::new() };
    let layers = project.up_to(last).unwrap();
    let request = Request { base: base(), size, root: None, layers, target };
    let Lowered { plan, warnings } = lower(&project, &request).unwrap();
    assert_eq!(warnings, [""; 0]);
    assert_eq!(plan::check(&plan), []);
    plan
}

fn three() -> tempfile::TempDir {
    project(&[
        ("05_resize/modify-disk", "#!/bin/sh\nqemu-img create -b $1 $2 20M\n"),
        ("10_base/build-layer", "#!/bin/sh\n# noshare\n"),
        ("10_base/file", "data"),
        ("20_app/build-layer", "#!/bin/sh\n# nocache\n# chroot-bind-mount ../shared /srv/shared\n"),
        ("shared/a", "1"),
        ("vbuild.yaml", "timeout: 5m\ntimeouts:\n  20_app: 1h\n"),
    ])
}

#[test]
fn a_layer_is_a_stage_or_two() {
    let folder = three();
    let plan = lowered(folder.path(), None, None);
    let stages: Vec<_> = plan
        .stages
        .iter()
        .map(|stage| (stage.name.as_str(), stage.keep, stage.timeout_s, stage.network))
        .collect();
    assert_eq!(
        stages,
        [
            ("base", Keep::Shared, None, false),
            ("places", Keep::Shared, None, false),
            ("05_resize", Keep::Disks, Some(300), true),
            ("10_base", Keep::Local, Some(300), true),
            ("20_app (binds)", Keep::No, None, false),
            ("20_app", Keep::No, Some(3600), true),
            ("finish", Keep::Shared, None, false),
        ]
    );
    assert_eq!(plan.disks[1].size, DiskSize::Bytes(20 << 20), "as modify-disk says");
    let bound: Vec<_> = plan.stages[5].context.binds.iter().map(|b| b.to.as_str()).collect();
    assert_eq!(
        bound,
        ["/build/root/mnt", "/build/root/tmp", "/build/root/dev/shm", "/build/root/srv/shared"]
    );
    let uploads: Vec<_> = plan.stages[4].steps.iter().map(Step::title).collect();
    assert_eq!(uploads, ["change files", "upload what 20_app binds", "make mount points"]);
}

#[test]
fn a_declared_size_grows_disk_and_root() {
    let folder = three();
    let has_grow =
        |plan: &Plan| plan.stages[0].steps.iter().any(|step| matches!(step, Step::GrowRoot { .. }));
    assert!(!has_grow(&lowered(folder.path(), None, None)));
    let grown = lowered(folder.path(), Some(64 << 20), None);
    assert!(has_grow(&grown));
    assert_eq!(grown.disks[1].size, DiskSize::Bytes(64 << 20));
    let one = lowered(folder.path(), Some(1 << 20), Some("10_base"));
    assert_eq!(one.disks[1].size, DiskSize::Bytes(20 << 20), "the largest counts");
    assert_eq!(one.stages.last().unwrap().name, "finish");
    assert_eq!(one.stages.len(), 5);
}

fn keys(plan: &Plan) -> BTreeMap<String, StageKey> {
    let surroundings = Surroundings {
        salt: plan::Salt::PUBLIC,
        appliance: Digest::of(b"appliance"),
        network: true,
        certificates: None,
        seed: None,
    };
    let keys = StageKey::of_plan(plan, &surroundings);
    plan.stages.iter().map(|stage| stage.name.clone()).zip(keys).collect()
}

#[test]
fn switching_branches_hits_old_layers() {
    let (one, two) = (three(), three());
    let keys_of = |folder: &Path| keys(&lowered(folder, None, None));
    let before = keys_of(one.path());
    // The keys do not depend on the path of the checkout or on file times.
    assert_eq!(before, keys_of(two.path()));
    std::fs::write(two.path().join("10_base/file"), "changed").unwrap();
    let after = keys_of(two.path());
    assert_eq!(before["05_resize"], after["05_resize"]);
    assert_ne!(before["10_base"], after["10_base"]);
    assert_ne!(before["finish"], after["finish"]);
    std::fs::write(two.path().join("10_base/file"), "data").unwrap();
    assert_eq!(before, keys_of(two.path()));
    // A mode and an earlier new layer change the keys; a later new layer does not.
    let script = two.path().join("20_app/build-layer");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let after = keys_of(two.path());
    assert_eq!(before["10_base"], after["10_base"]);
    assert_ne!(before["20_app"], after["20_app"]);
    let only = keys(&lowered(one.path(), None, Some("10_base")));
    assert_eq!(only["10_base"], before["10_base"], "--last uses what a whole build has made");
    std::fs::write(one.path().join("shared/a"), "2").unwrap();
    let after = keys_of(one.path());
    assert_eq!(before["10_base"], after["10_base"]);
    assert_ne!(before["20_app"], after["20_app"], "what is bound could have been read");
}

#[test]
fn a_limit_is_no_input() {
    let (one, two) = (three(), three());
    std::fs::write(two.path().join("vbuild.yaml"), "timeout: 6m\n").unwrap();
    assert_eq!(keys(&lowered(one.path(), None, None)), keys(&lowered(two.path(), None, None)));
}

#[test]
fn modify_disk_runs_with_its_three_arguments() {
    let folder = three();
    let plan = lowered(folder.path(), None, None);
    let runs: Vec<_> = plan.stages[2]
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Run(run) => Some(run),
            _ => None,
        })
        .collect();
    let words = ["/build/layer/modify-disk", "before.qcow2", "05_resize.qcow2", "/dev/loop7"];
    assert_eq!(runs[0].argv, words.map(Value::from));
    assert!(runs[0].env.contains(&("VBUILD_DISK".into(), Value::Fact("device.disk".into()))));
    assert_eq!(plan.stages[2].context, Context::default());
}

#[test]
fn an_image_can_be_described() {
    let plan = inspect("a", base(), None, Path::new("/to"));
    assert_eq!(plan::check(&plan), []);
    assert!(plan.outputs.images.is_empty());
}

/// The uploads of a stage: kind by path.
fn uploaded(plan: &Plan, stage: &str) -> BTreeMap<String, UploadKind> {
    let stage = plan.stages.iter().find(|known| known.name == stage).unwrap();
    let entries = stage.steps.iter().flat_map(Step::uploads).flat_map(|upload| &upload.entries);
    entries.map(|entry| (entry.path.to_string(), entry.kind.clone())).collect()
}

#[test]
fn a_layers_files_travel_as_they_are() {
    use std::os::unix::{ffi::OsStrExt, fs::symlink, net::UnixListener};
    let folder = project(&[("10_a/build-layer", "#!/bin/sh\n"), ("10_a/data/file", "x")]);
    let at = |path: &str| folder.path().join("10_a").join(path);
    let links = [
        ("/etc/passwd", "passwd"),
        ("/proc/self/environ", "data/env"),
        ("..", "data/up"),
        (".", "self"),
        ("loop", "loop"),
        ("nowhere", "gone"),
        ("/dev/null", "null"),
    ];
    for (target, link) in links {
        symlink(target, at(link)).unwrap();
    }
    let latin = std::ffi::OsStr::from_bytes(b"caf\xe9");
    std::fs::write(folder.path().join("10_a").join(latin), "x").unwrap();
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let found = uploaded(&lowered(folder.path(), None, None), "10_a");
    for (target, link) in links {
        assert_eq!(found[link], UploadKind::Symlink(target.into()), "{link}");
    }
    assert!(matches!(found["caf\\xe9"], UploadKind::File { .. }), "{found:?}");
    assert_eq!(found["pipe"], UploadKind::Fifo(0o600));
    // A socket has no meaning in the guest, and gives a warning.
    let _socket = UnixListener::bind(at("socket")).unwrap();
    let project = read_own(folder.path()).unwrap();
    let file =
        File { format: "qcow2".into(), path: "/out".into(), is_of_tree: false, container: None };
    let target = Target { files: vec![file], compress: true, options: None, checksums: Vec::new() };
    let layers = &project.layers[..];
    let request = Request { base: base(), size: None, root: None, layers, target };
    let warnings = lower(&project, &request).unwrap().warnings;
    assert!(warnings[0].contains("10_a/socket` is a socket"), "{warnings:?}");
}

#[test]
fn a_bind_shows_the_projects_files_and_others_by_permission_only() {
    use std::os::unix::fs::symlink;
    let secrets = tempfile::tempdir().unwrap();
    std::fs::write(secrets.path().join("id"), "secret").unwrap();
    let script = |from: &str| format!("#!/bin/sh\n# chroot-bind-mount {from} /srv\n");
    let id = secrets.path().join("id").display().to_string();
    for from in [id.as_str(), "../../../../../../../../etc/passwd", "link"] {
        let text = script(from);
        let folder = project(&[("10_a/build-layer", &text)]);
        symlink(secrets.path().join("id"), folder.path().join("10_a/link")).unwrap();
        let file = File {
            format: "qcow2".into(),
            path: "/out".into(),
            is_of_tree: false,
            container: None,
        };
        let target =
            Target { files: vec![file], compress: true, options: None, checksums: Vec::new() };
        let try_lower = |sources: Sources| {
            let project = read(folder.path(), sources).unwrap();
            let layers = &project.layers[..];
            let target = target.clone();
            lower(&project, &Request { base: base(), size: None, root: None, layers, target })
        };
        let error = try_lower(sources(folder.path())).unwrap_err();
        assert!(matches!(error, SourceError::Outside { .. }), "{from}: {error}");
        assert!(error.hint().unwrap().contains("--allow-host-path"), "{error}");
        let mut allowed = sources(folder.path());
        allowed.allowed = vec![secrets.path().to_owned(), "/etc/passwd".into()];
        let plan = try_lower(allowed).unwrap().plan;
        assert!(matches!(uploaded(&plan, "10_a (binds)")["0"], UploadKind::File { .. }));
    }
}
