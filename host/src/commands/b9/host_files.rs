//! The host files that a B9 file may name, and how they are read: files for generated content,
//! images, and directories that scripts see.

use std::{
    collections::BTreeSet,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use b9::{Inputs, Share};
use download::Client;
use inputs::{SourceError, Sources};
use plan::UploadEntry;
use rooted::Dir;

use super::args::RecipeArgs;
use crate::{
    build::host_paths,
    error::{CommandError, Kind},
    machine::ca,
    settings::Settings,
};

/// The maximum size of a file that becomes content, in bytes. It is held in memory; seeds and
/// configuration files are a thousand times smaller.
const CONTENT_MAX_BYTES: u64 = 256 << 20;

/// The host paths that the files of a build may read and write.
#[derive(Debug, Clone)]
pub(super) struct HostFiles {
    /// The working directory.
    pub(super) here: PathBuf,
    /// For reading: the B9 files' own directories, and the working directory if all of these are in
    /// it.
    own: Sources,
    /// For writing: the B9 files' own directories, and always the working directory.
    outputs: Sources,
}

impl HostFiles {
    /// Returns the host paths that a command line permits.
    ///
    /// # Errors
    /// Fails if the working directory or an allowed path cannot be found.
    pub(super) fn of(args: &RecipeArgs) -> Result<Self, CommandError> {
        let here = std::env::current_dir().map_err(|error| {
            CommandError::new(Kind::Host, error).context("cannot find the working folder")
        })?;
        let folder = |file: &PathBuf| here.join(file).parent().map(Path::to_owned);
        let folders: Vec<PathBuf> = args.project_file.iter().filter_map(folder).collect();
        let real = |path: &PathBuf| std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        let lie_here = folders.iter().all(|folder| real(folder).starts_with(real(&here)));
        let allowed = host_paths::allowed(&args.host_paths)?;
        let sources = |here_too: bool| Sources {
            lookup: vec![here.clone()],
            own: folders.iter().cloned().chain(here_too.then(|| here.clone())).collect(),
            allowed: allowed.clone(),
            broad: host_paths::broad(),
        };
        Ok(Self { own: sources(lie_here), outputs: sources(true), here })
    }

    /// Returns the real path of an image that is read.
    ///
    /// # Errors
    /// Fails if the image does not exist, is not a regular file, or may not be read.
    pub(super) fn image(&self, path: &str) -> Result<PathBuf, CommandError> {
        let found = self.own.find(Path::new(path))?;
        if !found.metadata.is_file() {
            return Err(CommandError::from(found.wrong_kind("regular file")));
        }
        Ok(found.real)
    }

    /// Returns the absolute path of something that is written; `what` names it in errors.
    ///
    /// # Errors
    /// Fails if the path may not be written.
    pub(super) fn output(&self, what: &str, path: &Path) -> Result<PathBuf, CommandError> {
        host_paths::check_output(what, path, &self.outputs)?;
        Ok(self.here.join(path))
    }

    /// Whether a directory contains more than a project, because it is or contains a home or a
    /// directory for temporary files. All of it would be copied to the guest.
    pub(super) fn is_broad(&self, folder: &Path) -> bool {
        let broad = self.own.broad.iter().filter_map(|broad| std::fs::canonicalize(broad).ok());
        broad.into_iter().any(|broad| broad.starts_with(folder))
    }

    /// Returns a directory that scripts see, with its entries except for those in `left_out`, and
    /// the warnings about them. A missing directory is created if `make` is set, and counts as
    /// empty.
    ///
    /// # Errors
    /// Fails if the directory may not be read or, if `written` is set, may not be written.
    pub(super) fn shared_directory(
        &self,
        path: &str,
        written: bool,
        make: bool,
        left_out: &BTreeSet<PathBuf>,
    ) -> Result<(Share, Vec<String>), CommandError> {
        let path = Path::new(path);
        if written {
            host_paths::check_output("the shared directory", path, &self.outputs)?;
        }
        match self.own.find(path) {
            Err(SourceError::Missing(_)) => {
                let directory = self.output("the shared directory", path)?;
                if make {
                    rooted::make_user_directories(&directory).map_err(|error| {
                        CommandError::new(Kind::Host, error).context(format!(
                            "cannot make the shared directory `{}`",
                            directory.display()
                        ))
                    })?;
                }
                let directory = std::fs::canonicalize(&directory).unwrap_or(directory);
                Ok((Share { directory, entries: Vec::new() }, Vec::new()))
            }
            Err(error) => Err(CommandError::from(error)),
            Ok(found) => {
                if !found.metadata.is_dir() {
                    return Err(CommandError::from(found.wrong_kind("directory")));
                }
                self.directory(&found.real, left_out)
            }
        }
    }

    /// Returns the working directory with the entries that a fixup names, or with all entries if
    /// the fixup may mean any of them.
    pub(super) fn named_by(
        &self,
        script: &str,
        left_out: &BTreeSet<PathBuf>,
    ) -> Result<(Share, Vec<String>), CommandError> {
        let real = std::fs::canonicalize(&self.here).map_err(|error| {
            CommandError::new(Kind::Host, error).context("cannot find the working folder")
        })?;
        let listed = std::fs::read_dir(&real).map_err(|error| {
            CommandError::new(Kind::Host, error)
                .context(format!("cannot list the working folder `{}`", real.display()))
        })?;
        let all: Vec<std::ffi::OsString> =
            listed.flatten().map(|entry| entry.file_name()).collect();
        let texts = all.iter().filter_map(|name| name.to_str().map(str::to_owned)).collect();
        let mut too_large = None;
        let named = b9::named_files(script, &texts, &mut |name| {
            let file = rooted::open_file(&real.join(name)).ok()?;
            let mut bytes = Vec::new();
            file.take(b9::SCRIPT_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
            let is_script = bytes.starts_with(b"#!") || name.ends_with(".sh");
            // A program packed into a script has bytes that no text has.
            if !is_script || bytes.contains(&0) {
                return None;
            }
            if bytes.len() as u64 > b9::SCRIPT_BYTES_MAX {
                too_large = Some(name.to_owned());
            }
            String::from_utf8(bytes).ok()
        });
        let Some(named) = named else { return self.directory(&real, left_out) };
        if let Some(name) = too_large {
            let limit = b9::SCRIPT_BYTES_MAX >> 20;
            return Err(CommandError::usage(format!(
                "`{name}`, which a fixup names, has more than {limit} MiB, the most that is \
                 searched for names of files"
            )));
        }
        if self.is_broad(&real) {
            let text = format!(
                "`{}` holds more than a project, and a fixup could write all over it",
                real.display()
            );
            return Err(CommandError::usage(text).hint("work in a folder of the project"));
        }
        let mut skipped = left_out.clone();
        for name in &all {
            if name.to_str().is_some_and(|name| named.contains(name)) {
                // The rules for everything that is read apply to it.
                self.own.find(Path::new(name))?;
            } else {
                skipped.insert(real.join(name));
            }
        }
        self.listed(&real, &skipped)
    }

    /// Returns a directory, which is given by its real path, with its entries except for those in
    /// `left_out`.
    ///
    /// # Errors
    /// Fails if the directory cannot be read, or contains more than a project.
    pub(super) fn directory(
        &self,
        real: &Path,
        left_out: &BTreeSet<PathBuf>,
    ) -> Result<(Share, Vec<String>), CommandError> {
        if self.is_broad(real) {
            let text = format!(
                "`{}` holds more than a project, and all of it would get into the guest",
                real.display()
            );
            return Err(CommandError::usage(text).hint("work in a folder of the project"));
        }
        self.listed(real, left_out)
    }

    fn listed(
        &self,
        real: &Path,
        left_out: &BTreeSet<PathBuf>,
    ) -> Result<(Share, Vec<String>), CommandError> {
        let (entries, warnings) = tree(real, left_out).map_err(|error| {
            let hint = error.hint();
            CommandError::new(Kind::Usage, error)
                .context(format!("cannot share `{}`", real.display()))
                .maybe_hint(hint)
        })?;
        Ok((Share { directory: real.to_owned(), entries }, warnings))
    }
}

/// Lists a directory, except for the files in `left_out`, which are given by their real paths.
fn tree(
    top: &Path,
    left_out: &BTreeSet<PathBuf>,
) -> Result<(Vec<UploadEntry>, Vec<String>), rooted::Error> {
    let opened = Dir::open(top)?;
    let skip = |path: &plan::UnixPath, _| left_out.contains(&top.join(path.to_path_buf()));
    let tree = inputs::tree(&opened, &skip)?;
    let entries = inputs::entries(tree.files.iter().map(|(path, found)| (path, found)))?;
    Ok((entries, tree.warnings()))
}

/// The files and URLs from which content is generated.
pub(super) struct ContentSources<'a> {
    pub(super) files: &'a HostFiles,
    pub(super) settings: &'a Settings,
}

impl Inputs for ContentSources<'_> {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let with_hint = |error: SourceError| {
            let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
            io::Error::other(format!("{error}{hint}"))
        };
        let found = self.files.own.find(Path::new(path)).map_err(with_hint)?;
        if !found.metadata.is_file() {
            return Err(with_hint(found.wrong_kind("regular file")));
        }
        let mut bytes = Vec::new();
        let file = rooted::open_file(&found.real).map_err(io::Error::other)?;
        file.take(CONTENT_MAX_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > CONTENT_MAX_BYTES {
            return Err(io::Error::other(format!(
                "it is larger than the {} MiB that a generated file can have",
                CONTENT_MAX_BYTES >> 20
            )));
        }
        Ok(bytes)
    }

    fn fetch(&self, url: &str) -> Result<Vec<u8>, String> {
        if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err("only http:// and https:// are fetched; FromFile copies files".to_owned());
        }
        let certificates = ca::certificates(self.settings).map_err(|e| e.to_string())?;
        download::Options::from_environment(certificates)
            .and_then(|options| Client::new(&options))
            .and_then(|client| client.bytes(url, CONTENT_MAX_BYTES, None))
            .map_err(|error| error.to_string())
    }
}
