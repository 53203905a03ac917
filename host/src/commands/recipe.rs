//! Recipes of all front ends, lowered to plans for verbs that inspect builds.

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
    /// The build of an artifact that a B9 file describes
    B9(Box<B9PlanArgs>),
}

/// A recipe and the options of its own command line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecipeArgs<'a> {
    /// The recipe, if it is not a list of elements.
    pub(crate) other: Option<&'a OtherRecipe>,
    /// The options of a build with elements. If there is another recipe, at most the output options
    /// are used.
    pub(crate) elements: &'a BuildArgs,
}

impl RecipeArgs<'_> {
    /// Returns the output and log options: those of the recipe where it has them, else those of the
    /// build with elements.
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

    /// Returns the settings that the command line gives.
    pub(crate) fn settings(&self) -> Settings {
        match self.other {
            None => options::build_settings(self.elements),
            Some(OtherRecipe::Vmdb(args)) => options::builder_settings(&args.builder),
            Some(OtherRecipe::Layers(args)) => options::builder_settings(&args.builder),
            Some(OtherRecipe::B9(args)) => b9::build_settings(&args.build),
        }
    }

    /// Downloads or builds what the plan of the recipe needs: the base image of layers, on whose
    /// digest the keys of all stages depend. Verbs that only show a plan do not call this.
    ///
    /// # Errors
    /// Fails if the base image cannot be downloaded or built.
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

    /// Lowers the recipe to a plan.
    ///
    /// # Errors
    /// Fails if the recipe or its options are invalid.
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
