//! Finds a diskimage-builder: the `-B` directory, an installed Python package, or the pinned
//! release from the Python package index, which is kept in the cache.

mod fetch;
mod index;

pub(crate) use index::file_link as index_link;

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

pub use fetch::{FetchFailure, Fetcher};

use crate::options::DibOptions;

/// The release whose behaviour this crate follows.
pub const VERSION: &str = "3.43.0";

/// The inputs of the search for diskimage-builder. It reads nothing else of the host, so tests can
/// provide their own world.
#[derive(Debug)]
pub struct World<'a, E: Fn(&str) -> Option<String>> {
    /// The cache directory of vbuild; the release is unpacked below it.
    pub cache: &'a Path,
    /// The environment, for `HOME`, `VIRTUAL_ENV` and pip's variables.
    pub env: E,
    /// The root of the host's files: `/`, except in tests.
    pub root: &'a Path,
}

/// A diskimage-builder and the search path of elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The Python package, `…/diskimage_builder`.
    pub package: PathBuf,
    /// Its `lib` directory, or the directory of `-B`: `_LIB`.
    pub lib: PathBuf,
    /// The search path of elements; diskimage-builder's own come last.
    pub elements: Vec<PathBuf>,
    /// The origin of the package.
    pub origin: Origin,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// The origin of a diskimage-builder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The directory given with `-B`.
    BasePath,
    /// A Python package of the host.
    Installed,
    /// The cache, after an earlier download.
    Cached,
    /// The Python package index; fetched by this run.
    Fetched,
}

/// Why no diskimage-builder is available.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The directory of `-B` is not a diskimage-builder library.
    #[error("the specified base path is not the diskimage-builder library")]
    NotALibrary(PathBuf),
    /// An entry of `ELEMENTS_PATH` is not a directory.
    #[error("ELEMENTS_PATH entry '{}' is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The download failed.
    #[error("cannot fetch diskimage-builder {VERSION}")]
    Fetch(#[source] FetchFailure),
    /// The index does not list the file.
    #[error("the package index page `{0}` does not list diskimage-builder {VERSION}")]
    NotListed(String),
    /// The file has an unexpected digest.
    #[error("`{url}` has the SHA-256 digest {found} instead of {expected}")]
    Digest {
        /// The file.
        url: String,
        /// The SHA-256 digest of the downloaded file, in hexadecimal digits.
        found: String,
        /// The pinned digest.
        expected: &'static str,
    },
    /// The archive contains an unexpected entry.
    #[error("the archive of diskimage-builder {VERSION} cannot be unpacked: {0}")]
    Archive(String),
    /// The cache cannot be written.
    #[error("cannot write `{}`", path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl SourceError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NotALibrary(path) => Some(format!(
                "`-B` takes the `lib` directory of the Python package diskimage_builder; `{}` \
                 has no regular file `die`",
                path.display()
            )),
            Self::Fetch(_) | Self::NotListed(_) | Self::Digest { .. } => Some(
                "set PIP_INDEX_URL to another package index, or install the Python package \
                 diskimage-builder, or name it with `-B`"
                    .into(),
            ),
            _ => None,
        }
    }
}

/// Finds diskimage-builder and the search path of elements.
///
/// # Errors
/// See [`SourceError`].
pub fn locate<E: Fn(&str) -> Option<String>>(
    options: &DibOptions,
    world: &World<'_, E>,
    fetcher: &dyn Fetcher,
) -> Result<Located, SourceError> {
    let mut warnings = Vec::new();
    let mut elements = search_path(options, &mut warnings)?;
    let (package, lib, origin) = match &options.base_path {
        Some(lib) => {
            if !has_file(lib, "die") {
                return Err(SourceError::NotALibrary(lib.clone()));
            }
            let lib = fs::canonicalize(lib)
                .map_err(|source| SourceError::Cache { path: lib.clone(), source })?;
            // `-B` may name a copy of `lib` without the Python modules that elements import, so use
            // the package around it, or else any other.
            match lib.parent().filter(|parent| is_package(parent)) {
                Some(parent) => (parent.to_owned(), lib, Origin::BasePath),
                None => (find(world, fetcher)?.0, lib, Origin::BasePath),
            }
        }
        None => {
            let (package, origin) = find(world, fetcher)?;
            let lib = package.join("lib");
            (package, lib, origin)
        }
    };
    elements.push(package.join("elements"));
    Ok(Located { package, lib, elements, origin, warnings })
}

/// The user's directories. A missing directory of `-p` is skipped, as in virt-dib; a missing one of
/// `ELEMENTS_PATH` is an error, as in diskimage-builder.
fn search_path(
    options: &DibOptions,
    warnings: &mut Vec<String>,
) -> Result<Vec<PathBuf>, SourceError> {
    let mut paths = Vec::new();
    for path in &options.element_paths {
        if path.is_dir() {
            paths.push(path.clone());
        } else {
            warnings.push(format!("-p: `{}` is not a directory", path.display()));
        }
    }
    let variable = options.elements_path.as_deref().unwrap_or_default();
    for path in variable.split(':').filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        if !path.is_dir() {
            return Err(SourceError::NotADirectory(path));
        }
        paths.push(path);
    }
    Ok(paths)
}

/// Whether a directory is a usable package. Some installers create packages of links to elsewhere;
/// links are not followed, so such a package would reach the guest without content, and does not
/// count.
fn is_package(path: &Path) -> bool {
    has_file(path, "lib/die")
        && path.join("elements").is_dir()
        && has_file(path, "logging_config.py")
}

fn has_file(directory: &Path, name: &str) -> bool {
    let metadata = rooted::Dir::open(directory).and_then(|dir| dir.metadata(Path::new(name)));
    metadata.is_ok_and(|metadata| metadata.is_file())
}

fn find<E: Fn(&str) -> Option<String>>(
    world: &World<'_, E>,
    fetcher: &dyn Fetcher,
) -> Result<(PathBuf, Origin), SourceError> {
    let installed = site_directories(world)
        .into_iter()
        .map(|directory| directory.join("diskimage_builder"))
        .find(|package| is_package(package));
    match installed {
        Some(package) => Ok((package, Origin::Installed)),
        None => fetch::cached_or_fetched(world, fetcher),
    }
}

/// The directories of installed Python packages, nearest first.
fn site_directories<E: Fn(&str) -> Option<String>>(world: &World<'_, E>) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    let mut add = |base: PathBuf, kinds: &[&str]| {
        for python in python_directories(&base) {
            directories.extend(kinds.iter().map(|kind| python.join(kind)));
        }
    };
    if let Some(venv) = (world.env)("VIRTUAL_ENV") {
        add(Path::new(&venv).join("lib"), &["site-packages"]);
    }
    if let Some(home) = (world.env)("HOME") {
        add(Path::new(&home).join(".local/lib"), &["site-packages"]);
    }
    for lib in ["usr/local/lib", "usr/lib", "usr/lib64"] {
        add(world.root.join(lib), &["dist-packages", "site-packages"]);
    }
    directories
}

/// The `python3*` directories, newest first.
fn python_directories(lib: &Path) -> Vec<PathBuf> {
    let is_python = |path: &PathBuf| {
        path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("python3"))
    };
    let mut found: Vec<PathBuf> = fs::read_dir(lib)
        .map(|entries| entries.flatten().map(|entry| entry.path()).filter(is_python).collect())
        .unwrap_or_default();
    found.sort();
    found.reverse();
    found
}

#[cfg(test)]
mod tests;
