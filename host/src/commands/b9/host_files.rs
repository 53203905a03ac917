//! What a file of B9 may name of the host, and how it is read: files for generated content,
//! images, directories that scripts see.

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

/// The largest file that becomes content: it is held in memory, and seeds and configuration
/// files are a thousandth of it.
const CONTENT_MAX_BYTES: u64 = 256 << 20;

/// Where the files of a build may read and write.
#[derive(Debug, Clone)]
pub(super) struct HostFiles {
    /// The working folder.
    pub(super) here: PathBuf,
    /// What they read: their own folders, and the working folder where they all lie in it.
    own: Sources,
    /// What they write: in the working folder, wherever they lie.
    outputs: Sources,
}

impl HostFiles {
    /// Of a command line.
    ///
    /// # Errors
    /// When the working folder, or a path that is allowed, cannot be found.
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

    /// The real path of an image that is read.
    ///
    /// # Errors
    /// When it is not there, or may not be read.
    pub(super) fn image(&self, path: &str) -> Result<PathBuf, CommandError> {
        let found = self.own.find(Path::new(path))?;
        if !found.metadata.is_file() {
            return Err(CommandError::from(found.wrong_kind("regular file")));
        }
        Ok(found.real)
    }

    /// The absolute path of something that is written.
    ///
    /// # Errors
    /// When it may not be written.
    pub(super) fn output(&self, what: &str, path: &Path) -> Result<PathBuf, CommandError> {
        host_paths::check_output(what, path, &self.outputs)?;
        Ok(self.here.join(path))
    }

    /// Whether the working folder holds more than a project: all of it would get into the
    /// guest.
    pub(super) fn is_broad(&self, folder: &Path) -> bool {
        let broad = self.own.broad.iter().filter_map(|broad| std::fs::canonicalize(broad).ok());
        broad.into_iter().any(|broad| broad.starts_with(folder))
    }

    /// A directory that scripts see, and what is in it but for `left_out`. Where it is
    /// missing it is made, or taken as empty by those who only look.
    ///
    /// # Errors
    /// When it may not be read or, if it is `written`, not be written.
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

    /// The working folder, with what a fixup names in it.
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
        let named = b9::named_files(script, &texts, &mut |name| {
            let file = rooted::open_file(&real.join(name)).ok()?;
            let mut text = String::new();
            file.take(b9::SCRIPT_BYTES_MAX).read_to_string(&mut text).ok()?;
            let is_script = text.starts_with("#!") || name.ends_with(".sh");
            is_script.then_some(text)
        });
        let Some(named) = named else { return self.directory(&real, left_out) };
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
                // Under the rules for everything that is read.
                self.own.find(Path::new(name))?;
            } else {
                skipped.insert(real.join(name));
            }
        }
        self.listed(&real, &skipped)
    }

    /// A directory by its real path, with what is in it.
    ///
    /// # Errors
    /// When it cannot be read, or holds more than a project.
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

/// What is in a directory, but for some files by their real paths.
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

/// Files and URLs that content is made from.
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
