//! `vbuild layers`: builds a disk image as a stack of layers, each a directory with a script.

mod args;
mod build;
mod compare;
mod description;
mod starting_image;

pub(crate) use args::{LayersArgs, LayersBuildArgs, LayersVerb};
pub(crate) use build::{build_base, make_ready, plan};

use std::path::Path;

use args::{NewLayerArgs, RESULT, TestBootArgs};

use super::{
    boot,
    context::{Outcome, ProcessContext},
};

/// Runs the verb, or builds the project.
///
/// # Errors
/// Fails if the project is invalid, or if the build or the verb fails.
pub(crate) fn run(context: &ProcessContext, args: &LayersArgs) -> Outcome {
    match &args.verb {
        None => build::run(context, &args.build),
        Some(LayersVerb::NewLayer(args)) => new_layer(context, args),
        Some(LayersVerb::TestBoot(args)) => test_boot(context, args),
        Some(LayersVerb::CompareLayers(args)) => compare::run(context, args),
    }
}

fn new_layer(context: &ProcessContext, args: &NewLayerArgs) -> Outcome {
    let script = ::layers::new_layer(&args.project, &args.name)?;
    context.console.print(&format!("{}\n", script.display()))?;
    Ok(0)
}

fn test_boot(context: &ProcessContext, args: &TestBootArgs) -> Outcome {
    let image =
        args.image.clone().unwrap_or_else(|| Path::new(::layers::BUILD_FOLDER).join(RESULT));
    boot::run(
        context,
        &boot::BootArgs {
            image,
            format: None,
            block_size: machine::BlockSize::B512,
            trial: args.trial.clone(),
        },
    )
}
