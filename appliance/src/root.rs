//! Assembles the tools root: merges the packages' files into one tree, with the files that dpkg and
//! some packages would create during installation.

use std::{collections::HashMap, fs::File};

use crate::{
    configure,
    deb::{Deb, Kind, Meta},
    deb822, dpkg_db,
    index::parse_relations,
    kernel::Kernel,
    tree::{Node, NodeId, Tree, TreeError},
};

/// Directories that are links into `/usr`. Only those that a package uses are created.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Files that no script reads: documentation, translations, and files for package builders. They
/// are half of all files and a fifth of all bytes.
const LEFT_OUT: &[&str] = &[
    "usr/share/doc/",
    "usr/share/doc-base/",
    "usr/share/man/",
    "usr/share/info/",
    "usr/share/locale/",
    "usr/share/help/",
    "usr/share/lintian/",
    "usr/share/linda/",
    "usr/share/bug/",
    "usr/share/menu/",
    "usr/share/gtk-doc/",
    "usr/share/gdb/",
    "usr/share/bash-completion/",
    "usr/share/zsh/",
    "usr/share/fish/",
    "usr/share/icons/",
    "usr/share/pixmaps/",
    "usr/share/applications/",
    "usr/share/metainfo/",
    "usr/share/gitweb/",
    "usr/share/git-core/contrib/",
    "usr/share/GConf/",
    "usr/lib/debug/",
    "usr/games/",
    "usr/share/games/",
];

/// The output of `pam-auth-update` for the only profile, `unix`. sudo and su read these files; root
/// needs no password for either.
const PAM: &[(&str, &str)] = &[
    (
        "common-auth",
        "auth\t[success=1 default=ignore]\tpam_unix.so nullok\nauth\trequisite\tpam_deny.so\nauth\trequired\tpam_permit.so\n",
    ),
    (
        "common-account",
        "account\t[success=1 new_authtok_reqd=done default=ignore]\tpam_unix.so\naccount\trequisite\tpam_deny.so\naccount\trequired\tpam_permit.so\n",
    ),
    (
        "common-password",
        "password\t[success=1 default=ignore]\tpam_unix.so obscure yescrypt\npassword\trequisite\tpam_deny.so\npassword\trequired\tpam_permit.so\n",
    ),
    (
        "common-session",
        "session\t[default=1]\tpam_permit.so\nsession\trequisite\tpam_deny.so\nsession\trequired\tpam_permit.so\nsession\trequired\tpam_unix.so\n",
    ),
    (
        "common-session-noninteractive",
        "session\t[default=1]\tpam_permit.so\nsession\trequisite\tpam_deny.so\nsession\trequired\tpam_permit.so\nsession\trequired\tpam_unix.so\n",
    ),
];

/// An error while assembling the tools root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A file cannot be placed.
    #[error("the package `{package}` does not fit")]
    Place {
        /// The package.
        package: String,
        /// The cause.
        #[source]
        source: TreeError,
    },
    /// Two packages contain the same file, and neither replaces the other.
    #[error("the packages `{first}` and `{second}` both have the file `{path}`")]
    Overwrite {
        /// The first package.
        first: String,
        /// The second package.
        second: String,
        /// The path of the file.
        path: String,
    },
    /// A file of vbuild itself cannot be placed.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The content of a file cannot be read back.
    #[error("cannot read `{path}` of an unpacked package")]
    Read {
        /// The path of the file in the package, or its name if that is unique.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// Whether a file of a package is kept. Directories that become empty are kept, since scripts check
/// for some of them.
#[must_use]
pub(crate) fn wanted(path: &str) -> bool {
    !LEFT_OUT.iter().any(|prefix| path.starts_with(prefix))
}

/// A package with its contents; packages are in configuration order.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// The name of the package.
    pub name: String,
    /// The contents of the package.
    pub deb: Deb,
}

/// Merges packages and kernel modules into a tools root.
///
/// # Errors
/// Fails if packages conflict, or if contents cannot be read back.
pub(crate) fn assemble(
    packages: &[Unpacked],
    kernel_deb: &Deb,
    kernel: &Kernel,
    spools: &[File],
) -> Result<Tree, RootError> {
    let mut tree = Tree::new();
    let debs = packages.iter().map(|package| &package.deb).chain([kernel_deb]);
    merge_usr(&mut tree, debs)?;
    merge_packages(&mut tree, packages)?;
    for entry in kernel_deb.entries.iter().filter(|e| kernel.tool_root_paths.contains(&e.path)) {
        tree.add(entry)?;
    }
    let mut installed = Vec::with_capacity(packages.len());
    for package in packages {
        let conffiles = conffile_digests(&tree, &package.deb, spools)?;
        installed.push(dpkg_db::Installed { name: &package.name, deb: &package.deb, conffiles });
    }
    dpkg_db::write(&mut tree, &installed)?;
    write_certificates(&mut tree, spools)?;
    write_system_files(&mut tree)?;
    let pairs: Vec<(&str, &Deb)> =
        packages.iter().map(|package| (package.name.as_str(), &package.deb)).collect();
    configure::prepare(&mut tree, &pairs, &kernel.version)?;
    Ok(tree)
}

