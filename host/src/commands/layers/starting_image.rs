//! The base image of a project: a local file, a download, or what another recipe
//! makes.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use base_image::{AllowedBacking, BaseImage, Expected};
use layers::{Base, FrontEnd, Recipe};
use machine::{DriveFormat, accel::Accel};
use sha2::{Digest as _, Sha256};

use crate::{
    build::{bases, planned::Missing, runtime},
    error::{CommandError, Kind},
    machine::ca,
    nested,
    run_context::RunContext,
    settings::{CaSource, Settings},
};

/// Gets a base image. What is downloaded stands on nothing.
///
/// # Errors
/// When there is none, or another one than was promised.
pub(super) fn find(
    base: &Base,
    project: &Path,
    allowed: &AllowedBacking,
    settings: &Settings,
    ctx: &RunContext,
    missing: Missing,
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
        Base::Url { url, digest } => {
            let expected = Expected::parse(digest)?;
            if missing == Missing::Fail {
                let there = base_image::fetched(&expected, &folder);
                let path = there.ok_or_else(|| not_here("downloaded"))?;
                return base_image::open(&path, None, &AllowedBacking::default(), &folder)
                    .map_err(CommandError::from);
            }
            let certificates = ca::certificates(settings)?;
            let fetched = runtime::until_signalled(ctx, || {
                base_image::fetch(url, &expected, &folder, certificates.as_deref())
                    .map_err(CommandError::from)
            })?;
            if fetched.downloaded > 0 {
                ctx.say(format!("downloaded {url}"));
            }
            open(&fetched.path, None, &none)
        }
        Base::Recipe(recipe) => {
            let image = match missing {
                Missing::Make => run_recipe(recipe, project, &folder, settings, ctx)?,
                Missing::Fail => {
                    let image = recipe_folder(recipe, project, &folder)?.join(RECIPE_IMAGE);
                    Some(image).filter(|path| path.is_file()).ok_or_else(|| not_here("built"))?
                }
            };
            open(&image, None, &none)
        }
    }
}

/// The image in the folder of a recipe.
const RECIPE_IMAGE: &str = "base.raw";

/// Where the image of a recipe is kept.
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

/// Runs another build of this program. What has not changed since the last time
/// comes from the cache, so this is quick then.
fn run_recipe(
    recipe: &Recipe,
    project: &Path,
    folder: &Path,
    settings: &Settings,
    ctx: &RunContext,
) -> Result<PathBuf, CommandError> {
    let host = |error: std::io::Error| {
        CommandError::new(Kind::Host, error).context("cannot build the base image")
    };
    let (bases, folder) = (folder, recipe_folder(recipe, project, folder)?);
    let project = std::fs::canonicalize(project).map_err(host)?;
    let words = recipe.words();
    base_image::note_use(bases, &folder);
    std::fs::create_dir_all(&folder).map_err(host)?;
    let image = folder.join(RECIPE_IMAGE);
    let program = match &settings.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(host)?,
    };
    let mut command = nested::command(&program);
    command.current_dir(&project);
    match recipe.front_end {
        FrontEnd::Dib => command.args(["-t", "raw"]).arg("-o").arg(folder.join("base")),
        FrontEnd::Vmdb => command.arg("vmdb").arg("--output").arg(&image),
        FrontEnd::Layers => command.arg("layers").arg("-o").arg(&image),
    };
    // What is built comes last: no word of the project is in the place of an option.
    command.args(settings_words(&absolute(settings).map_err(host)?)).args(&words);
    let what = words.join(" ");
    ctx.say(format!("the base image is built first: {} {what}", recipe.front_end.name()));
    let Some(status) = nested::run(&mut command, &ctx.cancel).map_err(host)? else {
        return Err(runtime::stopped());
    };
    if status.success() {
        return Ok(image);
    }
    let text = format!("the base image's own build failed ({status})");
    Err(CommandError::message(Kind::Build, text))
}

