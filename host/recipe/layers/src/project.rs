//! A project directory: which of its subdirectories are layers, and their scripts.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use inputs::{Source, SourceError, Sources};

use crate::{Bind, Config, ConfigError, Hints, config};

/// The file with the declarations of a project.
pub const CONFIG_FILE: &str = "vbuild.yaml";
/// The directory of results, relative to the project.
pub const BUILD_FOLDER: &str = "build";
/// Minimum number of digits at the start of a layer's name.
const DIGITS_MIN: usize = 2;
/// Maximum size of a script that is searched for comments.
const SCRIPT_MAX_BYTES: u64 = 64 << 20;

/// What kind of script a layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `build-layer`: runs in a chroot of the image.
    BuildLayer,
    /// `modify-disk`: works on the disk itself.
    ModifyDisk,
}

impl Kind {
    /// The script's name.
    #[must_use]
    pub fn script(self) -> &'static str {
        match self {
            Self::BuildLayer => "build-layer",
            Self::ModifyDisk => "modify-disk",
        }
    }
}

/// A layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The name of its directory, such as `10_update`.
    pub name: String,
    /// The path of the layer's directory, below the project's directory.
    pub folder: PathBuf,
    /// Its directory, without links.
    pub(crate) real: PathBuf,
    /// The kind of script that the layer has.
    pub kind: Kind,
    /// The hints in the script's comments.
    pub hints: Hints,
    /// The text of the script, to find the sizes that it requests.
    pub(crate) script: String,
}

/// A project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// The path of the project's directory, as it was given.
    pub folder: PathBuf,
    /// The layers in order.
    pub layers: Vec<Layer>,
    /// The declarations of the project, from its `vbuild.yaml`.
    pub config: Config,
    /// Warnings about directories that resemble layers but are not.
    pub warnings: Vec<String>,
    /// Which host files it may name.
    pub sources: Sources,
}

/// Why a project cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// A file or directory cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A path that it names does not exist, or is not its own.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The script is a link out of the layer's directory, so it would be missing in the guest.
    #[error(
        "{} is a link to `{}`, but in the guest a layer has its own folder only",
        path.display(), real.display()
    )]
    ScriptElsewhere {
        /// The script.
        path: PathBuf,
        /// The target of the link.
        real: PathBuf,
    },
    /// The declarations in the project's `vbuild.yaml` are invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A script is not executable.
    #[error("{} is not executable", .0.display())]
    NotExecutable(PathBuf),
    /// A script is larger than what is searched for comments.
    #[error(
        "{} has more than {} MiB, the most that is searched for `# nocache` and the like",
        .0.display(), SCRIPT_MAX_BYTES >> 20
    )]
    TooLarge(PathBuf),
    /// A hint is invalid.
    #[error("{}:{line}: {problem}", path.display())]
    Hint {
        /// The script.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The message.
        problem: String,
    },
    /// The project has no layers.
    #[error("{} has no layers: folders such as 10_name with a `build-layer` or a `modify-disk`", .0.display())]
    Empty(PathBuf),
    /// No layer has this name.
    #[error("there is no layer `{name}`; the layers are {}", layers.join(", "))]
    UnknownLayer {
        /// The name.
        name: String,
        /// The existing layers.
        layers: Vec<String>,
    },
    /// The declarations name a layer that does not exist.
    #[error("{}: `timeouts` names the layer `{layer}`, which is not there", path.display())]
    UnknownTimeout {
        /// The path of the declarations.
        path: PathBuf,
        /// The layer.
        layer: String,
    },
}

