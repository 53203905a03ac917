//! Searches in worlds made by the tests, and in the real index if it is reachable.

use std::cell::RefCell;

use super::*;
use crate::error::{DibError, DibErrorKind};

struct NoNetwork;

impl Fetcher for NoNetwork {
    fn get(&self, url: &str, _limit: u64) -> Result<Vec<u8>, FetchFailure> {
        Err(FetchFailure { url: url.to_owned(), reason: "no network in this test".into() })
    }
}

/// A fetcher with fixed answers that records its requests.
struct Canned {
    answers: Vec<(&'static str, &'static [u8])>,
    asked: RefCell<Vec<String>>,
}

impl Fetcher for Canned {
    fn get(&self, url: &str, _limit: u64) -> Result<Vec<u8>, FetchFailure> {
        self.asked.borrow_mut().push(url.to_owned());
        self.answers
            .iter()
            .find(|(known, _)| *known == url)
            .map(|(_, bytes)| bytes.to_vec())
            .ok_or_else(|| FetchFailure { url: url.to_owned(), reason: "404".into() })
    }
}

fn package(at: &Path) -> PathBuf {
    let package = at.join("diskimage_builder");
    fs::create_dir_all(package.join("lib")).unwrap();
    fs::create_dir_all(package.join("elements")).unwrap();
    fs::write(package.join("lib/die"), "").unwrap();
    fs::write(package.join("logging_config.py"), "").unwrap();
    fs::canonicalize(package).unwrap()
}

fn find_in(
    root: &Path,
    options: &DibOptions,
    env: &[(&str, &str)],
    fetcher: &dyn Fetcher,
) -> Result<Located, SourceError> {
    let world = World {
        cache: &root.join("cache"),
        root,
        env: |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()),
    };
    locate(options, &world, fetcher)
}

#[test]
fn an_installed_package_is_found() {
    let root = tempfile::tempdir().unwrap();
    let installed = package(&root.path().join("usr/lib/python3/dist-packages"));
    let located = find_in(root.path(), &DibOptions::default(), &[], &NoNetwork).unwrap();
    assert_eq!(located.origin, Origin::Installed);
    assert_eq!(fs::canonicalize(&located.package).unwrap(), installed);
    assert_eq!(located.lib, located.package.join("lib"));
    assert_eq!(located.elements, [located.package.join("elements")]);
    // The user's configuration overrides the system's.
    let home = root.path().join("home");
    let own = package(&home.join(".local/lib/python3.11/site-packages"));
    let home = home.display().to_string();
    let located =
        find_in(root.path(), &DibOptions::default(), &[("HOME", &home)], &NoNetwork).unwrap();
    assert_eq!(fs::canonicalize(&located.package).unwrap(), own);
}

#[test]
fn a_package_of_links_is_none() {
    let root = tempfile::tempdir().unwrap();
    let store = package(&root.path().join("store"));
    let farm = root.path().join("usr/lib/python3/dist-packages/diskimage_builder");
    fs::create_dir_all(farm.join("lib")).unwrap();
    fs::create_dir_all(farm.join("elements")).unwrap();
    for file in ["lib/die", "logging_config.py"] {
        std::os::unix::fs::symlink(store.join(file), farm.join(file)).unwrap();
    }
    let options = DibOptions::default();
    assert!(find_in(root.path(), &options, &[], &NoNetwork).is_err(), "it would be fetched");
    // The package directory itself may be a link, of the user or of the system.
    fs::remove_dir_all(&farm).unwrap();
    std::os::unix::fs::symlink(&store, &farm).unwrap();
    let located = find_in(root.path(), &options, &[], &NoNetwork).unwrap();
    assert_eq!(located.origin, Origin::Installed);
}

