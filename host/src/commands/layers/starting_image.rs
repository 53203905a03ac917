//! The base image of a project: a local file, a download, or what another recipe
//! makes.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use base_image::{BaseError, BaseImage, Expected};
use layers::{Base, Recipe};
use sha2::{Digest as _, Sha256};

use crate::{
    error::{CommandError, Kind},
    pipeline::{self, Ctx},
    settings::Settings,
};

/// Base images, below the user's cache directory.
const FOLDER: &str = "bases";

/// Where base images are kept.
#[must_use]
pub(super) fn folder(settings: &Settings) -> PathBuf {
    folder_in(&settings.cache_dir)
}

/// The same by the cache directory.
#[must_use]
pub(super) fn folder_in(cache_dir: &Path) -> PathBuf {
    cache_dir.join(FOLDER)
}

/// Gets a base image.
///
/// # Errors
/// When there is none, or another one than was promised.
pub(super) fn find(
    base: &Base,
    project: &Path,
    settings: &Settings,
    ctx: &Ctx,
) -> Result<BaseImage, CommandError> {
    let folder = folder(settings);
    match base {
        Base::Image { path, digest } => {
            let expected = digest.as_deref().map(Expected::parse).transpose().map_err(failure)?;
            base_image::open(&project.join(path), expected.as_ref(), &folder).map_err(failure)
        }
        Base::Url { url, digest } => {
            let expected = Expected::parse(digest).map_err(failure)?;
            let certificates = pipeline::load_certificates(settings)?;
            let fetched = base_image::fetch(url, &expected, &folder, certificates.as_deref())
                .map_err(failure)?;
            if fetched.downloaded > 0 {
                ctx.say(format!("downloaded {url}"));
            }
            base_image::open(&fetched.path, None, &folder).map_err(failure)
        }
        Base::Recipe(recipe) => {
            let image = run_recipe(recipe, project, &folder, settings, ctx)?;
            base_image::open(&image, None, &folder).map_err(failure)
        }
    }
}

pub(super) fn failure(error: BaseError) -> CommandError {
    let kind = match &error {
        BaseError::Download { .. } => Kind::Build,
        _ => Kind::Usage,
    };
    CommandError::new(kind, error)
}

/// Runs another build of this program. What has not changed since the last time
/// comes from the cache, so this is quick then.
fn run_recipe(
    recipe: &Recipe,
    project: &Path,
    folder: &Path,
    settings: &Settings,
    ctx: &Ctx,
) -> Result<PathBuf, CommandError> {
    let host = |error: std::io::Error| {
        CommandError::new(Kind::Host, error).context("cannot build the base image")
    };
    let project = std::fs::canonicalize(project).map_err(host)?;
    let mut hash = Sha256::new();
    for word in recipe.arguments.iter().map(String::as_str).chain([recipe.front_end.as_str()]) {
        hash.update(word);
        hash.update([0]);
    }
    hash.update(project.as_os_str().as_encoded_bytes());
    let name: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let (bases, folder) = (folder, folder.join("recipes").join(name));
    base_image::note_use(bases, &folder);
    std::fs::create_dir_all(&folder).map_err(host)?;
    let image = folder.join("base.raw");
    let program = match &settings.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(host)?,
    };
    let mut command = Command::new(&program);
    command.current_dir(&project);
    match recipe.front_end.as_str() {
        "dib" => {
            command.args(["-t", "raw"]).arg("-o").arg(folder.join("base")).args(&recipe.arguments)
        }
        "vmdb" => command.arg("vmdb").args(&recipe.arguments).arg("--output").arg(&image),
        _ => command.arg("layers").args(&recipe.arguments).arg("-o").arg(&image),
    };
    command.arg("--cache-dir").arg(&settings.cache_dir);
    ctx.say(format!(
        "the base image is built first: {} {}",
        recipe.front_end,
        recipe.arguments.join(" ")
    ));
    let status = command.status().map_err(host)?;
    if status.success() {
        return Ok(image);
    }
    let text = format!("the base image's own build failed ({status})");
    Err(CommandError::message(Kind::Build, text))
}