/// Creates `/bin` and the like as links into `/usr` before any package is added.
fn merge_usr<'a>(
    tree: &mut Tree,
    debs: impl Iterator<Item = &'a Deb> + Clone,
) -> Result<(), TreeError> {
    for name in MERGED {
        let prefix = format!("{name}/");
        let used = debs.clone().flat_map(|deb| &deb.paths).any(|path| {
            path == name || path.starts_with(&prefix) || path.strip_prefix("usr/") == Some(*name)
        });
        if used {
            tree.directory(&format!("usr/{name}"))?;
            tree.symlink(name, &format!("usr/{name}"))?;
        }
    }
    Ok(())
}

fn merge_packages(tree: &mut Tree, packages: &[Unpacked]) -> Result<(), RootError> {
    let mut owners: HashMap<NodeId, usize> = HashMap::new();
    for (number, package) in packages.iter().enumerate() {
        for entry in &package.deb.entries {
            if let Some(there) = tree.lookup(&entry.path, false)
                && let Some(&owner) = owners.get(&there)
                && owner != number
                && !matches!(entry.kind, Kind::Directory)
                && !matches!(tree.node(there).0, Node::Directory(_))
            {
                let first = &packages[owner];
                if replaces(&first.deb, &package.name) {
                    continue;
                }
                let same_link = match (&entry.kind, tree.node(there).0) {
                    (Kind::Symlink(new), Node::Symlink(old)) => new == old,
                    _ => false,
                };
                if !same_link && !replaces(&package.deb, &first.name) {
                    return Err(RootError::Overwrite {
                        first: first.name.clone(),
                        second: package.name.clone(),
                        path: entry.path.clone(),
                    });
                }
            }
            let id = tree
                .add(entry)
                .map_err(|source| RootError::Place { package: package.name.clone(), source })?;
            if !matches!(entry.kind, Kind::Directory) {
                owners.insert(id, number);
            }
        }
    }
    Ok(())
}

/// Whether a package declares that it replaces files of another one.
fn replaces(deb: &Deb, other: &str) -> bool {
    let control = deb.control.get("control").map(Vec::as_slice).unwrap_or_default();
    let paragraph =
        deb822::Reader::new(control).next_paragraph().ok().flatten().unwrap_or_default();
    let field = paragraph.get("Replaces").unwrap_or_default();
    parse_relations(field).into_iter().flatten().any(|relation| relation.name == other)
}

fn conffile_digests(
    tree: &Tree,
    deb: &Deb,
    spools: &[File],
) -> Result<Vec<(String, String)>, RootError> {
    let mut digests = Vec::new();
    for path in dpkg_db::conffiles(deb) {
        let Some(Node::File(content)) = tree.lookup(path, true).map(|id| tree.node(id).0) else {
            continue;
        };
        let bytes = content
            .read(spools)
            .map_err(|source| RootError::Read { path: path.to_owned(), source })?;
        digests.push((path.to_owned(), dpkg_db::conffile_digest(&bytes)));
    }
    Ok(digests)
}

/// Does the work of `update-ca-certificates`, except for the hash links: they need OpenSSL, and a
/// thousand processes would be started for them.
fn write_certificates(tree: &mut Tree, spools: &[File]) -> Result<(), RootError> {
    const STORE: &str = "usr/share/ca-certificates";
    let folders: Vec<String> = tree.names(STORE).map(|(name, _)| name.to_owned()).collect();
    let (mut conf, mut bundle) = (String::new(), Vec::new());
    for folder in folders {
        let files: Vec<(String, NodeId)> = tree
            .names(&format!("{STORE}/{folder}"))
            .filter(|(name, _)| name.ends_with(".crt"))
            .map(|(name, id)| (name.to_owned(), id))
            .collect();
        for (name, id) in files {
            let Node::File(content) = tree.node(id).0 else { continue };
            let mut bytes = content
                .read(spools)
                .map_err(|source| RootError::Read { path: name.clone(), source })?;
            if bytes.last() != Some(&b'\n') {
                bytes.push(b'\n');
            }
            bundle.extend(bytes);
            let entry = format!("{folder}/{name}");
            conf.push_str(&entry);
            conf.push('\n');
            // The file names that the script uses: without spaces, brackets or commas.
            let stem = name.trim_end_matches(".crt");
            let stem: String = stem
                .chars()
                .filter(|c| !matches!(c, '(' | ')'))
                .map(|c| {
                    if c == ' ' {
                        '_'
                    } else if c == ',' {
                        '='
                    } else {
                        c
                    }
                })
                .collect();
            tree.symlink(&format!("etc/ssl/certs/{stem}.pem"), &format!("/{STORE}/{entry}"))?;
        }
    }
    if !bundle.is_empty() {
        tree.write("etc/ca-certificates.conf", 0o644, conf)?;
        tree.write("etc/ssl/certs/ca-certificates.crt", 0o644, bundle)?;
        tree.put(
            "usr/local/share/ca-certificates",
            Node::Directory(std::collections::BTreeMap::new()),
            Meta::root(0o755),
        )?;
    }
    Ok(())
}

