//! Hints for failures in the machine. They are found by the error messages of tools, and name the
//! option of vbuild that helps.

use std::collections::BTreeSet;

use engine::EngineError;
use plan::{NodeKind, Place, Plan};

/// Programs and the Debian packages that contain them. A program that is not listed is assumed to
/// be in a package of the same name.
const PACKAGES: &[(&str, &str)] = &[
    ("docker", "docker.io"),
    ("makepkg", "makepkg"),
    ("mcopy", "mtools"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("mkfs.exfat", "exfatprogs"),
    ("mkfs.f2fs", "f2fs-tools"),
    ("mkfs.jfs", "jfsutils"),
    ("mkfs.nilfs2", "nilfs-tools"),
    ("mkfs.ntfs", "ntfs-3g"),
    ("mkfs.reiserfs", "reiserfsprogs"),
    ("mkfs.udf", "udftools"),
    ("mkfs.xfs", "xfsprogs"),
    ("mksquashfs", "squashfs-tools"),
    ("pacman", "pacman-package-manager"),
    ("pip", "python3-pip"),
    ("pip3", "python3-pip"),
    ("qemu-img", "qemu-utils"),
    ("qemu-nbd", "qemu-utils"),
    ("sgdisk", "gdisk"),
    ("ssh", "openssh-client"),
    ("unsquashfs", "squashfs-tools"),
    ("virtualenv", "python3-virtualenv"),
];

/// Phases of elements in which the disk of the image is mounted.
const ON_THE_DISK: [&str; 3] = ["pre-finalise.d", "finalise.d", "cleanup.d"];

/// Returns hints for a failed build.
pub(crate) fn hints(plan: &Plan, error: &EngineError) -> Vec<String> {
    let elements = plan.recipe == dib::RECIPE;
    let mut hints = Vec::new();
    match error {
        EngineError::Script { phase, place, tail, .. } => {
            if *place == Place::Tools {
                let missing: BTreeSet<&str> =
                    tail.iter().filter_map(|line| missing_program(line)).collect();
                hints.extend(missing.into_iter().map(of_program));
            }
            let full = tail.iter().any(|line| is_full(line));
            if full && elements && ON_THE_DISK.contains(&phase.as_str()) {
                hints.push(LARGER.to_owned());
            }
        }
        EngineError::Tool { stderr, .. } if elements => {
            let lower = stderr.to_lowercase();
            if lower.contains("journal") {
                hints.push(SMALLER_JOURNAL.to_owned());
            }
            let small =
                ["too small", "smaller than", "insufficient free space", "insufficient suitable"];
            if stderr.lines().any(is_full)
                || lower.contains("journal size too big")
                || small.iter().any(|words| lower.contains(words))
            {
                hints.push(LARGER.to_owned());
            }
        }
        EngineError::Table(engine::TableError::Full { .. }) if elements => {
            hints.push(LARGER.to_owned());
        }
        _ => {}
    }
    hints
}

/// The element that has images built by a container engine, and the variable that names it.
const CONTAINERFILE: (&str, &str) = ("containerfile", "DIB_CONTAINERFILE_RUNTIME");

/// Returns a warning if the appliance lacks the container engine that elements for container images
/// run. It is known before the build.
pub(crate) fn missing_engine(
    elements: &[String],
    variables: &[(String, String)],
    packages: &[String],
) -> Option<String> {
    let (element, variable) = CONTAINERFILE;
    let named = variables.iter().rev().find(|(name, value)| name == variable && !value.is_empty());
    let engine = named.map_or("podman", |(_, engine)| engine.as_str());
    let package = package_of(engine);
    let wanted = elements.iter().any(|name| name == element);
    (wanted && !packages.iter().any(|name| name == package))
        .then(|| format!("the element {element} runs `{engine}`: {}", of_program(engine)))
}

/// Types of filesystems whose mkfs program is in the appliance.
const FILESYSTEMS: [&str; 12] = [
    "bfs", "btrfs", "cramfs", "ext2", "ext3", "ext4", "fat", "minix", "msdos", "swap", "vfat",
    "xfs",
];

/// Finds a filesystem of the plan whose mkfs program is not in the appliance. Returns the error and
/// a hint.
pub(crate) fn missing_mkfs(plan: &Plan, packages: &[String]) -> Option<(String, String)> {
    let mut filesystems = plan.nodes().filter_map(|node| match &node.kind {
        NodeKind::Filesystem(filesystem) => Some((&node.name, &filesystem.fstype)),
        _ => None,
    });
    let (name, program, package) = filesystems.find_map(|(name, fstype)| {
        let program = format!("mkfs.{fstype}");
        let package = known_package(&program);
        // It is not known which programs are in other packages, so any of them may have it.
        let added = match package {
            Some(package) => packages.iter().any(|added| added == package),
            None => !packages.is_empty(),
        };
        (!added && !FILESYSTEMS.contains(&fstype.as_str())).then_some((name, program, package))
    })?;
    let package = package.unwrap_or("PACKAGE");
    Some((
        format!("the filesystem `{name}` needs `{program}`, which is not in the appliance"),
        format!("`--appliance-package {package}` adds the Debian package that has it"),
    ))
}

fn known_package(program: &str) -> Option<&'static str> {
    PACKAGES.iter().find(|(name, _)| *name == program).map(|(_, package)| *package)
}

