//! Prepares the configuration in the first-stage microVM as files in the tools root: a driver
//! script, the order of the maintainer scripts, and stand-ins that make the scripts fast.
//!
//! dpkg itself is not run. Its database is written in its final state, and only those maintainer
//! scripts are run that have an effect on a new installation: under TCG every process costs
//! milliseconds, and most scripts only handle upgrades or running systems.

use std::collections::BTreeMap;

use crate::{
    deb::Deb,
    deb822, dpkg_db,
    parts_digest::PartsDigest,
    tree::{Tree, TreeError},
};

/// The path of the driver script in the tools root, which the first stage executes.
pub(crate) const SCRIPT: &str = "/var/lib/vbuild/configure";
/// The directory of the driver and its files, which the driver removes at the end.
const FOLDER: &str = "var/lib/vbuild";
/// The version of the code around the driver, increased when its results change. The driver's text
/// and tables need no version, as they are part of an appliance's digest.
pub(crate) const VERSION: u32 = 1;

const DRIVER: &str = include_str!("../guest/configure.sh");
const WARM: &str = include_str!("../guest/warm.py");
const CONFMODULE: &str = include_str!("../guest/confmodule.sh");
/// Path of debconf's shell library.
const CONFMODULE_PATH: &str = "usr/share/debconf/confmodule";

/// Programs that are replaced by no-ops while the scripts run: they act on a running system, or
/// create files that a tools root does not need. `ldconfig` runs once at the end.
const STUBS: &[&str] = &[
    "deb-systemd-helper",
    "deb-systemd-invoke",
    "install-info",
    "invoke-rc.d",
    "ldconfig",
    "mandb",
    "py3clean",
    "py3compile",
    "pycompile",
    "service",
    "start-stop-daemon",
    "systemctl",
    "systemd-hwdb",
    "systemd-tmpfiles",
    "telinit",
    "udevadm",
    "update-grub",
    "update-grub2",
    "update-initramfs",
    "update-rc.d",
    "vgcfgbackup",
];

/// Groups in udev's rules. udev's own script creates them with Perl, one process each, and then
/// compiles a hardware database for half a minute.
const UDEV_GROUPS: &str = "input:x:990:\nsgx:x:991:\nkvm:x:992:\nrender:x:993:\n";

/// Script fragments of debhelper without effect on a new installation without an init system. A
/// script that contains only these is not run.
const INERT_PARTS: &[&str] = &[
    "dh_installdeb",
    "dh_installinit",
    "dh_installmenu",
    "dh_installsystemd",
    "dh_installsystemduser",
    "dh_installtmpfiles",
    "dh_python3",
    "dh_systemd_enable",
    "dh_systemd_start",
    "dh_installudev",
    "dh_installinitramfs",
    "dh_makeshlibs",
];

/// Maintainer scripts that are not run, in addition to those detected as having no effect.
const SKIPPED: &[(&str, &str)] = &[
    // These only update files of an earlier version.
    ("base-passwd", "postinst"),
    ("libc6", "preinst"),
    ("libc6", "postinst"),
    ("libpam0g", "postinst"),
    ("adduser", "preinst"),
    ("bsdextrautils", "preinst"),
    ("e2fsprogs", "preinst"),
    ("git", "preinst"),
    ("less", "preinst"),
    ("libpam-modules", "preinst"),
    ("lvm2", "preinst"),
    ("lvm2", "postinst"),
    ("python3", "preinst"),
    ("sudo", "preinst"),
    ("usrmerge", "preinst"),
    ("usrmerge", "postinst"),
    ("debian-archive-keyring", "postinst"),
    ("debconf", "postinst"),
    ("dpkg", "postinst"),
    ("init-system-helpers", "postinst"),
    // Moves a diversion of earlier releases; the link is in the package.
    ("dash", "postinst"),
    // These are done on the host, where it is fast; see `root`.
    ("ca-certificates", "postinst"),
    ("tzdata", "postinst"),
    ("libpam-runtime", "postinst"),
    ("udev", "postinst"),
    // These byte-compile the whole Python library.
    ("python3", "postinst"),
    ("python3-minimal", "postinst"),
    ("python3-distutils", "postinst"),
    ("python3-lib2to3", "postinst"),
];