/// Writes files that are created by scripts which are not run, and files that identify this system.
fn write_system_files(tree: &mut Tree) -> Result<(), TreeError> {
    if tree.lookup("usr/share/zoneinfo/Etc/UTC", true).is_some() {
        tree.symlink("etc/localtime", "/usr/share/zoneinfo/Etc/UTC")?;
        tree.write("etc/timezone", 0o644, "Etc/UTC\n")?;
    }
    for (name, text) in PAM {
        tree.write(&format!("etc/pam.d/{name}"), 0o644, *text)?;
    }
    tree.write("etc/hostname", 0o644, "vbuild\n")?;
    tree.write("etc/fstab", 0o644, "# The agent mounts everything.\n")?;
    tree.write("etc/resolv.conf", 0o644, "")?;
    // apt in the tools root asks no questions and downloads no translations.
    tree.write(
        "etc/apt/apt.conf.d/90vbuild",
        0o644,
        "APT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\nAPT::Sandbox::User \"root\";\n",
    )?;
    for folder in ["dev", "proc", "sys", "run", "mnt", "tmp", "var/tmp"] {
        tree.directory(folder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deb::{Content, Entry};

    fn unpacked(name: &str, control: &str, files: &[(&str, &str)]) -> Unpacked {
        let mut deb = Deb::default();
        let control = format!("Package: {name}\nVersion: 1\nArchitecture: all\n{control}");
        deb.control.insert("control".to_owned(), control.into_bytes());
        for (path, text) in files {
            deb.paths.push((*path).to_owned());
            let kind = Kind::File(Content::Bytes(text.as_bytes().to_vec()));
            deb.entries.push(Entry { path: (*path).to_owned(), kind, meta: Meta::root(0o644) });
        }
        Unpacked { name: name.to_owned(), deb }
    }

    #[test]
    fn usr_is_merged() {
        let packages = [unpacked("a", "", &[("bin/sh", "1"), ("usr/bin/env", "2")])];
        let mut tree = Tree::new();
        merge_usr(&mut tree, packages.iter().map(|package| &package.deb)).unwrap();
        merge_packages(&mut tree, &packages).unwrap();
        assert!(tree.lookup("usr/bin/sh", false).is_some());
        assert!(tree.lookup("lib64", false).is_none());
    }

    #[test]
    fn overwriting_needs_permission() {
        let first = || unpacked("a", "", &[("usr/x", "1")]);
        let mut tree = Tree::new();
        let error = merge_packages(&mut tree, &[first(), unpacked("b", "", &[("usr/x", "2")])]);
        assert_eq!(
            error.unwrap_err().to_string(),
            "the packages `a` and `b` both have the file `usr/x`"
        );
        let mut tree = Tree::new();
        let second = unpacked("b", "Replaces: a (<< 2)\n", &[("usr/x", "2")]);
        merge_packages(&mut tree, &[first(), second]).unwrap();
        let id = tree.lookup("usr/x", false).unwrap();
        assert_eq!(tree.node(id).0, &Node::File(Content::Bytes(b"2".to_vec())));
    }

    #[test]
    fn certificates_become_a_bundle() {
        let store = "usr/share/ca-certificates/mozilla";
        let files = [(format!("{store}/A B,(C).crt"), "one"), (format!("{store}/Z.crt"), "two\n")];
        let files: Vec<(&str, &str)> =
            files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let packages = [unpacked("ca-certificates", "", &files)];
        let mut tree = Tree::new();
        merge_packages(&mut tree, &packages).unwrap();
        write_certificates(&mut tree, &[]).unwrap();
        let bundle = tree.lookup("etc/ssl/certs/ca-certificates.crt", true).unwrap();
        assert_eq!(tree.node(bundle).0, &Node::File(Content::Bytes(b"one\ntwo\n".to_vec())));
        assert!(tree.lookup("etc/ssl/certs/A_B=C.pem", true).is_some());
    }

    #[test]
    fn documentation_is_left_out() {
        assert!(!wanted("usr/share/doc/x/copyright"));
        assert!(wanted("usr/share/perl5/x.pm"));
    }
}
