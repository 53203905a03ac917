//! Which host files a recipe may name.
//!
//! A spec or a project often comes from a third party, and it names host files. Files in its own
//! directory belong to it. Anything else belongs to the user, and is read only if the user has
//! allowed it before the build: `--allow-host-path`.

use std::{
    fs::{self, Metadata},
    io,
    path::{Path, PathBuf},
};

use rooted::{Dir, Error};

use crate::{Found, Tree, named_file, tree};

/// The option that allows a recipe to read a path.
pub const ALLOW_OPTION: &str = "--allow-host-path";

/// Why a path of a recipe is not read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The path does not exist.
    #[error("`{}` does not exist", .0.display())]
    Missing(PathBuf),
    /// The path has the wrong file type.
    #[error("`{}` is not a {wanted}", path.display())]
    Kind {
        /// The path.
        path: PathBuf,
        /// The required type.
        wanted: &'static str,
    },
    /// The path is outside of the recipe's directory.
    #[error("`{}` lies outside of the recipe's own folder{}", path.display(), leading_to(path, real))]
    Outside {
        /// The path as the recipe names it.
        path: PathBuf,
        /// The path without links.
        real: PathBuf,
    },
    /// The path is hidden, in a directory that holds more than the recipe: a home, or one for
    /// temporary files.
    #[error(
        "`{}` is hidden in `{}`, which is not the recipe's alone{}",
        path.display(), folder.display(), leading_to(path, real)
    )]
    Hidden {
        /// The path as the recipe names it.
        path: PathBuf,
        /// The path without links.
        real: PathBuf,
        /// The directory.
        folder: PathBuf,
    },
    /// The path cannot be read.
    #[error("cannot read `{}`: {}", path.display(), with_cause(source))]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// The cause; part of the message, since complaints about specs show the message alone.
        source: Error,
    },
}

fn leading_to(path: &Path, real: &Path) -> String {
    if path == real { String::new() } else { format!(": it leads to `{}`", real.display()) }
}

fn with_cause(error: &Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

impl SourceError {
    /// A remedy for the user.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Outside { real, .. } | Self::Hidden { real, .. } => Some(format!(
                "if it shall be read, say so before the build: `{ALLOW_OPTION} {}`",
                real.display()
            )),
            _ => None,
        }
    }
}

/// A readable file or directory of the host.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its path as found, with links: its file name is the one that the recipe means.
    pub path: PathBuf,
    /// The absolute path of the file or directory, without links.
    pub real: PathBuf,
    /// The metadata of the file or directory; for a link, those of its target.
    pub metadata: Metadata,
}

impl Source {
    /// The source as a regular file: its path on the host and its permission bits.
    ///
    /// # Errors
    /// Fails if it is not a regular file, or cannot be read.
    pub fn file(&self) -> Result<Found, SourceError> {
        if !self.metadata.is_file() {
            return Err(self.wrong_kind("regular file"));
        }
        named_file(&self.real).map_err(|source| self.unreadable(source))
    }

    /// The source as a directory tree: the files in it, without their content.
    ///
    /// # Errors
    /// Fails if it is not a directory, or cannot be read.
    pub fn tree(&self) -> Result<Tree, SourceError> {
        if !self.metadata.is_dir() {
            return Err(self.wrong_kind("directory"));
        }
        Dir::open(&self.real)
            .and_then(|top| tree(&top, &|_, _| false))
            .map_err(|source| self.unreadable(source))
    }

    /// The error that it has the wrong file type.
    #[must_use]
    pub fn wrong_kind(&self, wanted: &'static str) -> SourceError {
        SourceError::Kind { path: self.path.clone(), wanted }
    }

    /// The error that it cannot be read.
    #[must_use]
    pub fn unreadable(&self, source: Error) -> SourceError {
        SourceError::Unreadable { path: self.path.clone(), source }
    }
}

/// The host files that a recipe may name, and the directories for relative paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Directories in which relative paths are looked up, in order.
    pub lookup: Vec<PathBuf>,
    /// The recipe's own directories.
    pub own: Vec<PathBuf>,
    /// Files and directories that the user has allowed.
    pub allowed: Vec<PathBuf>,
    /// Directories that hold more than one recipe: homes, and those for temporary files. Hidden
    /// files in them do not belong to the recipe, and neither does anything in `/`.
    pub broad: Vec<PathBuf>,
}

impl Sources {
    /// Finds a path that a recipe names.
    ///
    /// # Errors
    /// Fails if the path does not exist or may not be read.
    pub fn find(&self, path: &Path) -> Result<Source, SourceError> {
        let source = self.find_of_user(path)?;
        self.permit(&source)?;
        Ok(source)
    }

