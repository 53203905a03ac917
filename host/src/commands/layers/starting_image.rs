//! The base image of a project: a local file, a download, or the result of another recipe. [`make`]
//! downloads or builds it; [`find`] only opens it.

use std::path::{Path, PathBuf};

use base_image::{AllowedBacking, BaseImage, Expected};
use engine::cache::{Refresh, Rules};
use layers::{Base, Recipe};
use sha2::{Digest as _, Sha256};

use crate::{
    build::{bases, runtime},
    commands::context::{BaseBuild, ProcessContext},
    error::{CommandError, Kind},
    machine::ca,
    run_context::RunContext,
    settings::{Settings, StageCache},
};

/// Opens the base image, which must exist on this host. An image that was downloaded or built by a
/// recipe must not have backing files.
///
/// # Errors
/// Fails if the image does not exist, or if it does not have the expected digest.
pub(super) fn find(
    base: &Base,
    project: &Path,
    allowed: &AllowedBacking,
    settings: &Settings,
    ctx: &RunContext,
) -> Result<BaseImage, CommandError> {
    let folder = bases::folder(&settings.cache_dir);
    let none = AllowedBacking::default();
    let open = |path: &Path, expected: Option<&Expected>, allowed: &AllowedBacking| {
        runtime::until_signalled(ctx, || {
            base_image::open(path, expected, allowed, &folder).map_err(CommandError::from)
        })
    };
    match base {
        Base::Image { path, digest } => {
            let expected = digest.as_deref().map(Expected::parse).transpose()?;
            open(&project.join(path), expected.as_ref(), allowed)
        }
        Base::Url { digest, .. } => {
            let image = base_image::fetched(&Expected::parse(digest)?, &folder);
            open(&image.ok_or_else(|| not_here("downloaded"))?, None, &none)
        }
        Base::Recipe(recipe) => {
            let image = recipe_folder(recipe, project, &folder)?.join(RECIPE_IMAGE);
            let image = Some(image).filter(|path| path.is_file());
            open(&image.ok_or_else(|| not_here("built"))?, None, &none)
        }
    }
}

/// Downloads or builds the base image. Whatever has not changed since the last time is taken from
/// the caches.
///
/// # Errors
/// Fails if the image cannot be downloaded or built.
pub(super) async fn make(
    base: &Base,
    project: &Path,
    settings: &Settings,
    context: &ProcessContext,
    ctx: &RunContext,
) -> Result<(), CommandError> {
    match base {
        Base::Image { .. } => Ok(()),
        Base::Url { url, digest } => {
            let (expected, folder) = (Expected::parse(digest)?, bases::folder(&settings.cache_dir));
            let certificates = ca::certificates(settings)?;
            let fetched = runtime::until_signalled(ctx, || {
                base_image::fetch(url, &expected, &folder, certificates.as_deref())
                    .map_err(CommandError::from)
            })?;
            if fetched.downloaded > 0 {
                ctx.say(format!("downloaded {url}"));
            }
            Ok(())
        }
        Base::Recipe(recipe) => build(recipe, project, settings, context, ctx).await,
    }
}

/// Builds the base image from a recipe.
async fn build(
    recipe: &Recipe,
    project: &Path,
    settings: &Settings,
    context: &ProcessContext,
    ctx: &RunContext,
) -> Result<(), CommandError> {
    let host = |error: std::io::Error| {
        CommandError::new(Kind::Host, error).context("cannot build the base image")
    };
    let bases = bases::folder(&settings.cache_dir);
    let folder = recipe_folder(recipe, project, &bases)?;
    let project = std::fs::canonicalize(project).map_err(host)?;
    base_image::note_use(&bases, &folder);
    std::fs::create_dir_all(&folder).map_err(host)?;
    let what = recipe.words().join(" ");
    ctx.say(format!("the base image is built first: {} {what}", recipe.front_end.name()));
    let (image, settings) = (folder.join(RECIPE_IMAGE), of_base(settings));
    let base = BaseBuild { recipe, project: &project, image, settings };
    (context.build_base)(context, base, ctx).await.map_err(|error| {
        let kind = match error.kind {
            Kind::Interrupted | Kind::Unconfined | Kind::Host => error.kind,
            _ => Kind::Build,
        };
        let error = CommandError { kind, ..error };
        error.context("the base image's own build failed")
    })
}

/// Returns the settings of the run without those for the layers: the stages to run again, and the
/// time limit of scripts.
fn of_base(settings: &Settings) -> Settings {
    let rules = Rules { refresh: Refresh::Nothing, ..settings.stage_cache.rules.clone() };
    let stage_cache = StageCache { rules, ..settings.stage_cache.clone() };
    Settings { stage_cache, script_timeout: None, ..settings.clone() }
}

/// The file name of the image in the directory of a recipe.
const RECIPE_IMAGE: &str = "base.raw";

/// Returns the directory of a recipe's image, which is named by a digest of the recipe and the
/// project.
fn recipe_folder(recipe: &Recipe, project: &Path, folder: &Path) -> Result<PathBuf, CommandError> {
    let project = std::fs::canonicalize(project).map_err(|error| {
        CommandError::new(Kind::Usage, error)
            .context(format!("cannot use the project {}", project.display()))
    })?;
    let mut hash = Sha256::new();
    for word in recipe.words().iter().map(String::as_str).chain([recipe.front_end.name()]) {
        hash.update(word);
        hash.update([0]);
    }
    hash.update(project.as_os_str().as_encoded_bytes());
    let name: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(folder.join("recipes").join(name))
}

fn not_here(how: &str) -> CommandError {
    let text = format!("the base image is not {how} yet, and a question does not do that");
    CommandError::usage(text).hint("`vbuild layers` does; the keys of layers begin with its digest")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl engine::events::Observer for Nobody {
        fn event(&self, _: &engine::events::Event) {}
    }

    #[test]
    fn a_base_is_built_with_the_settings_of_the_run() {
        let stage_cache = StageCache {
            rules: Rules { refresh: Refresh::From("10_a".into()), ..Rules::default() },
            ..StageCache::default()
        };
        let settings = Settings {
            network: false,
            keep_sync: true,
            script_timeout: Some(std::time::Duration::from_secs(1)),
            stage_cache,
            ..Settings::default()
        };
        let stage_cache = StageCache { rules: Rules::default(), ..StageCache::default() };
        let expected = Settings { script_timeout: None, stage_cache, ..settings.clone() };
        assert_eq!(of_base(&settings), expected);
    }

    #[test]
    fn a_question_neither_builds_nor_downloads_a_base() {
        let folder = tempfile::tempdir().unwrap();
        let cache_dir = folder.path().join("cache");
        let settings = Settings { cache_dir: cache_dir.clone(), ..Settings::default() };
        let ctx = RunContext {
            observer: std::sync::Arc::new(Nobody),
            cancel: tokio::sync::watch::channel(false).1,
        };
        let recipe = "base:\n  recipe: vmdb\n  arguments: [a.vmdb]\n".to_owned();
        let url = format!("base:\n  url: https://x.invalid/y\n  sha256: {}\n", "0".repeat(64));
        for (yaml, word) in [(recipe, "not built yet"), (url, "not downloaded yet")] {
            let base = layers::parse_config("vbuild.yaml", &yaml).unwrap().base.unwrap();
            let found = find(&base, folder.path(), &AllowedBacking::default(), &settings, &ctx);
            let error = found.unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(!cache_dir.exists(), "no folder is made");
    }
}
