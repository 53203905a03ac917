//! `vbuild plan`: shows what a build would do, without doing it.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use clap::Args;
use engine::ApplianceFiles;
use plan::{DiskRole, DiskSize, Plan, StageKey};
use tokio::sync::watch;

use super::{
    context::{Outcome, ProcessContext},
    recipe::{OtherRecipe, RecipeArgs},
};
use crate::{
    build::{checks, outputs, planned::Planned, stage_cache, targets},
    cli::BuildArgs,
    error::{CommandError, Kind},
    machine::appliance,
    run_context::RunContext,
    settings::Settings,
    ui::{self, Ui, bytes},
};

/// The number of digits of a key that are shown: enough to distinguish the keys of one plan.
const KEY_DIGITS: usize = 12;

/// The arguments of `vbuild plan`.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(
    subcommand_value_name = "RECIPE",
    subcommand_help_heading = "Other recipes",
    after_help = "A build of other recipes is named behind the options: `vbuild plan --cache vmdb SPEC`, \
                  `vbuild plan layers DIR`."
)]
pub(crate) struct PlanArgs {
    /// The recipe, if it is not a list of elements.
    #[command(subcommand)]
    pub(crate) recipe: Option<OtherRecipe>,

    /// The options of the build.
    #[command(flatten)]
    pub(crate) build: BuildArgs,

    /// Print the plan as JSON, with everything in it
    #[arg(long, conflicts_with = "cache")]
    pub(crate) json: bool,

    /// Show for each stage whether the cache has it, and if not, why
    #[arg(long)]
    pub(crate) cache: bool,
}

/// Prints the plan of a build. This needs no machine, and an appliance only for the keys of the
/// stages.
///
/// # Errors
/// Fails if the options, the elements or the outputs of the build are invalid.
pub(crate) fn run(context: &ProcessContext, args: &PlanArgs) -> Outcome {
    let recipe = RecipeArgs { other: args.recipe.as_ref(), elements: &args.build };
    let output = recipe.output();
    let mut view = ui::Settings::of(&output, output.logfile.clone());
    // Standard output contains only the plan.
    view.verbosity.quiet = true;
    let ui = Arc::new(Ui::open(&view, &context.console)?);
    let ctx = RunContext { observer: ui, cancel: watch::channel(false).1 };
    let Planned { plan, settings, makes_folders, results, files: _files } =
        recipe.prepare(context, &ctx)?;
    checks::outputs(&plan, makes_folders)?;
    checks::settings(&plan, &settings)?;
    if args.json {
        let json = serde_json::to_string_pretty(&plan)
            .map_err(|error| CommandError::new(Kind::Build, error))?;
        context.console.print_json(&(json + "\n"))?;
        return Ok(0);
    }
    let settings = settings.for_plan(&plan)?;
    let appliance = appliance_files(&settings);
    let cached = match (&appliance, args.cache) {
        (Ok(files), true) => Some(cached(&plan, &settings, files, &ctx)?),
        _ => None,
    };
    let mut text = text(&plan, &keys(&plan, &settings, appliance), cached.as_deref());
    text.push_str(&outputs_text(&plan, results.as_deref()));
    context.console.print(&text)?;
    Ok(0)
}

/// Returns the appliance that would be used, or the reason why it is not known.
fn appliance_files(settings: &Settings) -> Result<ApplianceFiles, String> {
    let (request, agent) = appliance::request(settings).map_err(|error| error.to_string())?;
    let found = ::appliance::find(&request).map_err(|error| error.to_string())?;
    let found = found.ok_or("no appliance yet; `vbuild appliance build` makes it")?;
    appliance::files(&found, &request, agent).map_err(|error| error.to_string())
}

/// Returns the keys of the stages, or the reason why they are not known.
fn keys(
    plan: &Plan,
    settings: &Settings,
    files: Result<ApplianceFiles, String>,
) -> Result<Vec<StageKey>, String> {
    let files = files?;
    let salt = stage_cache::salt(settings).ok_or("no store yet; the first build makes it")?;
    let around =
        stage_cache::surroundings(settings, &files, salt).map_err(|error| error.to_string())?;
    Ok(StageKey::of_plan(plan, &around))
}

/// Describes for each stage whether it would be taken from the cache or run, and why.
fn cached(
    plan: &Plan,
    settings: &Settings,
    files: &ApplianceFiles,
    ctx: &RunContext,
) -> Result<Vec<String>, CommandError> {
    let Some(cache) = stage_cache::for_question(settings, files, ctx)? else {
        return Ok(vec!["runs: there is no cache".to_owned(); plan.stages.len()]);
    };
    if outputs::has_finished(plan, &targets::of_plan(plan), &cache) {
        return Ok(vec!["hit: the finished files are kept".to_owned(); plan.stages.len()]);
    }
    let forecast = engine::cache::forecast(plan, &cache, SystemTime::now());
    let forecast = forecast?;
    let words = |(index, why): (usize, &Option<engine::cache::Why>)| match why {
        None => "hit".to_owned(),
        Some(why) => {
            let point = forecast.point.as_ref().filter(|point| point.index == index);
            let at = point.map(|point| format!(" from {} on", point.script)).unwrap_or_default();
            format!("runs{at}: {why}")
        }
    };
    Ok(forecast.reasons.iter().enumerate().map(words).collect())
}

fn text(plan: &Plan, keys: &Result<Vec<StageKey>, String>, cached: Option<&[String]>) -> String {
    let mut text = format!("{}: a plan of {}\n\ndisks\n", plan.name, plan.recipe);
    for disk in &plan.disks {
        let role = match disk.role {
            DiskRole::Scratch => "scratch",
            DiskRole::Target => "target",
        };
        let size = match &disk.size {
            DiskSize::Bytes(size) => bytes(*size),
            DiskSize::FactKib(_) => "as large as its files need".to_owned(),
        };
        let _ = writeln!(text, "  {:<12} {role:<8} {size}", disk.name);
    }
    text.push_str("\nstages\n");
    for (index, stage) in plan.stages.iter().enumerate() {
        let key = match keys {
            Ok(keys) => keys[index].to_string()[..KEY_DIGITS].to_owned(),
            Err(_) => "-".to_owned(),
        };
        let network = if stage.network { "" } else { "  (no network)" };
        let cached = cached.map(|words| format!("  {}", words[index])).unwrap_or_default();
        let _ = writeln!(text, "  {:>2} {:<24} {key}{network}{cached}", index + 1, stage.name);
        if !cached.is_empty() {
            continue;
        }
        for step in &stage.steps {
            let _ = writeln!(text, "       {}", step.title());
        }
    }
    if let Err(reason) = keys {
        let _ = writeln!(text, "  keys are not known: {reason}");
    }
    text
}

fn outputs_text(plan: &Plan, results: Option<&[(PathBuf, &str)]>) -> String {
    let mut text = "\noutputs\n".to_owned();
    let mut list = |path: &Path, what: &str| {
        let _ = writeln!(text, "  {} ({what})", path.display());
    };
    match results {
        Some(results) => results.iter().for_each(|(path, what)| list(path, what)),
        None => {
            let images = &plan.outputs.images;
            images.iter().for_each(|image| list(&image.path, &image.format));
        }
    }
    for step in plan.steps() {
        if let plan::Step::ExportTree { output, .. } = step {
            list(&output.path, &output.format);
        }
    }
    text
}
