//! The plan of a build, whichever recipe it is of: for verbs that look at builds.

use clap::Subcommand;

use super::{
    b9::{self, B9PlanArgs},
    context::ProcessContext,
    dib,
    layers::{self, LayersBuildArgs},
    vmdb::{self, VmdbArgs},
};
use crate::{
    build::{container, options, planned::Planned},
    cli::{BuildArgs, OutputArgs},
    error::CommandError,
    run_context::RunContext,
    settings::Settings,
};

/// A recipe that is not a list of elements.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub(crate) enum OtherRecipe {
    /// The build of a vmdb2 spec
    #[command(infer_long_args = true)]
    Vmdb(Box<VmdbArgs>),
    /// The build of a stack of layer folders
    Layers(Box<LayersBuildArgs>),
    /// The build of an artifact that a file of B9 describes
    B9(Box<B9PlanArgs>),
}

/// A recipe and the options of its own command line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecipeArgs<'a> {
    /// One that is not elements.
    pub(crate) other: Option<&'a OtherRecipe>,
    /// The build with elements, when no other recipe is given.
    pub(crate) elements: &'a BuildArgs,
}

impl RecipeArgs<'_> {
    /// The options about what is shown and logged, where the recipe has them.
    pub(crate) fn output(&self) -> OutputArgs {
        match self.other {
            None => self.elements.output.clone(),
            Some(OtherRecipe::Vmdb(args)) => {
                OutputArgs { logfile: args.log.clone(), ..self.elements.output.clone() }
            }
            Some(OtherRecipe::Layers(args)) => args.output.clone(),
            Some(OtherRecipe::B9(_)) => self.elements.output.clone(),
        }
    }

    /// The settings, as far as the command line says them.
    pub(crate) fn settings(&self) -> Settings {
        match self.other {
            None => options::build_settings(self.elements),
            Some(OtherRecipe::Vmdb(args)) => options::builder_settings(&args.builder),
            Some(OtherRecipe::Layers(args)) => options::builder_settings(&args.builder),
            Some(OtherRecipe::B9(args)) => b9::build_settings(&args.build),
        }
    }

    /// Makes what the plan of the recipe needs: the base image of layers, whose digest the
    /// keys of all stages begin with. Questions about a build do not do this.
    ///
    /// # Errors
    /// When it cannot be downloaded or built.
    pub(crate) async fn make_ready(
        &self,
        context: &ProcessContext,
        ctx: &RunContext,
    ) -> Result<(), CommandError> {
        match self.other {
            Some(OtherRecipe::Layers(args)) => layers::make_ready(context, args, ctx).await,
            None | Some(OtherRecipe::Vmdb(_) | OtherRecipe::B9(_)) => Ok(()),
        }
    }

    /// Lowers the recipe.
    ///
    /// # Errors
    /// What is wrong with the recipe or its options.
    pub(crate) fn prepare(
        &self,
        context: &ProcessContext,
        ctx: &RunContext,
    ) -> Result<Planned, CommandError> {
        match self.other {
            None => {
                let settings = dib::settings(context, self.elements);
                let image = &self.elements.image;
                container::archive(image.load_into, Some(&image.formats))?;
                let plan = dib::lower(context, self.elements, &settings, ctx)?.plan;
                Ok(Planned::new(plan, settings))
            }
            Some(OtherRecipe::Vmdb(args)) => vmdb::plan(args, ctx),
            Some(OtherRecipe::Layers(args)) => layers::plan(args, ctx),
            Some(OtherRecipe::B9(args)) => b9::plan(context, args, ctx),
        }
    }
}
