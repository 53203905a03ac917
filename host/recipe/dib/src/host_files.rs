//! Warns about variables that name files of the host. With the original, every script sees the
//! host. Here a script sees only what `--share` passes in, so a variable that names any other host
//! path would silently have no effect.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::options::Share;

/// Directories that the appliance and the image have too, with equivalent content.
const SYSTEM: [&str; 10] =
    ["/bin", "/boot", "/dev", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr"];
/// The exception in [`SYSTEM`]: host-specific content.
const LOCAL: &str = "/usr/local";
/// Directories that every system has: a variable that names one means the guest's.
const COMMON: [&str; 20] = [
    "/",
    "/etc",
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/srv",
    "/tmp",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/mail",
    "/var/opt",
    "/var/run",
    "/var/spool",
    "/var/tmp",
    "/etc/default",
    "/etc/apt",
];
/// Words in the names of variables whose values are files. For these, relative paths and paths
/// below /etc mean host files too.
const FILE_WORDS: [&str; 20] = [
    "BUNDLE",
    "CA",
    "CACERT",
    "CERT",
    "CERTS",
    "CONF",
    "CONFIG",
    "DIR",
    "DOCKERFILE",
    "FILE",
    "FILES",
    "IMAGE",
    "IMAGES",
    "KEY",
    "KEYRING",
    "KEYS",
    "MANIFEST",
    "REPOS",
    "SCRIPT",
    "SOURCES",
];
/// Variables that vbuild reads itself.
const OWN: [&str; 2] = ["DIB_BLOCK_DEVICE_CONFIG", "ELEMENTS_PATH"];
/// Variables that name host paths in the original but guest paths here, so the user's value is
/// ignored.
const PLACES: [&str; 4] = ["DIB_IMAGE_CACHE", "DIB_LOCKFILES", "DIB_MANIFEST_SAVE_DIR", "TMP_DIR"];

/// The facts about the host that the checks need.
pub(crate) struct Host<'a> {
    /// The directory in which vbuild runs.
    pub(crate) here: &'a Path,
    /// The user's home, for `~`.
    pub(crate) home: Option<&'a Path>,
    /// The files passed in with `--share`.
    pub(crate) shares: &'a [Share],
}

/// Warnings about the user's variables.
pub(crate) fn of_variables(variables: &BTreeMap<String, String>, host: &Host<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (name, value) in variables {
        if PLACES.contains(&name.as_str()) && value.starts_with('/') {
            warnings.push(format!(
                "{name}: `{value}` of this host is not used: scripts have a place of the machine, and \
                 `--drive` keeps it between builds"
            ));
            continue;
        }
        warnings.extend(host.unseen(name, value).iter().map(|path| warning(name, value, path)));
    }
    warnings
}

/// Warnings about variables that files of environment.d set.
pub(crate) fn of_environment(
    assignments: &[(String, String, String)],
    variables: &BTreeMap<String, String>,
    host: &Host<'_>,
) -> Vec<String> {
    let unset = assignments.iter().filter(|(_, name, _)| !variables.contains_key(name));
    unset
        .flat_map(|(file, name, value)| {
            let paths = host.unseen(name, value);
            paths.into_iter().map(move |path| format!("{file}: {}", warning(name, value, &path)))
        })
        .collect()
}

fn warning(name: &str, value: &str, path: &Path) -> String {
    let path = path.display().to_string();
    let same = value == path || value.contains(&format!("file://{path}"));
    let whole = value.split([' ', ',', ':']).any(|part| part == path);
    let absolute = if same || whole { String::new() } else { format!(", and name it as `{path}`") };
    format!(
        "{name} names `{path}` of this host, which no script can see: `--share {path}` shows it to \
         scripts{absolute}"
    )
}

