//! From files of B9 to artifacts with their generated files: everything that can be wrong
//! before anything is made.

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

/// Permissions of generated files and their directories, whatever the umask is.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;

/// An artifact that is to be built.
#[derive(Debug)]
pub(super) struct Artifact {
    /// What it is.
    pub(super) instance: Instance,
    /// The files that are generated for it, in the order of their paths.
    pub(super) generated: Vec<SeedFile>,
    /// The folder that they are written to.
    pub(super) folder: PathBuf,
}

/// What is built.
#[derive(Debug)]
pub(super) struct Recipe {
    /// The files of B9.
    pub(super) files: Files,
    /// What they describe, in order.
    pub(super) artifacts: Vec<Artifact>,
}

/// Reads files of B9.
///
/// # Errors
/// One that cannot be read.
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

/// The error for something in files of B9.
pub(super) fn fault(files: &Files, fault: &Fault) -> CommandError {
    CommandError::usage(files.show(fault))
}

impl Recipe {
    /// Reads, expands and checks, and makes the generated files in memory.
    ///
    /// # Errors
    /// Everything that is wrong.
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
            // Artifacts of one name do not see each other's files.
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

/// Makes the files of an artifact. Of two with one path the last one counts.
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
    /// Writes the generated files into the artifact's folder.
    ///
    /// # Errors
    /// When that fails, or one path is a file and also a directory of others.
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

    /// The generated files as scripts see them, when they are written.
    ///
    /// # Errors
    /// When they cannot be read again.
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