fn package_of(program: &str) -> &str {
    known_package(program).unwrap_or(program)
}

/// The hint for a disk that is too small for its content.
const LARGER: &str = "`--size` (or `--image-size`, DIB_IMAGE_SIZE) makes the disk larger; `--image-extra-size` \
                      adds to the size that is computed";
/// The hint for a journal that does not fit.
const SMALLER_JOURNAL: &str = "`--mkfs-journal-size MIB` (or DIB_JOURNAL_SIZE) makes the journal smaller, which is \
                               64 MiB otherwise";

fn is_full(line: &str) -> bool {
    line.contains("No space left on device")
}

fn of_program(program: &str) -> String {
    let package = package_of(program);
    format!(
        "`{program}` is not in the appliance, in which this script runs; `--appliance-package {package}` adds \
         the Debian package {package}"
    )
}

/// Returns the program that a shell, env, sudo or Python reports as missing in this line.
fn missing_program(line: &str) -> Option<&str> {
    let line = line.trim_end();
    let before =
        [": command not found", ": not found"].iter().find_map(|end| line.strip_suffix(end));
    let name = match before {
        Some(before) => before.rsplit(": ").next()?,
        None => {
            let env = line
                .strip_prefix("env: ")
                .and_then(|l| l.strip_suffix(": No such file or directory"));
            env.or_else(|| line.split_once("No such file or directory: ").map(|(_, name)| name))?
        }
    };
    let name = name.trim_matches(['\'', '"', '‘', '’', '`', ' ']);
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    (!name.is_empty() && name.chars().all(fine) && !name.starts_with('-')).then_some(name)
}

#[cfg(test)]
mod tests {
    use wire::ExitStatus;

    use super::*;

    #[test]
    fn programs_that_are_not_there() {
        for line in [
            "/build/hooks/root.d/08-x: line 20: podman: command not found",
            "sudo: podman: command not found",
            "sh: 1: podman: not found",
            "env: ‘podman’: No such file or directory",
            "FileNotFoundError: [Errno 2] No such file or directory: 'podman'",
        ] {
            assert_eq!(missing_program(line), Some("podman"), "{line}");
        }
        for line in
            ["Error 404: Not Found", "ls: cannot access '/x': No such file or directory", "x"]
        {
            assert_eq!(missing_program(line), None, "{line}");
        }
    }

    #[test]
    fn the_engine_of_container_elements_is_told_before_the_build() {
        let elements = ["base".to_owned(), "containerfile".to_owned()];
        let warning = missing_engine(&elements, &[], &[]).unwrap();
        assert!(warning.contains("`--appliance-package podman`"), "{warning}");
        let docker = [("DIB_CONTAINERFILE_RUNTIME".to_owned(), "docker".to_owned())];
        let warning = missing_engine(&elements, &docker, &["podman".to_owned()]).unwrap();
        assert!(warning.contains("`--appliance-package docker.io`"), "{warning}");
        assert_eq!(missing_engine(&elements, &[], &["podman".to_owned()]), None);
        assert_eq!(missing_engine(&elements[..1], &[], &[]), None);
    }

    fn plan(recipe: &str) -> Plan {
        Plan {
            format_version: plan::FORMAT_VERSION,
            name: "p".into(),
            recipe: recipe.into(),
            architecture: plan::Architecture::Amd64,
            disks: Vec::new(),
            stages: Vec::new(),
            outputs: plan::Outputs {
                images: Vec::new(),
                checksums: Vec::new(),
                overwrite: true,
                epoch: None,
            },
            helper_at: plan::GuestPath::new("/helper").unwrap(),
        }
    }

    fn script(phase: &str, place: Place, line: &str) -> EngineError {
        EngineError::Script {
            phase: phase.into(),
            script: "50-x".into(),
            origin: None,
            place,
            status: ExitStatus::Code(127),
            timeout: None,
            tail: vec![line.into()],
        }
    }

    #[test]
    fn the_option_that_helps_is_named() {
        let hints = |error: &EngineError| hints(&plan("dib"), error).join("\n");
        let missing = "x: line 1: docker: command not found";
        assert!(
            hints(&script("root.d", Place::Tools, missing))
                .contains("--appliance-package docker.io")
        );
        assert_eq!(hints(&script("install.d", Place::Image, missing)), "");
        let full = "cp: error writing 'x': No space left on device";
        assert!(hints(&script("finalise.d", Place::Image, full)).contains("--size"));
        assert_eq!(hints(&script("install.d", Place::Image, full)), "");
        let tool = |stderr: &str| EngineError::Tool {
            argv: "t".into(),
            status: ExitStatus::Code(1),
            stderr: stderr.into(),
        };
        assert!(hints(&tool(full)).contains("--image-extra-size"));
        let journal = hints(&tool("mke2fs: Journal size too big for filesystem."));
        assert!(journal.contains("--mkfs-journal-size") && journal.contains("--size"), "{journal}");
        assert_eq!(super::hints(&plan("vmdb"), &tool(full)), [""; 0]);
    }
}
