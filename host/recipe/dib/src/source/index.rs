//! Finds the package index and the URL of a file on it: parses pip's configuration and the "simple"
//! index page.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::World;

/// pip's default index.
fn public_index() -> String {
    format!("https://{}.{}/simple", ["py", "pi"].concat(), "org")
}

/// The relevant part of pip's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PipConfiguration {
    /// The URL of the index, without a trailing slash.
    pub(crate) index: String,
    /// Directories with packages, which are searched first.
    pub(crate) links: Vec<PathBuf>,
}

/// Reads pip's variables and files. A variable overrides the files of the virtual environment, the
/// user and the system, in this order.
pub(crate) fn pip_configuration<E: Fn(&str) -> Option<String>>(
    world: &World<'_, E>,
) -> PipConfiguration {
    let files: Vec<String> =
        files(world).iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    let setting = |variable: &str, key: &str| {
        (world.env)(variable)
            .filter(|value| !value.trim().is_empty())
            .or_else(|| files.iter().find_map(|text| ini_value(text, key)))
    };
    let index = setting("PIP_INDEX_URL", "index-url").unwrap_or_else(public_index);
    let links = setting("PIP_FIND_LINKS", "find-links").unwrap_or_default();
    PipConfiguration {
        index: index.trim().trim_end_matches('/').to_owned(),
        links: links
            .split_whitespace()
            .map(|link| link.strip_prefix("file://").unwrap_or(link))
            .filter(|link| link.starts_with('/'))
            .map(PathBuf::from)
            .collect(),
    }
}

fn files<E: Fn(&str) -> Option<String>>(world: &World<'_, E>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let env = |name| (world.env)(name).map(PathBuf::from);
    files.extend(env("PIP_CONFIG_FILE"));
    files.extend(env("VIRTUAL_ENV").map(|venv| venv.join("pip.conf")));
    let home = env("HOME");
    let config = env("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
    files.extend(config.map(|config| config.join("pip/pip.conf")));
    files.extend(home.map(|home| home.join(".pip/pip.conf")));
    files.extend(["etc/pip.conf", "etc/xdg/pip/pip.conf"].map(|path| world.root.join(path)));
    files
}

/// The value of a key in the sections that concern downloads. Lines that begin with whitespace
/// continue the previous value.
fn ini_value(text: &str, key: &str) -> Option<String> {
    let mut section = "";
    let mut found: Option<String> = None;
    let mut inside = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with([' ', '\t']) {
            if let Some(value) = found.as_mut().filter(|_| inside) {
                value.push(' ');
                value.push_str(trimmed);
            }
            continue;
        }
        inside = false;
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.trim();
        } else if let Some((name, value)) = trimmed.split_once(['=', ':'])
            && matches!(section, "global" | "install" | "download")
            && name.trim().replace('_', "-") == key
        {
            found = Some(value.trim().to_owned());
            inside = true;
        }
    }
    found
}

/// The URL of a file on an index page, without its fragment.
pub(crate) fn file_link(page_url: &str, page: &str, file_name: &str) -> Option<String> {
    page.split("href=").skip(1).find_map(|rest| {
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let link = rest[1..].split(quote).next()?.replace("&amp;", "&");
        let link = link.split('#').next().unwrap_or_default();
        let path = link.split('?').next().unwrap_or_default();
        (path.rsplit('/').next() == Some(file_name)).then(|| join(page_url, link))
    })
}

/// Resolves a link relative to the URL of its page.
fn join(base: &str, link: &str) -> String {
    if link.contains("://") {
        return link.to_owned();
    }
    let (scheme, rest) = base.split_once("://").unwrap_or(("https", base));
    if let Some(rest) = link.strip_prefix("//") {
        return format!("{scheme}://{rest}");
    }
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if link.starts_with('/') {
        return format!("{scheme}://{host}{link}");
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    format!("{scheme}://{host}/{}", parts.join("/"))
}

/// A package file in one of the directories that pip searches.
pub(crate) fn local_file(configuration: &PipConfiguration, file_name: &str) -> Option<PathBuf> {
    configuration.links.iter().map(|link| link.join(file_name)).find(|path: &PathBuf| {
        let path: &Path = path;
        path.is_file()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(env: &[(&str, &str)], files: &[(&str, &str)]) -> PipConfiguration {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let home = root.path().join("home").display().to_string();
        pip_configuration(&World {
            cache: root.path(),
            root: root.path(),
            env: |name: &str| match name {
                "HOME" => Some(home.clone()),
                _ => env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()),
            },
        })
    }

    #[test]
    fn pips_settings_in_pips_order() {
        assert_eq!(configuration(&[], &[]).index, public_index());
        let system = ("etc/pip.conf", "[global]\nindex-url = https://system.example/simple/\n");
        let user = (
            "home/.config/pip/pip.conf",
            "# mine\n[install]\nno-deps = 1\nindex_url: https://user.example/simple\n",
        );
        assert_eq!(configuration(&[], &[system]).index, "https://system.example/simple");
        assert_eq!(configuration(&[], &[system, user]).index, "https://user.example/simple");
        assert_eq!(
            configuration(&[("PIP_INDEX_URL", "https://env.example/s")], &[system, user]).index,
            "https://env.example/s"
        );
    }

    #[test]
    fn links_to_directories_only() {
        let text = "[global]\nfind-links =\n    /opt/wheels\n    https://x.example/\n\tfile:///srv/w\nx = 1\n";
        assert_eq!(
            configuration(&[], &[("etc/pip.conf", text)]).links,
            [PathBuf::from("/opt/wheels"), PathBuf::from("/srv/w")]
        );
    }

    #[test]
    fn links_of_index_pages() {
        let url = "https://i.example/simple/p/";
        let cases = [
            (
                "<a href=\"https://f.example/a/x-1.tar.gz#sha256=0\">",
                "https://f.example/a/x-1.tar.gz",
            ),
            ("<a rel=x href='../../pk/x-1.tar.gz'>", "https://i.example/pk/x-1.tar.gz"),
            (
                "<a href=\"/pk/x-1.tar.gz?a=1&amp;b=2#x\">",
                "https://i.example/pk/x-1.tar.gz?a=1&b=2",
            ),
            ("<a href=\"//g.example/x-1.tar.gz\">", "https://g.example/x-1.tar.gz"),
            ("<a href=\"x-1.tar.gz\">", "https://i.example/simple/p/x-1.tar.gz"),
        ];
        for (page, link) in cases {
            assert_eq!(file_link(url, page, "x-1.tar.gz").as_deref(), Some(link));
        }
        assert_eq!(file_link(url, "<a href=\"y/xx-1.tar.gz\">", "x-1.tar.gz"), None);
        assert_eq!(file_link(url, "<a href=broken", "x-1.tar.gz"), None);
    }
}
