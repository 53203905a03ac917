//! Builds for arm64 on a host of another architecture. They need QEMU for arm64 and its agent:
//! `sh tests/setup.sh arm64 && sh tests/agent.sh arm64`.

use std::{fs, os::unix::fs::PermissionsExt as _};

use tests::archive::members;

use crate::ground::Ground;

/// Writes what runs the script, and what it is told, into the image. The root of `tiny-os` has no
/// `uname`; its own loader is one of the machine's architecture.
const SCRIPT: &str = "#!/bin/bash\nset -eu\necho \"$HOSTTYPE $ARCH\" >/etc/architecture\n";

fn ground() -> Ground {
    let ground = Ground::new("arm64");
    ground.copy("elements", &ground.at("elements"));
    let script = ground.at("elements/arch/install.d/50-arch");
    fs::create_dir_all(script.parent().unwrap()).unwrap();
    fs::write(&script, SCRIPT).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    ground.give(&ground.at("elements"));
    ground
}

/// What the script wrote in an image for an architecture.
fn architecture(ground: &Ground, arch: &str) -> String {
    let elements = ground.at("elements");
    let words = ["-a", arch, "-p", elements.to_str().unwrap(), "--skip-base", "--no-network"];
    let more =
        ["--mkfs-journal-size", "8", "--formats", "tar", "--name", "image", "tiny-os", "arch"];
    ground.build(&[words.as_slice(), &more].concat());
    let tree = members(&ground.out("image.tar"));
    String::from_utf8_lossy(&tree["etc/architecture"].content).trim().to_owned()
}

#[test]
#[ignore = "slow proof: a minute; needs QEMU for arm64 and its agent"]
fn a_command_runs_in_a_machine_of_arm64() {
    let ground = Ground::new("arm64");
    let ran = ground.ok(&["exec", "-a", "arm64", "--no-network", "--", "uname", "-m"]);
    assert!(ran.said.lines().any(|line| line == "aarch64"), "{}", ran.said);
}

/// One store serves both architectures, and neither gets what the other has made.
#[test]
#[ignore = "slow proof: minutes; needs QEMU for arm64 and its agent"]
fn a_tree_of_one_architecture_never_serves_another() {
    let ground = ground();
    for round in ["built", "from the store"] {
        assert_eq!(architecture(&ground, "arm64"), "aarch64 arm64", "{round}");
        assert_eq!(architecture(&ground, "amd64"), "x86_64 amd64", "{round}");
    }
}
