//! A folder of layers: which of its folders are layers, and what their scripts
//! are.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use inputs::{Source, SourceError, Sources};

use crate::{Bind, Config, ConfigError, Hints, config};

/// What a project may declare beside its folders.
pub const CONFIG_FILE: &str = "vbuild.yaml";
/// Where results are, seen from the project.
pub const BUILD_FOLDER: &str = "build";
/// Digits that a layer's name begins with at least.
const DIGITS_MIN: usize = 2;
/// A script is read for its comments; one that is larger is none.
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
    /// Its folder's name, such as `10_update`.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// The folder without links.
    pub(crate) real: PathBuf,
    /// Its script.
    pub kind: Kind,
    /// What the script's comments say.
    pub hints: Hints,
    /// The script, for what else is read out of it.
    pub(crate) script: String,
}

/// A project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// Its folder.
    pub folder: PathBuf,
    /// The layers in order.
    pub layers: Vec<Layer>,
    /// What it declares.
    pub config: Config,
    /// What looks like a layer and is none.
    pub warnings: Vec<String>,
    /// Which files of the host it may name.
    pub sources: Sources,
}

/// Why a project cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// A file or folder.
    #[error("cannot read {}", path.display())]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Something that it names is not its own, or not there.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A script that the layer has not got in the guest.
    #[error(
        "{} is a link to `{}`, but in the guest a layer has its own folder only",
        path.display(), real.display()
    )]
    ScriptElsewhere {
        /// The script.
        path: PathBuf,
        /// Where it leads.
        real: PathBuf,
    },
    /// Its declaration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A script that cannot be run.
    #[error("{} is not executable", .0.display())]
    NotExecutable(PathBuf),
    /// A comment that asks for something impossible.
    #[error("{}:{line}: {problem}", path.display())]
    Hint {
        /// The script.
        path: PathBuf,
        /// The line.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// There is nothing to build.
    #[error("{} has no layers: folders such as 10_name with a `build-layer` or a `modify-disk`", .0.display())]
    Empty(PathBuf),
    /// A name that no layer has.
    #[error("there is no layer `{name}`; the layers are {}", layers.join(", "))]
    UnknownLayer {
        /// The name.
        name: String,
        /// Those that there are.
        layers: Vec<String>,
    },
    /// The declaration speaks of a layer that is not there.
    #[error("{}: `timeouts` names the layer `{layer}`, which is not there", path.display())]
    UnknownTimeout {
        /// The declaration.
        path: PathBuf,
        /// The layer.
        layer: String,
    },
}

/// Reads a project. Beside its own files it may name those of `sources`, whose folders
/// are those of the project.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn read(folder: &Path, sources: Sources) -> Result<Project, ProjectError> {
    let listed = rooted::Dir::open(folder).and_then(|top| top.names());
    let names: Vec<String> = listed
        .map_err(|source| ProjectError::Io { path: folder.to_owned(), source: source.into() })?
        .into_iter()
        .filter_map(|name| name.into_string().ok())
        .filter(|name| is_layer_name(name))
        .collect();
    let (mut layers, mut warnings) = (Vec::new(), Vec::new());
    for name in names {
        let found = match sources.find(Path::new(&name)) {
            Ok(found) if found.metadata.is_dir() => found,
            Err(error @ (SourceError::Outside { .. } | SourceError::Hidden { .. })) => {
                return Err(error.into());
            }
            // A file, or a link to nothing.
            _ => continue,
        };
        match layer(&name, folder.join(&name), &found, &sources)? {
            Some(layer) => layers.push(layer),
            None => warnings.push(format!(
                "{name} has neither a `build-layer` nor a `modify-disk`, so it is no layer"
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

/// Two or more digits and an underscore.
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
    // What is no text has no comments.
    let script = if script.metadata.len() <= SCRIPT_MAX_BYTES {
        let mut bytes = Vec::new();
        let read = rooted::open_file(&script.real)
            .map_err(io::Error::from)
            .and_then(|file| file.take(SCRIPT_MAX_BYTES).read_to_end(&mut bytes));
        match read {
            Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(source) => return Err(ProjectError::Io { path, source }),
        }
    } else {
        String::new()
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
    /// The layers up to one; all without a name. `10_update/` means `10_update`.
    ///
    /// # Errors
    /// When there is none of that name.
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
    /// What a bind shows.
    pub(crate) fn source(&self, bind: &Bind, sources: &Sources) -> Result<Source, SourceError> {
        sources.find(&Path::new(&self.name).join(&bind.from))
    }
}

/// Why a layer cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NewLayerError {
    /// Its name.
    #[error("`{0}` is no name of a layer, such as 30_name: two or more digits, `_`, and a name")]
    Name(String),
    /// It is there.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// It cannot be written.
    #[error("cannot make {}", path.display())]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Makes the folder of a new layer with an empty script; gives the script.
///
/// # Errors
/// A bad name, a layer that is there, a folder that cannot be written.
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