#[test]
fn the_base_path_is_checked() {
    let root = tempfile::tempdir().unwrap();
    let own = package(root.path());
    let options = DibOptions { base_path: Some(own.join("lib")), ..DibOptions::default() };
    let located = find_in(root.path(), &options, &[], &NoNetwork).unwrap();
    assert_eq!((located.origin, located.package), (Origin::BasePath, own.clone()));
    let options = DibOptions { base_path: Some(own), ..DibOptions::default() };
    let error = find_in(root.path(), &options, &[], &NoNetwork).unwrap_err();
    assert_eq!(error.to_string(), "the specified base path is not the diskimage-builder library");
    assert_eq!(DibError::from(error).kind(), DibErrorKind::Usage);
}

#[test]
fn the_search_path() {
    let root = tempfile::tempdir().unwrap();
    package(&root.path().join("usr/lib/python3/dist-packages"));
    let (first, second) = (root.path().join("first"), root.path().join("second"));
    fs::create_dir(&first).unwrap();
    fs::create_dir(&second).unwrap();
    let options = DibOptions {
        element_paths: vec![first.clone(), "/not/there".into()],
        elements_path: Some(format!("{}:", second.display())),
        ..DibOptions::default()
    };
    let located = find_in(root.path(), &options, &[], &NoNetwork).unwrap();
    assert_eq!(located.elements, [first, second, located.package.join("elements")]);
    assert_eq!(located.warnings, ["-p: `/not/there` is not a directory"]);
    let options = DibOptions { elements_path: Some("/not/there".into()), ..options };
    let error = find_in(root.path(), &options, &[], &NoNetwork).unwrap_err();
    assert_eq!(error.to_string(), "ELEMENTS_PATH entry '/not/there' is not a directory");
}

#[test]
fn a_wrong_digest_is_refused_and_nothing_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let canned = Canned {
        answers: vec![
            (
                "https://index.example/simple/diskimage-builder/",
                b"<a href=\"/f/diskimage_builder-3.43.0.tar.gz#sha256=1\">x</a>",
            ),
            ("https://index.example/f/diskimage_builder-3.43.0.tar.gz", b"evil"),
        ],
        asked: RefCell::default(),
    };
    let env = [("PIP_INDEX_URL", "https://index.example/simple/")];
    let error = find_in(root.path(), &DibOptions::default(), &env, &canned).unwrap_err();
    assert!(matches!(error, SourceError::Digest { .. }), "{error}");
    assert_eq!(canned.asked.borrow().len(), 2);
    assert!(!root.path().join("cache").exists());
}

#[test]
fn what_the_index_lacks_is_said() {
    let root = tempfile::tempdir().unwrap();
    let env = [("PIP_INDEX_URL", "https://index.example/simple")];
    let empty = Canned {
        answers: vec![("https://index.example/simple/diskimage-builder/", b"<html>")],
        asked: RefCell::default(),
    };
    let error = find_in(root.path(), &DibOptions::default(), &env, &empty).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the package index page `https://index.example/simple/diskimage-builder/` does not list \
         diskimage-builder 3.43.0"
    );
    let error = find_in(root.path(), &DibOptions::default(), &env, &NoNetwork).unwrap_err();
    assert_eq!(DibError::from(error).kind(), DibErrorKind::Fetch);
}

#[test]
fn the_real_release_is_fetched_once() {
    let root = tempfile::tempdir().unwrap();
    let world = World {
        cache: root.path(),
        root: root.path(),
        env: |name: &str| name.starts_with("PIP_").then(|| std::env::var(name).ok()).flatten(),
    };
    let located = match locate(&DibOptions::default(), &world, &crate::real::network()) {
        Ok(located) => located,
        Err(error @ SourceError::Fetch(_)) => {
            println!("skipped: {error}: {:?}", std::error::Error::source(&error));
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert_eq!(located.origin, Origin::Fetched);
    assert!(located.package.join("elements/debian-minimal/element-provides").is_file());
    let again = locate(&DibOptions::default(), &world, &NoNetwork).unwrap();
    assert_eq!(again.origin, Origin::Cached);
    assert_eq!(again.package, located.package);
}