/// Whether a package belongs to the Python core; these have versioned names.
fn is_python_core(package: &str) -> bool {
    let rest = package.strip_prefix("lib").unwrap_or(package);
    rest.strip_prefix("python3.").is_some_and(|rest| {
        let version = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        matches!(version, "" | "-minimal" | "-stdlib")
    })
}

/// Whether a maintainer script has any effect.
fn is_needed(package: &str, kind: &str, script: &[u8]) -> bool {
    if SKIPPED.contains(&(package, kind)) || is_python_core(package) {
        return false;
    }
    let Ok(text) = std::str::from_utf8(script) else { return true };
    let mut inside_inert = false;
    for line in text.lines().map(str::trim) {
        if let Some(by) = line.strip_prefix("# Automatically added by ") {
            let tool = by.split('/').next().unwrap_or_default();
            inside_inert = INERT_PARTS.contains(&tool);
        } else if line == "# End automatically added section" {
            inside_inert = false;
        } else if !inside_inert && !line.is_empty() && !line.starts_with('#') {
            let idle = matches!(line, "set -e" | "set -eu" | "exit 0" | ":");
            if !idle {
                return true;
            }
        }
    }
    false
}

/// Returns the scripts to run, in order: package and file name.
fn scripts<'a>(packages: &[(&'a str, &Deb)]) -> Vec<(&'a str, String)> {
    let mut scripts = Vec::new();
    let mut collect = |kind: &str, wanted: &dyn Fn(&str) -> bool| {
        for (name, deb) in packages.iter().filter(|(name, _)| wanted(name)) {
            let Some(script) = deb.control.get(kind) else { continue };
            if is_needed(name, kind, script) {
                scripts.push((*name, format!("{}.{kind}", dpkg_db::info_name(name, deb))));
            }
        }
    };
    // Accounts first: every other script may need them.
    collect("preinst", &|name| name == "base-passwd");
    collect("preinst", &|name| name != "base-passwd");
    collect("postinst", &|_| true);
    scripts
}

/// Returns a digest of all inputs that determine how a tools root is configured.
pub(crate) fn fingerprint() -> String {
    let mut digest = PartsDigest::default();
    digest.part(&VERSION.to_string()).part(DRIVER).part(WARM).part(CONFMODULE).part(UDEV_GROUPS);
    for word in STUBS.iter().chain(INERT_PARTS) {
        digest.part(word);
    }
    for (package, kind) in SKIPPED {
        digest.part(package).part(kind);
    }
    digest.finish()
}

/// Adds the driver and its files to the tree. The packages are in configuration order; the tree
/// already contains their files.
///
/// # Errors
/// Fails if a file cannot be placed in the tree.
pub(crate) fn prepare(
    tree: &mut Tree,
    packages: &[(&str, &Deb)],
    kernel_version: &str,
) -> Result<(), TreeError> {
    let scripts = scripts(packages);
    let mut list = String::new();
    for (index, (package, script)) in scripts.iter().enumerate() {
        let line = format!("{} {} {package} {script}\n", index + 1, scripts.len());
        list.push_str(&line);
    }
    tree.write(SCRIPT, 0o755, DRIVER)?;
    tree.write(&format!("{FOLDER}/warm.py"), 0o644, WARM)?;
    tree.write(&format!("{FOLDER}/scripts"), 0o644, list)?;
    tree.write(&format!("{FOLDER}/kernel"), 0o644, format!("{kernel_version}\n"))?;
    if packages.iter().any(|(name, _)| *name == "udev") {
        tree.write(&format!("{FOLDER}/groups"), 0o644, UDEV_GROUPS)?;
    }
    for stub in STUBS {
        tree.symlink(&format!("{FOLDER}/stubs/{stub}"), "/usr/bin/true")?;
    }
    if tree.lookup(CONFMODULE_PATH, false).is_some() {
        tree.rename(CONFMODULE_PATH, &format!("{FOLDER}/confmodule"))?;
        tree.write(CONFMODULE_PATH, 0o755, confmodule(packages))?;
    }
    Ok(())
}

