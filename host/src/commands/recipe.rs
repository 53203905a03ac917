//! The plan of a build, whichever recipe it is of: for verbs that look at builds.

use clap::Subcommand;
use plan::Plan;

use super::{
    Context,
    b9::{self, B9PlanArgs},
    dib,
    layers::{self, LayersBuildArgs, Missing},
    resolve,
    vmdb::{self, VmdbArgs},
};
use crate::{
    cli::{BuildArgs, OutputArgs},
    error::CommandError,
    pipeline::Ctx,
    settings::Settings,
};

/// A recipe that is not a list of elements.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum OtherRecipe {
    /// The build of a vmdb2 spec
    #[command(infer_long_args = true)]
    Vmdb(Box<VmdbArgs>),
    /// The build of a stack of layer folders
    Layers(Box<LayersBuildArgs>),
    /// The build of an artifact that a file of B9 describes
    B9(Box<B9PlanArgs>),
}

/// A recipe as its own command line tells it.
#[derive(Debug, Clone, Copy)]
pub struct RecipeArgs<'a> {
    /// One that is not elements.
    pub other: Option<&'a OtherRecipe>,
    /// Options of a recipe of elements.
    pub elements: &'a BuildArgs,
}

/// What would be built, and how.
#[derive(Debug)]
pub struct Prepared {
    /// The plan.
    pub plan: Plan,
    /// The settings.
    pub settings: Settings,
    /// Files that were made for the plan, and are there as long as this.
    pub files: Option<tempfile::TempDir>,
    /// Whether a build makes folders of its outputs where they are missing.
    pub makes_folders: bool,
}

impl RecipeArgs<'_> {
    /// The options about what is shown and logged, where the recipe has them.
    #[must_use]
    pub fn output(&self) -> OutputArgs {
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
    #[must_use]
    pub fn settings(&self) -> Settings {
        match self.other {
            None => resolve::build_settings(self.elements),
            Some(OtherRecipe::Vmdb(args)) => resolve::builder_settings(&args.builder),
            Some(OtherRecipe::Layers(args)) => resolve::builder_settings(&args.builder),
            Some(OtherRecipe::B9(args)) => b9::build_settings(&args.build),
        }
    }

    /// Lowers the recipe.
    ///
    /// # Errors
    /// What is wrong with the recipe or its options.
    pub fn prepare(
        &self,
        context: &Context,
        ctx: &Ctx,
        missing: Missing,
    ) -> Result<Prepared, CommandError> {
        match self.other {
            None => {
                let settings = dib::settings(context, self.elements);
                let image = &self.elements.image;
                dib::container_archive(image.load_into, Some(&image.formats))?;
                let plan = dib::lower(context, self.elements, &settings, ctx)?.plan;
                Ok(Prepared { plan, settings, files: None, makes_folders: false })
            }
            Some(OtherRecipe::Vmdb(args)) => vmdb::plan(args, ctx),
            Some(OtherRecipe::Layers(args)) => layers::plan(args, ctx, missing),
            Some(OtherRecipe::B9(args)) => b9::plan(context, args, ctx),
        }
    }
}