/// Reads a project. It may name its own files and those of `sources`, whose own directories must be
/// the project's.
///
/// # Errors
/// Fails on the first error.
pub fn read(folder: &Path, sources: Sources) -> Result<Project, ProjectError> {
    let listed = rooted::Dir::open(folder).and_then(|top| top.names());
    let listed = listed
        .map_err(|source| ProjectError::Io { path: folder.to_owned(), source: source.into() })?;
    let (mut layers, mut warnings) = (Vec::new(), Vec::new());
    for name in listed.into_iter().filter(|name| is_layer_name(&name.to_string_lossy())) {
        let name = match name.into_string() {
            Ok(name) => name,
            Err(name) => {
                let name = name.to_string_lossy();
                warnings.push(format!("the name of {name} is no UTF-8 text, so it is not a layer"));
                continue;
            }
        };
        let found = match sources.find(Path::new(&name)) {
            Ok(found) if found.metadata.is_dir() => found,
            // A file or a dangling link.
            Ok(_) | Err(SourceError::Missing(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        match layer(&name, folder.join(&name), &found, &sources)? {
            Some(layer) => layers.push(layer),
            None => warnings.push(format!(
                "{name} has neither a `build-layer` nor a `modify-disk`, so it is not a layer"
            )),
        }
    }
    if layers.is_empty() {
        return Err(ProjectError::Empty(folder.to_owned()));
    }
    let path = folder.join(CONFIG_FILE);
    let config = match sources.find(Path::new(CONFIG_FILE)) {
        Ok(found) => {
            let text = rooted::open_file(&found.real)
                .map_err(io::Error::from)
                .and_then(rooted::read_recipe)
                .map_err(|source| ProjectError::Io { path: path.clone(), source })?;
            config::parse(&path.display().to_string(), &text)?
        }
        Err(SourceError::Missing(_)) => Config::default(),
        Err(error) => return Err(error.into()),
    };
    let known = |name: &String| layers.iter().any(|layer: &Layer| layer.name == *name);
    if let Some(layer) = config.timeouts.keys().find(|name| !known(name)).cloned() {
        return Err(ProjectError::UnknownTimeout { path, layer });
    }
    Ok(Project { folder: folder.to_owned(), layers, config, warnings, sources })
}

/// Whether a name begins with two or more digits and an underscore.
fn is_layer_name(name: &str) -> bool {
    let digits = name.bytes().take_while(u8::is_ascii_digit).count();
    digits >= DIGITS_MIN && name.as_bytes().get(digits) == Some(&b'_')
}

fn layer(
    name: &str,
    folder: PathBuf,
    found: &Source,
    sources: &Sources,
) -> Result<Option<Layer>, ProjectError> {
    let Some((kind, script)) = find_script(name, found, sources)? else { return Ok(None) };
    let path = folder.join(kind.script());
    if !script.real.starts_with(&found.real) {
        return Err(ProjectError::ScriptElsewhere { path, real: script.real });
    }
    if script.metadata.permissions().mode() & 0o111 == 0 {
        return Err(ProjectError::NotExecutable(path));
    }
    let mut bytes = Vec::new();
    let read = rooted::open_file(&script.real)
        .map_err(io::Error::from)
        .and_then(|file| file.take(SCRIPT_MAX_BYTES + 1).read_to_end(&mut bytes));
    if let Err(source) = read {
        return Err(ProjectError::Io { path, source });
    }
    let is_too_large = bytes.len() as u64 > SCRIPT_MAX_BYTES;
    if is_too_large && bytes.starts_with(b"#!") {
        return Err(ProjectError::TooLarge(path));
    }
    // A program has no comments.
    let script = match is_too_large {
        true => String::new(),
        false => String::from_utf8_lossy(&bytes).into_owned(),
    };
    let hints = Hints::of(&script).map_err(|(line, problem)| ProjectError::Hint {
        path: path.clone(),
        line,
        problem,
    })?;
    let (name, real) = (name.to_owned(), found.real.clone());
    Ok(Some(Layer { name, folder, real, kind, hints, script }))
}

/// The script of a layer, if it has one.
fn find_script(
    name: &str,
    layer: &Source,
    sources: &Sources,
) -> Result<Option<(Kind, Source)>, ProjectError> {
    for kind in [Kind::BuildLayer, Kind::ModifyDisk] {
        match sources.find(&Path::new(name).join(kind.script())) {
            Ok(script) if script.metadata.is_file() => return Ok(Some((kind, script))),
            Ok(_) | Err(SourceError::Missing(_)) => {}
            Err(SourceError::Outside { real, .. } | SourceError::Hidden { real, .. }) => {
                let path = layer.path.join(kind.script());
                return Err(ProjectError::ScriptElsewhere { path, real });
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

impl Project {
    /// The layers up to the named one, or all. `10_update/` means `10_update`.
    ///
    /// # Errors
    /// Fails if no layer has this name.
    pub fn up_to(&self, last: Option<&str>) -> Result<&[Layer], ProjectError> {
        let Some(last) = last else { return Ok(&self.layers) };
        let name = last.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        match self.layers.iter().position(|layer| layer.name == name) {
            Some(index) => Ok(&self.layers[..=index]),
            None => Err(ProjectError::UnknownLayer {
                name: name.to_owned(),
                layers: self.layers.iter().map(|layer| layer.name.clone()).collect(),
            }),
        }
    }
}

impl Layer {
    /// The source of a bind.
    pub(crate) fn source(&self, bind: &Bind, sources: &Sources) -> Result<Source, SourceError> {
        sources.find(&Path::new(&self.name).join(&bind.from))
    }
}

/// Why a new layer cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum NewLayerError {
    /// The name is invalid.
    #[error("`{0}` is not a name of a layer, such as 30_name: two or more digits, `_`, and a name")]
    Name(String),
    /// The layer exists.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// A file or directory cannot be written.
    #[error("cannot make {}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Creates the directory of a new layer with an empty script, and returns the script's path.
///
/// # Errors
/// Fails on an invalid name, an existing layer, or a directory that cannot be written.
pub fn new_layer(project: &Path, name: &str) -> Result<PathBuf, NewLayerError> {
    let name = name.trim_end_matches('/');
    let rest = name.trim_start_matches(|c: char| c.is_ascii_digit());
    if !is_layer_name(name) || rest.len() < 2 || name.contains('/') {
        return Err(NewLayerError::Name(name.to_owned()));
    }
    let folder = project.join(name);
    let script = folder.join(Kind::BuildLayer.script());
    let made = fs::create_dir(&folder).and_then(|()| rooted::allow_user_mode_at(&folder, 0o777));
    made.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => NewLayerError::Exists(folder.clone()),
        _ => NewLayerError::Io { path: folder.clone(), source },
    })?;
    fs::write(&script, "#!/bin/sh\nset -eu\n\n")
        .and_then(|()| rooted::allow_user_mode_at(&script, 0o777))
        .map_err(|source| NewLayerError::Io { path: script.clone(), source })?;
    Ok(script)
}

#[cfg(test)]
pub(crate) mod tests;
