//! Unmodified elements of diskimage-builder, on the minimal operating system of these tests.
//! Scripts that need Python or a package manager inside are excluded.

use std::fs;

use tests::archive::members;

use super::harness::{Workshop, has_program, host, workshop};

/// Scripts that run inside, where there is no Python.
const INSIDE: [&str; 6] = [
    "10-package-installs",
    "01-package-installs",
    "00-package-installs",
    "99-package-uninstalls",
    "95-package-uninstalls",
    "01-install-bin",
];

fn arguments<'a>(own: &[&'a str]) -> Vec<&'a str> {
    let left_out = INSIDE.iter().flat_map(|script| ["--exclude-script", *script]);
    own.iter().copied().chain(left_out).collect()
}

#[test]
fn package_installs_of_the_real_release() {
    let Some(shop) = workshop("package-installs") else { return };
    let own = [
        "--name",
        "p",
        "--formats",
        "tar",
        "--envvar",
        "PROBE_WHEN=yes",
        "--envvar",
        "DIB_PYTHON_VERSION=3",
        "--install-type",
        "package",
        "tiny-os",
        "packages",
    ];
    shop.build(&arguments(&own));
    let text = fs::read_to_string(shop.path("p.d/records/package-installs.json")).unwrap();
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    let names = |phase: &str, action: &str| -> Vec<String> {
        let list = all[phase][action].as_array().cloned().unwrap_or_default();
        let mut names: Vec<String> =
            list.iter().map(|entry| entry[0].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names("pre-install.d", "install"), ["early"]);
    assert_eq!(names("post-install.d", "install"), ["late"]);
    let installed = names("install.d", "install");
    for name in [
        "plain",
        "only-for-the-build",
        "of-packages",
        "of-this-arch",
        "of-two-archs",
        "of-this-python",
        "when-equal",
        "when-both",
        "twice",
        "wanted-elsewhere",
    ] {
        assert!(installed.iter().any(|other| other == name), "{name} in {installed:?}");
    }
    for name in [
        "of-sources",
        "of-another-arch",
        "of-archs-with-a-blank",
        "not-of-this-arch",
        "of-another-python",
        "when-unequal",
    ] {
        assert!(!installed.iter().any(|other| other == name), "{name} in {installed:?}");
    }
    assert_eq!(names("install.d", "uninstall"), ["only-for-the-build", "unwanted"]);

    let built = shop.run(&arguments(&["--name", "p", "--formats", "tar", "tiny-os", "packages"]));
    assert_eq!(built.status, Some(1), "extra-data.d ends with the script's status");
    assert!(built.stderr.contains("PROBE_WHEN"), "{}", built.stderr);
}

/// Files on the host that are passed to scripts with `--share`.
fn sources(shop: &Workshop) {
    let make = "mkdir repository && cd repository && git -c init.defaultBranch=master init -q && \
                echo of the repository > file && git add file && \
                git -c user.name=t -c user.email=t@t commit -q -m one && cd .. && \
                mkdir a && echo of the archive > a/member && tar czf archive.tgz a && \
                echo a greeting > greeting";
    host("sh", &["-ec", make], shop.dir.path());
}

#[test]
fn source_repositories_of_the_real_release() {
    let Some(shop) = workshop("source-repositories") else { return };
    if !has_program("source-repositories", "git") {
        return;
    }
    sources(&shop);
    let shares: Vec<String> = ["repository", "archive.tgz", "greeting"]
        .iter()
        .map(|name| format!("{}:/shared/{name}", shop.path(name).display()))
        .collect();
    let mut own = vec!["--name", "s", "--formats", "tar"];
    for share in &shares {
        own.extend(["--share", share]);
    }
    own.extend(["tiny-os", "sources"]);
    shop.build(&arguments(&own));
    let tree = members(&shop.path("s.tar"));
    assert_eq!(tree["opt/probe-git/file"].content, b"of the repository\n");
    assert!(tree.contains_key("opt/probe-tar/a/member"));
    assert_eq!(tree["opt/probe-file/name"].content, b"a greeting\n");
    let manifest = fs::read_to_string(shop.path("s.d/dib-manifests/dib-manifest-git-s")).unwrap();
    assert!(manifest.starts_with("probe-git git /opt/probe-git"), "{manifest}");
    own.push("sources-too");
    let built = shop.run(&arguments(&own));
    assert_eq!(built.status, Some(1), "two repositories for one place");
    assert!(built.stderr.contains("REPOLOCATIONS don't match"), "{}", built.stderr);
}
