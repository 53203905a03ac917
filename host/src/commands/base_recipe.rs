//! Builds the base images of layers from other recipes: by the same pipeline, in this process, with
//! the settings and the observer of the run that needs them.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{Args, Command, FromArgMatches};
use layers::FrontEnd;

use super::{
    context::{BaseBuild, BaseFuture, ProcessContext},
    dib,
    layers::{self as layer_folders, LayersBuildArgs},
    vmdb::{self, VmdbArgs},
};
use crate::{
    build::pipeline,
    cli::{self, BuildArgs, BuildLine, EnvVar, Personality, usage},
    error::CommandError,
    run_context::RunContext,
};

/// Builds a base image with the front end that its recipe names.
pub(crate) fn build<'a>(
    context: &'a ProcessContext,
    base: BaseBuild<'a>,
    ctx: &'a RunContext,
) -> BaseFuture<'a> {
    Box::pin(async move {
        match base.recipe.front_end {
            FrontEnd::Dib => {
                let (context, args) = of_elements(context, &base)?;
                let plan = dib::lower(&context, &args, &base.settings, ctx)?.plan;
                pipeline::build(&plan, &base.settings, ctx).await.map(drop)
            }
            FrontEnd::Vmdb => {
                let args: VmdbArgs = parsed(&base, "vmdb", "--output")?;
                vmdb::build_base(&args, &base, context.console, ctx).await
            }
            FrontEnd::Layers => {
                let args: LayersBuildArgs = parsed(&base, "layers", "--output")?;
                let args = LayersBuildArgs { project: base.project.join(&args.project), ..args };
                layer_folders::build_base(context, &args, &base, ctx).await
            }
        }
    })
}

/// Parses the arguments of a verb: the output option, and the words of the project's recipe.
fn parsed<T: Args + FromArgMatches>(
    base: &BaseBuild<'_>,
    verb: &'static str,
    output: &str,
) -> Result<T, CommandError> {
    let command = T::augment_args(Command::new(verb));
    let output = [verb.into(), output.into(), base.image.clone().into_os_string()];
    let words = output.into_iter().chain(base.recipe.words().into_iter().map(OsString::from));
    let matches = command.try_get_matches_from(words);
    let args = matches.and_then(|matches| T::from_arg_matches(&matches));
    args.map_err(|error| CommandError::usage(error.to_string().trim_end()))
}

/// Returns the context and the arguments of a build with elements. Scripts see the words as written
/// in the project; relative paths in the arguments are resolved against the project.
fn of_elements(
    context: &ProcessContext,
    base: &BaseBuild<'_>,
) -> Result<(ProcessContext, BuildArgs), CommandError> {
    let personality = Personality::VirtDib;
    let command = personality.build_command();
    let output = ["-t".into(), "raw".into(), "-o".into(), base.image.with_extension("").into()];
    let words = base.recipe.words().into_iter().map(OsString::from);
    let words: Vec<OsString> = output.into_iter().chain(words).collect();
    let BuildLine::Build(mut args) = cli::parse_build(personality, &command, &words)? else {
        return Err(usage("the recipe of the base image builds nothing"));
    };
    for path in &mut args.elements.element_path {
        *path = base.project.join(&path);
    }
    for variable in &mut args.scripts.envvar {
        from_project(variable, base.project);
    }
    args.builder.guest.network.no_network = !base.settings.network;
    let context = ProcessContext { personality, command, args: words, ..context.clone() };
    Ok((context, *args))
}

/// Resolves the file in `DIB_BLOCK_DEVICE_CONFIG=file://...` against the project.
fn from_project(variable: &mut EnvVar, project: &Path) {
    if let EnvVar::Set(name, value) = variable
        && name == "DIB_BLOCK_DEVICE_CONFIG"
        && let Some(path) = value.strip_prefix("file://")
    {
        let path: PathBuf = project.join(path);
        *value = format!("file://{}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{commands::command_line, settings::Settings, ui::Console};

    #[test]
    fn a_base_of_elements_is_built_from_its_project() {
        let yaml = "base:\n  recipe: dib\n  arguments: [-p, own, --envvar, \
                    'DIB_BLOCK_DEVICE_CONFIG=file://disk.yaml', debian-minimal]\n";
        let config = layers::parse_config("vbuild.yaml", yaml).unwrap();
        let Some(layers::Base::Recipe(recipe)) = config.base else { panic!("no recipe") };
        let base = BaseBuild {
            recipe: &recipe,
            project: Path::new("/project"),
            image: "/cache/base.raw".into(),
            settings: Settings { network: false, ..Settings::default() },
        };
        let console =
            Console { stdout_is_terminal: false, stderr_is_terminal: false, colours: false };
        let (personality, command) = (Personality::Vbuild, command_line::command());
        let context = ProcessContext::of_process(console, personality, command, Vec::new(), build);
        let (context, args) = of_elements(&context, &base).unwrap();
        assert_eq!(args.elements.elements, ["debian-minimal"]);
        assert_eq!(args.elements.element_path, [Path::new("/project/own")]);
        assert_eq!(args.image.name, "/cache/base");
        assert!(args.builder.guest.network.no_network);
        let file =
            EnvVar::Set("DIB_BLOCK_DEVICE_CONFIG".into(), "file:///project/disk.yaml".into());
        assert_eq!(args.scripts.envvar, [file]);
        assert!(context.args.contains(&"--element-path=own".into()), "{:?}", context.args);
    }
}
