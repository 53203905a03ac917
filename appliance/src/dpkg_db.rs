//! Writes dpkg's database of the tools root as dpkg would: installed packages, their files, and
//! trigger interests. With it, apt, dpkg and maintainer scripts get correct answers.

use std::collections::BTreeMap;

use md5::{Digest, Md5};

use crate::{
    deb::Deb,
    deb822,
    tree::{Tree, TreeError},
};

/// The directory of dpkg's database.
const ADMIN_DIR: &str = "var/lib/dpkg";

/// A package to record as installed.
#[derive(Debug)]
pub(crate) struct Installed<'a> {
    /// The name of the package.
    pub name: &'a str,
    /// The contents of the package.
    pub deb: &'a Deb,
    /// The MD5 digest of each existing configuration file, by path.
    pub conffiles: Vec<(String, String)>,
}

/// Returns the MD5 digest that dpkg records for a configuration file. It only shows whether the
/// administrator changed the file; no trust depends on it.
#[must_use]
pub(crate) fn conffile_digest(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

/// Returns the paths of a package's configuration files.
pub(crate) fn conffiles(deb: &Deb) -> impl Iterator<Item = &str> {
    lines(deb, "conffiles")
        // A line may begin with a flag: `remove-on-upgrade /etc/x`.
        .filter_map(|line| line.split_ascii_whitespace().next_back())
        .map(|path| path.trim_start_matches('/'))
}

fn lines<'a>(deb: &'a Deb, file: &str) -> impl Iterator<Item = &'a str> {
    deb.control
        .get(file)
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .unwrap_or_default()
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Returns the name prefix of a package's files in the database. It includes the architecture for
/// packages that can be installed for several.
#[must_use]
pub(crate) fn info_name(name: &str, deb: &Deb) -> String {
    let control = deb.control.get("control").map(Vec::as_slice).unwrap_or_default();
    let paragraph =
        deb822::Reader::new(control).next_paragraph().ok().flatten().unwrap_or_default();
    match (paragraph.get("Multi-Arch"), paragraph.get("Architecture")) {
        (Some("same"), Some(architecture)) => format!("{name}:{architecture}"),
        _ => name.to_owned(),
    }
}