/// Returns the replacement of debconf's shell library, which gives the default answers to all
/// questions.
fn confmodule(packages: &[(&str, &Deb)]) -> String {
    let mut answers = BTreeMap::new();
    for (_, deb) in packages {
        let templates = deb.control.get("templates").map(Vec::as_slice).unwrap_or_default();
        let mut reader = deb822::Reader::new(templates);
        while let Ok(Some(template)) = reader.next_paragraph() {
            if let Some(name) = template.get("Template") {
                let default = template.get("Default").unwrap_or_default().to_owned();
                answers.insert(name.to_owned(), default);
            }
        }
    }
    let cases: Vec<String> = answers
        .iter()
        .filter(|(name, _)| {
            name.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.+".contains(&b))
        })
        .map(|(name, answer)| format!("        {name}) RET={} ;;", quote(answer)))
        .collect();
    CONFMODULE.replace("@ANSWERS@", &cases.join("\n"))
}

/// Quotes a word for the shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A line of the driver's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// A step begins.
    Step {
        /// The number of the step; 0 for closing steps.
        number: usize,
        /// The total number of steps.
        total: usize,
        /// The package, or the action of the closing step.
        name: &'a str,
    },
    /// A step failed.
    Failed {
        /// The package or the closing step.
        name: &'a str,
        /// The exit status of the failed step, as the driver printed it.
        status: &'a str,
    },
    /// The tools root is complete.
    Done,
    /// Output of a script.
    Output(&'a str),
}

/// Parses a line of the driver's output.
#[must_use]
pub(crate) fn parse_line(line: &str) -> Line<'_> {
    let mut words = line.split(' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some("vbuild-step"), Some(number), Some(total), Some(name)) => {
            let (number, total) = (number.parse().unwrap_or(0), total.parse().unwrap_or(0));
            Line::Step { number, total, name }
        }
        (Some("vbuild-failed"), Some(name), Some(status), None) => Line::Failed { name, status },
        (Some("vbuild-done"), None, ..) => Line::Done,
        _ => Line::Output(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inert_scripts_are_seen() {
        let inert = "#!/bin/sh\nset -e\n\n# Automatically added by dh_python3\nif which py3compile; then\n\tpy3compile -p x\nfi\n# End automatically added section\nexit 0\n";
        assert!(!is_needed("x", "postinst", inert.as_bytes()));
        let alternatives = inert.replace("dh_python3", "dh_installalternatives/13");
        assert!(is_needed("x", "postinst", alternatives.as_bytes()));
        let own = format!("{inert}\nupdate-alternatives --install a b c 1\n");
        assert!(is_needed("x", "postinst", own.as_bytes()));
        assert!(!is_needed("python3.11-minimal", "postinst", own.as_bytes()));
        assert!(is_needed("python3-foo", "postinst", own.as_bytes()));
    }

    #[test]
    fn accounts_come_first() {
        let deb = |files: &[&str]| {
            let mut deb = Deb::default();
            for file in files {
                deb.control.insert((*file).to_owned(), b"#!/bin/sh\nreal work\n".to_vec());
            }
            deb
        };
        let (a, b) = (deb(&["preinst", "postinst"]), deb(&["preinst", "postinst"]));
        let found = scripts(&[("a", &a), ("base-passwd", &b)]);
        let names: Vec<&str> = found.iter().map(|(_, script)| script.as_str()).collect();
        assert_eq!(names, ["base-passwd.preinst", "a.preinst", "a.postinst"]);
    }

    #[test]
    fn answers_of_questions() {
        let mut deb = Deb::default();
        let templates =
            "Template: a/b\nType: string\nDefault: it's\n\nTemplate: a/$(c)\nType: note\n";
        deb.control.insert("templates".to_owned(), templates.as_bytes().to_vec());
        let text = confmodule(&[("a", &deb)]);
        assert!(text.contains(r"        a/b) RET='it'\''s' ;;"), "{text}");
        assert!(!text.contains("$(c)"));
    }

    #[test]
    fn lines_of_the_driver() {
        let step = Line::Step { number: 3, total: 9, name: "sudo" };
        assert_eq!(parse_line("vbuild-step 3 9 sudo"), step);
        assert_eq!(parse_line("vbuild-failed sudo 2"), Line::Failed { name: "sudo", status: "2" });
        assert_eq!(parse_line("vbuild-done"), Line::Done);
        assert_eq!(parse_line("hello vbuild-done"), Line::Output("hello vbuild-done"));
    }

    #[test]
    fn the_driver_is_a_shell_script() {
        for script in [DRIVER, &confmodule(&[])] {
            let status = std::process::Command::new("sh").args(["-n", "-c", script]).status();
            match status {
                Ok(status) => assert!(status.success()),
                Err(error) => println!("skipped: sh cannot be run ({error})"),
            }
        }
    }
}