    /// Finds a path of the command line; it may be anywhere.
    ///
    /// # Errors
    /// Fails if the path does not exist.
    pub fn find_of_user(&self, path: &Path) -> Result<Source, SourceError> {
        for folder in &self.lookup {
            let path = folder.join(path);
            let found =
                fs::canonicalize(&path).and_then(|real| Ok((fs::symlink_metadata(&real)?, real)));
            match found {
                Ok((metadata, real)) => return Ok(Source { path, real, metadata }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    let source = Error::Io { action: "find", path: path.clone(), source };
                    return Err(SourceError::Unreadable { path, source });
                }
            }
        }
        let first = self.lookup.first().map_or_else(|| path.to_owned(), |dir| dir.join(path));
        Err(SourceError::Missing(first))
    }

    fn permit(&self, source: &Source) -> Result<(), SourceError> {
        let real = |path: &PathBuf| fs::canonicalize(path).ok();
        if self.allowed.iter().filter_map(real).any(|allowed| source.real.starts_with(allowed)) {
            return Ok(());
        }
        let broad: Vec<PathBuf> = self.broad.iter().filter_map(real).collect();
        let (path, real_path) = (source.path.clone(), source.real.clone());
        let mut refusal = SourceError::Outside { path: path.clone(), real: real_path.clone() };
        for folder in self.own.iter().filter_map(real).filter(|folder| *folder != Path::new("/")) {
            let Ok(below) = source.real.strip_prefix(&folder) else { continue };
            let hidden = below.iter().any(|name| name.as_encoded_bytes().starts_with(b"."));
            if hidden && broad.iter().any(|broad| broad.starts_with(&folder)) {
                let (path, real) = (path.clone(), real_path.clone());
                refusal = SourceError::Hidden { path, real, folder };
            } else {
                return Ok(());
            }
        }
        Err(refusal)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct World {
        folder: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let world = Self { folder: tempfile::tempdir().unwrap() };
            for path in ["home/project/files", "home/.ssh", "home/other", "keys"] {
                fs::create_dir_all(world.at(path)).unwrap();
            }
            for path in ["home/project/files/x", "home/.ssh/id", "home/other/y", "keys/k", "home/n"]
            {
                fs::write(world.at(path), "x").unwrap();
            }
            symlink("../.ssh/id", world.at("home/project/sly")).unwrap();
            symlink("files/x", world.at("home/project/near")).unwrap();
            world
        }

        fn at(&self, path: &str) -> PathBuf {
            fs::canonicalize(self.folder.path()).unwrap().join(path)
        }

        fn sources(&self, own: &str) -> Sources {
            Sources {
                lookup: vec![self.at(own)],
                own: vec![self.at(own)],
                allowed: Vec::new(),
                broad: vec![self.at("home"), "/".into()],
            }
        }
    }

    #[test]
    fn only_the_own_folder_is_read_without_a_word() {
        let world = World::new();
        let mut sources = world.sources("home/project");
        for path in ["files/x", "near", "./files/../near", "files"] {
            sources.find(Path::new(path)).unwrap();
        }
        sources.find(&world.at("home/project/files/x")).unwrap();
        for path in ["sly", "../.ssh/id", "../other/y", "../../keys/k", "/etc/passwd"] {
            let error = sources.find(Path::new(path)).unwrap_err();
            assert!(matches!(error, SourceError::Outside { .. }), "{path}: {error}");
            assert!(error.hint().unwrap().contains(ALLOW_OPTION), "{error}");
            sources.find_of_user(Path::new(path)).unwrap();
        }
        let error = sources.find(Path::new("sly")).unwrap_err();
        assert!(error.to_string().ends_with("home/.ssh/id`"), "{error}");
        assert!(error.hint().unwrap().ends_with("home/.ssh/id`"), "{error}");
        let missing = sources.find(Path::new("../gone")).unwrap_err();
        assert!(matches!(missing, SourceError::Missing(_)), "{missing}");
        sources.allowed = vec![world.at("keys"), world.at("home/.ssh/id")];
        for path in ["sly", "../.ssh/id", "../../keys/k"] {
            sources.find(Path::new(path)).unwrap();
        }
        assert!(sources.find(Path::new("../other/y")).is_err());
    }

    #[test]
    fn a_home_is_no_folder_of_a_recipe_alone() {
        let world = World::new();
        for own in ["home", ""] {
            let sources = world.sources(own);
            sources.find(&world.at("home/n")).unwrap();
            let error = sources.find(&world.at("home/.ssh/id")).unwrap_err();
            assert!(matches!(error, SourceError::Hidden { .. }), "{own}: {error}");
            assert!(error.hint().unwrap().contains(ALLOW_OPTION), "{error}");
        }
        let root = Sources { own: vec!["/".into()], ..world.sources("home") };
        assert!(matches!(root.find(&world.at("home/n")), Err(SourceError::Outside { .. })));
    }
}