impl Host<'_> {
    /// The host files that a value names and that no script sees.
    fn unseen(&self, name: &str, value: &str) -> Vec<PathBuf> {
        if OWN.contains(&name) {
            return Vec::new();
        }
        let is_file = name.split('_').any(|word| FILE_WORDS.contains(&word));
        let whole = self.path(value, is_file).into_iter().collect::<Vec<_>>();
        let found = match whole.is_empty() {
            false => whole,
            true => {
                let parts = value.split_whitespace().flat_map(|word| word.split([',', ';']));
                let parts = parts.flat_map(|part| match part.contains("://") {
                    true => vec![part],
                    false => part.split([':', '=', '>']).collect(),
                });
                parts.filter_map(|part| self.path(part, is_file)).collect()
            }
        };
        let mut unseen: Vec<PathBuf> =
            found.into_iter().filter(|path| !self.is_shared(path)).collect();
        unseen.dedup();
        unseen
    }

    /// The host path that a text names, if the guest does not have it.
    fn path(&self, text: &str, is_file: bool) -> Option<PathBuf> {
        let text = text.trim().trim_matches(['"', '\'']);
        let text = text.strip_prefix("file://").unwrap_or(text);
        let (path, spelled) = match (text.strip_prefix("~/"), self.home) {
            (Some(below), Some(home)) => (home.join(below), true),
            _ if text.starts_with('/') => (PathBuf::from(text), true),
            _ => (self.here.join(text), text.starts_with("./") || text.starts_with("../")),
        };
        if text.is_empty() || !(spelled || is_file) || !path.is_absolute() {
            return None;
        }
        let path = rooted::plain(&path);
        let below = |directory: &str| path.starts_with(directory);
        let system = SYSTEM.iter().any(|directory| below(directory)) && !path.starts_with(LOCAL);
        let common = COMMON.iter().any(|directory| path == Path::new(directory));
        let etc = path.starts_with("/etc") && !is_file;
        let metadata = path.metadata().ok().filter(|_| !system && !common && !etc)?;
        // A bare word that is also the name of a directory here is taken as a word.
        (spelled || metadata.is_file()).then_some(path)
    }

    /// Whether scripts see a file under its host path.
    fn is_shared(&self, path: &Path) -> bool {
        self.shares.iter().any(|share| {
            let host = rooted::plain(&self.here.join(&share.host));
            let guest = share.guest.as_deref().map_or_else(|| share.host.clone(), PathBuf::from);
            path.starts_with(&host) && guest == host
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Ground {
        folder: tempfile::TempDir,
        shares: Vec<Share>,
    }

    impl Ground {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            for name in ["key.pub", "a b.conf", "word"] {
                fs::write(folder.path().join(name), "x").unwrap();
            }
            fs::create_dir(folder.path().join("repo")).unwrap();
            Self { folder, shares: Vec::new() }
        }

        fn path(&self, name: &str) -> String {
            self.folder.path().join(name).display().to_string()
        }

        fn warnings(&self, name: &str, value: &str) -> Vec<String> {
            let home = self.folder.path();
            let host = Host { here: home, home: Some(home), shares: &self.shares };
            of_variables(&BTreeMap::from([(name.to_owned(), value.to_owned())]), &host)
        }
    }

    #[test]
    fn a_file_that_no_script_sees_is_told_with_its_share() {
        let ground = Ground::new();
        let key = ground.path("key.pub");
        let told = |name: &str, value: &str, path: &str| {
            let warnings = ground.warnings(name, value);
            assert_eq!(warnings.len(), 1, "{name}={value}: {warnings:?}");
            assert!(warnings[0].contains(&format!("`--share {path}`")), "{warnings:?}");
            assert!(warnings[0].starts_with(&format!("{name} names ")), "{warnings:?}");
        };
        told("DIB_DEV_USER_AUTHORIZED_KEYS", &key, &key);
        told("DIB_DEV_USER_AUTHORIZED_KEYS", "~/key.pub", &key);
        told("DIB_DEV_USER_AUTHORIZED_KEYS", "key.pub", &key);
        told("DIB_FAIL2BAN_CONF", &ground.path("a b.conf"), &ground.path("a b.conf"));
        told("DIB_REPOLOCATION_x", &ground.path("repo"), &ground.path("repo"));
        told(
            "DIB_REPOLOCATION_x",
            &format!("file://{}", ground.path("repo")),
            &ground.path("repo"),
        );
        told("DIB_YUM_REPO_CONF", &format!("/nowhere/a.repo {key}"), &key);
        told("DIB_X", "./word", &ground.path("word"));
        told("DIB_APT_SOURCES", "/etc/passwd", "/etc/passwd");
        let relative = &ground.warnings("DIB_LOCAL_IMAGE", "word")[0];
        assert!(
            relative.ends_with(&format!("and name it as `{}`", ground.path("word"))),
            "{relative}"
        );
    }

    #[test]
    fn what_the_guest_has_too_and_what_is_no_file_is_not_told() {
        let ground = Ground::new();
        for (name, value) in [
            ("DIB_DEV_USER_SHELL", "/bin/bash"),
            ("DIB_RELEASE", "word"),
            ("DIB_X", "/etc/passwd"),
            ("DIB_X", "/var/lib"),
            ("DIB_CONF", "/nowhere/at/all"),
            ("DIB_DISTRIBUTION_MIRROR", "http://deb.example/debian"),
            ("DIB_CONF", ""),
            ("DIB_BLOCK_DEVICE_CONFIG", "file:///etc/passwd"),
        ] {
            assert_eq!(ground.warnings(name, value), [""; 0], "{name}={value}");
        }
    }

    #[test]
    fn what_is_shared_under_its_own_name_is_not_told() {
        let mut ground = Ground::new();
        let key = ground.path("key.pub");
        let share = |host: &str, guest: Option<&str>| Share {
            host: host.into(),
            guest: guest.map(str::to_owned),
        };
        let folder = ground.folder.path().display().to_string();
        for fine in [share(&key, None), share(&folder, None), share(&key, Some(&key))] {
            ground.shares = vec![fine];
            assert_eq!(ground.warnings("DIB_KEYS", &key), [""; 0]);
        }
        ground.shares = vec![share(&key, Some("/elsewhere"))];
        assert_eq!(ground.warnings("DIB_KEYS", &key).len(), 1);
    }

    #[test]
    fn places_of_the_host_do_not_count() {
        let warnings = Ground::new().warnings("DIB_IMAGE_CACHE", "/srv/cache");
        assert!(warnings[0].contains("`/srv/cache` of this host is not used"), "{warnings:?}");
    }

    #[test]
    fn files_of_environment_d_are_looked_at_too() {
        let ground = Ground::new();
        let key = ground.path("key.pub");
        let host = Host { here: ground.folder.path(), home: None, shares: &[] };
        let set =
            |value: &str| vec![("10-x of the element e".into(), "DIB_KEYS".into(), value.into())];
        let told = of_environment(&set(&key), &BTreeMap::new(), &host);
        assert!(told[0].starts_with("10-x of the element e: DIB_KEYS names"), "{told:?}");
        let given = BTreeMap::from([("DIB_KEYS".to_owned(), String::new())]);
        assert_eq!(of_environment(&set(&key), &given, &host), [""; 0]);
    }
}