/// The options that tell another vbuild to run as this one does: the same machine,
/// network, mirror, certificates and caches.
fn settings_words(settings: &Settings) -> Vec<OsString> {
    let mut words = Vec::new();
    let mut add = |name: &str, value: &OsStr| {
        let mut word = OsString::from(name);
        word.push("=");
        word.push(value);
        words.push(word);
    };
    let accel = match settings.accel {
        Accel::Auto => "auto",
        Accel::Kvm => "kvm",
        Accel::Tcg => "tcg",
    };
    add("--accel", accel.as_ref());
    add("--smp", settings.vcpus.to_string().as_ref());
    add("--memsize", settings.memory_mib.to_string().as_ref());
    add("--cache-dir", settings.cache_dir.as_os_str());
    for package in &settings.appliance_packages {
        add("--appliance-package", package.as_ref());
    }
    for host in &settings.allow_hosts {
        add("--allow-host", host.as_ref());
    }
    let place = settings.remote_cache.as_ref().map(ToString::to_string);
    let format = settings.drive_format.map(|format| match format {
        DriveFormat::Raw => "raw",
        DriveFormat::Qcow2 => "qcow2",
    });
    let bundle = settings.ca_bundle.as_ref().map(|bundle| match bundle {
        CaSource::Host => OsStr::new("host"),
        CaSource::File(path) => path.as_os_str(),
    });
    for (name, value) in [
        ("--mirror", settings.mirror.as_deref().map(OsStr::new)),
        ("--ca-bundle", bundle),
        ("--drive", settings.drive.as_deref().map(Path::as_os_str)),
        ("--drive-format", format.map(OsStr::new)),
        ("--remote-cache", place.as_deref().map(OsStr::new)),
        ("--remote-key", settings.remote_key.as_deref().map(Path::as_os_str)),
    ] {
        if let Some(value) = value {
            add(name, value);
        }
    }
    for (name, given) in [
        ("--no-network", !settings.network),
        ("--allow-private", settings.allow_private),
        ("--proxy-resolves", settings.proxy_resolves),
        ("--no-cache", !settings.stage_cache.enabled),
        ("--remote-unsigned", settings.remote_unsigned),
    ] {
        if given {
            words.push(name.into());
        }
    }
    words
}

/// Paths of settings that are relative are meant from where vbuild was started, and the
/// other vbuild starts in the project.
fn absolute(settings: &Settings) -> std::io::Result<Settings> {
    let whole = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
    let ca_bundle = match &settings.ca_bundle {
        Some(CaSource::File(path)) => Some(CaSource::File(std::path::absolute(path)?)),
        other => other.clone(),
    };
    let remote_cache = match &settings.remote_cache {
        Some(remote::Place::Folder(path)) => {
            Some(remote::Place::Folder(std::path::absolute(path)?))
        }
        other => other.clone(),
    };
    Ok(Settings {
        cache_dir: std::path::absolute(&settings.cache_dir)?,
        drive: whole(&settings.drive)?,
        remote_key: whole(&settings.remote_key)?,
        ca_bundle,
        remote_cache,
        ..settings.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        build::options,
        commands::command_line::{self, Invocation},
    };

    struct Nobody;

    impl engine::events::Observer for Nobody {
        fn event(&self, _: &engine::events::Event) {}
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
            let found = find(
                &base,
                folder.path(),
                &AllowedBacking::default(),
                &settings,
                &ctx,
                Missing::Fail,
            );
            let error = found.unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(!cache_dir.exists(), "no folder is made");
    }

    #[test]
    fn the_base_is_built_as_the_run_says() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            accel: Accel::Tcg,
            vcpus: 3,
            memory_mib: 777,
            cache_dir: folder.path().join("cache"),
            mirror: Some("http://m/d".into()),
            ca_bundle: Some(CaSource::File("/ca.pem".into())),
            appliance_packages: vec!["a".into()],
            network: false,
            allow_hosts: vec!["h:1".into()],
            allow_private: true,
            proxy_resolves: true,
            drive: Some("/d.img".into()),
            drive_format: Some(DriveFormat::Raw),
            remote_cache: Some(remote::Place::Folder("/shared".into())),
            remote_unsigned: true,
            ..Settings::default()
        };
        let mut argv = vec![OsString::from("vbuild")];
        argv.extend(settings_words(&settings));
        argv.push("deb".into());
        let Invocation::Build(args) = command_line::parse_argv(&argv).unwrap().1 else {
            panic!("no build")
        };
        assert_eq!(options::build_settings(&args), settings);
        assert_eq!(absolute(&settings).unwrap(), settings);
    }
}
