//! `vbuild shell`: opens a shell in the machine of a build, between two of its stages.

use std::sync::Arc;

use clap::Args;
use plan::Plan;

use super::{
    context::{Outcome, ProcessContext},
    recipe::{OtherRecipe, RecipeArgs},
};
use crate::{
    build::{logs, pipeline, planned::Planned, runtime},
    cli::BuildArgs,
    error::CommandError,
    ui::{self, Console, Ui},
};

/// The arguments of `vbuild shell`.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(
    after_help = "What is not in the cache is built first. Nothing done in the shell gets into a \
                        result, and no output is written. Without a terminal, standard input is the \
                        script of the shell. A build of other recipes is named behind the options: \
                        `vbuild shell --at STAGE vmdb SPEC`, `vbuild shell --at STAGE layers DIR`.",
    subcommand_value_name = "RECIPE",
    subcommand_help_heading = "Other recipes"
)]
pub(crate) struct ShellArgs {
    /// Open the shell before STAGE, at `after:STAGE` or at `end`; `vbuild plan` lists the stages
    #[arg(long, value_name = "STAGE", required = true)]
    pub(crate) at: String,

    /// The recipe, if it is not a list of elements.
    #[command(subcommand)]
    pub(crate) recipe: Option<OtherRecipe>,

    /// The options of the build.
    #[command(flatten)]
    pub(crate) build: BuildArgs,
}

/// Opens the shell, after building the stages before it that are not in the cache.
pub(crate) fn run(context: &ProcessContext, args: &ShellArgs) -> Outcome {
    let recipe = RecipeArgs { other: args.recipe.as_ref(), elements: &args.build };
    let output = recipe.output();
    let log = output.logfile.clone().or_else(|| logs::new_log(&recipe.settings().cache_dir));
    // The shell owns the terminal, so no live view may be drawn over it.
    let console = Console { stderr_is_terminal: false, ..context.console };
    let ui = Arc::new(Ui::open(&ui::Settings::of(&output, log), &console)?);
    runtime::run(&ui, async |ctx| {
        recipe.make_ready(context, &ctx).await?;
        let Planned { plan, settings, files: _files, .. } = recipe.prepare(context, &ctx)?;
        let after = stages_before(&plan, &args.at)?;
        pipeline::shell(&plan, &settings, &ctx, after).await
    })?;
    Ok(0)
}

/// Returns the number of stages that run before the place that `at` names.
fn stages_before(plan: &Plan, at: &str) -> Result<usize, CommandError> {
    if at == "end" {
        return Ok(plan.stages.len());
    }
    let (name, more) = at.strip_prefix("after:").map_or((at, 0), |name| (name, 1));
    let index = plan.stages.iter().position(|stage| stage.name == name);
    index.map(|index| index + more).ok_or_else(|| {
        let names: Vec<&str> = plan.stages.iter().map(|stage| stage.name.as_str()).collect();
        CommandError::usage(format!("the build has no stage `{name}`"))
            .hint(format!("its stages: {}", names.join(", ")))
    })
}