/// Writes the database into the tree.
///
/// # Errors
/// Fails if a file cannot be placed in the tree.
pub(crate) fn write(tree: &mut Tree, packages: &[Installed<'_>]) -> Result<(), TreeError> {
    let mut status = String::new();
    let mut triggers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages {
        let info = info_name(package.name, package.deb);
        for (file, bytes) in &package.deb.control {
            if file == "control" {
                continue;
            }
            let script =
                matches!(file.as_str(), "preinst" | "postinst" | "prerm" | "postrm" | "config");
            let mode = if script { 0o755 } else { 0o644 };
            tree.write(&format!("{ADMIN_DIR}/info/{info}.{file}"), mode, bytes.clone())?;
        }
        let mut list = String::new();
        for path in &package.deb.paths {
            list.push('/');
            list.push_str(if path.is_empty() { "." } else { path });
            list.push('\n');
        }
        tree.write(&format!("{ADMIN_DIR}/info/{info}.list"), 0o644, list)?;
        status.push_str(&stanza(package));
        for line in lines(package.deb, "triggers") {
            if let Some((kind, trigger)) = line.split_once(char::is_whitespace)
                && kind.starts_with("interest")
            {
                let suffix = if kind.ends_with("-noawait") { "/noawait" } else { "" };
                let interested = triggers.entry(trigger.trim().to_owned()).or_default();
                interested.push(format!("{}{suffix}", package.name));
            }
        }
    }
    tree.write(&format!("{ADMIN_DIR}/status"), 0o644, status)?;
    tree.write(&format!("{ADMIN_DIR}/info/format"), 0o644, "1\n")?;
    for empty in ["available", "diversions", "statoverride", "triggers/Unincorp"] {
        tree.write(&format!("{ADMIN_DIR}/{empty}"), 0o644, "")?;
    }
    for directory in ["updates", "alternatives", "parts"] {
        tree.directory(&format!("{ADMIN_DIR}/{directory}"))?;
    }
    write_triggers(tree, &triggers)
}

/// Writes the interests in path triggers to one file, and those in each named trigger to a file of
/// its own.
fn write_triggers(
    tree: &mut Tree,
    triggers: &BTreeMap<String, Vec<String>>,
) -> Result<(), TreeError> {
    let mut file_triggers = String::new();
    for (trigger, packages) in triggers {
        if trigger.starts_with('/') {
            for package in packages {
                file_triggers.push_str(trigger);
                file_triggers.push(' ');
                file_triggers.push_str(package);
                file_triggers.push('\n');
            }
        } else if !trigger.contains('/') {
            let text = packages.join("\n") + "\n";
            tree.write(&format!("{ADMIN_DIR}/triggers/{trigger}"), 0o644, text)?;
        }
    }
    tree.write(&format!("{ADMIN_DIR}/triggers/File"), 0o644, file_triggers)
}

/// Returns a package's paragraph in the status file: its control file, with the status after the
/// name and the digests of configuration files at the end.
fn stanza(package: &Installed<'_>) -> String {
    let control = package.deb.control.get("control").map(Vec::as_slice).unwrap_or_default();
    let control = String::from_utf8_lossy(control);
    let mut stanza = String::with_capacity(control.len() + 64);
    for line in control.lines().filter(|line| !line.trim().is_empty()) {
        stanza.push_str(line);
        stanza.push('\n');
        if line.starts_with("Package:") {
            stanza.push_str("Status: install ok installed\n");
        }
    }
    if !package.conffiles.is_empty() {
        stanza.push_str("Conffiles:\n");
        for (path, digest) in &package.conffiles {
            stanza.push_str(&[" /", path, " ", digest, "\n"].concat());
        }
    }
    stanza.push('\n');
    stanza
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{deb::Content, tree::Node};

    fn text(tree: &Tree, path: &str) -> String {
        let id = tree.lookup(path, true).unwrap_or_else(|| panic!("no {path}"));
        let Node::File(Content::Bytes(bytes)) = tree.node(id).0 else { panic!("{path}") };
        String::from_utf8(bytes.clone()).unwrap()
    }

    #[test]
    fn a_package_is_recorded() {
        let mut deb = Deb::default();
        let control =
            "Package: lib\nVersion: 1\nArchitecture: amd64\nMulti-Arch: same\nDescription: x\n y\n";
        for (file, bytes) in [
            ("control", control),
            ("postinst", "#!/bin/sh\n"),
            ("conffiles", "/etc/lib.conf\n"),
            ("triggers", "# c\ninterest-noawait /usr/lib/x\ninterest named\nactivate ldconfig\n"),
        ] {
            deb.control.insert(file.to_owned(), bytes.as_bytes().to_vec());
        }
        deb.paths = vec![String::new(), "etc".to_owned(), "etc/lib.conf".to_owned()];
        assert_eq!(conffiles(&deb).collect::<Vec<_>>(), ["etc/lib.conf"]);
        let conffiles = vec![("etc/lib.conf".to_owned(), conffile_digest(b""))];
        let mut tree = Tree::new();
        write(&mut tree, &[Installed { name: "lib", deb: &deb, conffiles }]).unwrap();
        let admin = |file: &str| text(&tree, &format!("{ADMIN_DIR}/{file}"));
        assert_eq!(
            admin("status"),
            "Package: lib\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\nMulti-Arch: same\nDescription: x\n y\nConffiles:\n /etc/lib.conf d41d8cd98f00b204e9800998ecf8427e\n\n"
        );
        assert_eq!(admin("info/lib:amd64.list"), "/.\n/etc\n/etc/lib.conf\n");
        assert_eq!(admin("info/lib:amd64.postinst"), "#!/bin/sh\n");
        assert_eq!(admin("triggers/File"), "/usr/lib/x lib/noawait\n");
        assert_eq!(admin("triggers/named"), "lib\n");
    }
}
