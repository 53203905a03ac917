//! Reads B9 files, and generates the files of their artifacts in memory. This finds everything that
//! can be wrong before anything is built.

use std::path::{Path, PathBuf};

use b9::{
    Environment, Fault, File, Files, Instance, Origin, Permissions, Renderer, seed::SeedFile,
};
use plan::{UnixPath, UploadEntry, UploadKind};

use super::{
    args::RecipeArgs,
    host_files::{ContentSources, HostFiles},
    outputs,
    place::RunPlace,
    text::read_text,
};
use crate::{
    error::{CommandError, Kind},
    run_context::RunContext,
    settings::Settings,
};

/// Permissions of generated files and their directories; they do not depend on the umask.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;

/// An artifact to build.
#[derive(Debug)]
pub(super) struct Artifact {
    /// The artifact as the B9 files describe it, with templates expanded.
    pub(super) instance: Instance,
    /// The generated files, in the order of their paths.
    pub(super) generated: Vec<SeedFile>,
    /// The directory to which the generated files are written.
    pub(super) folder: PathBuf,
}

/// The files of a build, and the artifacts that they describe.
#[derive(Debug)]
pub(super) struct Recipe {
    /// The B9 files.
    pub(super) files: Files,
    /// The artifacts, in the order of the files.
    pub(super) artifacts: Vec<Artifact>,
}

/// Reads B9 files.
///
/// # Errors
/// Fails if one of them cannot be read.
pub(super) fn read_files(paths: &[PathBuf]) -> Result<Files, CommandError> {
    let read = |path: &PathBuf| {
        let text = read_text(path, b9::FILE_BYTES_MAX as u64).map_err(|error| {
            CommandError::new(Kind::Usage, error)
                .context(format!("cannot read `{}`", path.display()))
        })?;
        Ok(File { name: path.display().to_string(), text })
    };
    paths.iter().map(read).collect::<Result<_, _>>().map(Files)
}

/// Converts a fault in B9 files to an error that shows its place.
pub(super) fn fault(files: &Files, fault: &Fault) -> CommandError {
    CommandError::usage(files.show(fault))
}

impl Recipe {
    /// Reads, expands and checks the B9 files, and generates the artifacts' files in memory.
    ///
    /// # Errors
    /// Fails if a file cannot be read or is invalid, or if content cannot be generated.
    pub(super) fn read(
        args: &RecipeArgs,
        place: &RunPlace,
        folder: &Path,
        host: &HostFiles,
        settings: &Settings,
        ctx: &RunContext,
    ) -> Result<Self, CommandError> {
        let files = read_files(&args.project_file)?;
        let at = |error: &Fault| fault(&files, error);
        let generator = b9::read(&files).map_err(|error| at(&error))?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let (root, directory) = (text(&place.root), text(&place.directory));
        let run = [
            ("projectRoot", root.as_str()),
            ("buildDir", &directory),
            ("build_id", &place.build_id),
            ("build_date", &place.build_date),
        ];
        let environment = Environment::new(&args.arguments, &run);
        let instances = b9::expand(&generator, &environment).map_err(|error| at(&error))?;
        let findings = b9::check(&instances);
        if !findings.faults.is_empty() {
            let all: Vec<String> = findings.faults.iter().map(|fault| files.show(fault)).collect();
            return Err(CommandError::usage(all.join("\n")));
        }
        for warning in &findings.warnings {
            ctx.warn(files.show(warning));
        }
        let sources = ContentSources { files: host, settings };
        let mut artifacts: Vec<Artifact> = Vec::new();
        for instance in instances {
            let generated = generate(&instance, &sources, &files, ctx)?;
            // Artifacts of the same name must not see each other's files.
            let name = format!("{}-{}", instance.id.text, place.build_id);
            let count = artifacts.iter().filter(|one| one.instance.id.text == instance.id.text);
            let folder = match count.count() {
                0 => folder.join(name),
                count => folder.join(format!("{name}-{}", count + 1)),
            };
            artifacts.push(Artifact { instance, generated, folder });
        }
        Ok(Self { files, artifacts })
    }
}

/// Generates the files of an artifact. If two have the same path, the last one is used.
fn generate(
    instance: &Instance,
    sources: &ContentSources<'_>,
    files: &Files,
    ctx: &RunContext,
) -> Result<Vec<SeedFile>, CommandError> {
    let mut renderer =
        Renderer { inputs: sources, environment: &instance.environment, warnings: Vec::new() };
    let mut generated = std::collections::BTreeMap::new();
    for source in &instance.sources {
        let mut make = || -> Result<(String, SeedFile), Fault> {
            let bytes = match &source.origin {
                Origin::File { path, conversion } => renderer.file(path, *conversion)?,
                Origin::Content(content) => renderer.content(content)?,
            };
            let mode = source.permissions.map_or(Ok(FILE_MODE), Permissions::mode)?;
            let path = source.path()?;
            Ok((path.clone(), SeedFile { path, mode, bytes }))
        };
        let (path, file) = make().map_err(|error| fault(files, &error))?;
        generated.insert(path, file);
    }
    for warning in &renderer.warnings {
        ctx.warn(files.show(warning));
    }
    Ok(generated.into_values().collect())
}

impl Artifact {
    /// Writes the generated files to the artifact's directory.
    ///
    /// # Errors
    /// Fails if a file cannot be written, or if its path is also a directory of other files.
    pub(super) fn write_generated(&self) -> Result<(), CommandError> {
        let failed = |path: &Path, error: std::io::Error| {
            CommandError::new(Kind::Host, error)
                .context(format!("cannot write the generated file `{}`", path.display()))
        };
        std::fs::create_dir_all(&self.folder).map_err(|error| failed(&self.folder, error))?;
        for file in &self.generated {
            let path = self.folder.join(&file.path);
            outputs::write_with_mode(&path, &file.bytes, file.mode)
                .map_err(|error| failed(&path, error))?;
        }
        Ok(())
    }

    /// Returns the generated files, which must have been written, as entries that scripts see.
    ///
    /// # Errors
    /// Fails if one of the files cannot be read again.
    pub(super) fn uploads(&self) -> Result<Vec<UploadEntry>, CommandError> {
        let unreadable = |error: rooted::Error| CommandError::new(Kind::Host, error);
        let mut entries = std::collections::BTreeMap::new();
        let top = std::fs::canonicalize(&self.folder).map_err(|error| {
            CommandError::new(Kind::Host, error).context("cannot find the generated files")
        })?;
        for file in &self.generated {
            let parents = Path::new(&file.path).ancestors().skip(1);
            for parent in parents.filter(|parent| !parent.as_os_str().is_empty()) {
                let kind = UploadKind::Directory(DIRECTORY_MODE);
                entries.insert(parent.to_owned(), kind);
            }
            let source = inputs::host_file(&top.join(&file.path)).map_err(unreadable)?;
            let kind = UploadKind::File { mode: file.mode, source };
            entries.insert(PathBuf::from(&file.path), kind);
        }
        let entry = |(path, kind): (PathBuf, UploadKind)| UploadEntry {
            path: UnixPath::new(path.into_os_string()),
            kind,
        };
        Ok(entries.into_iter().map(entry).collect())
    }
}
