//! `vbuild b9 run`: runs a command in a copy of a shared image, on the user's terminal, between the
//! stages that bring the working directory there and back.

use std::{
    collections::BTreeSet,
    fs::File,
    sync::{Arc, Mutex, PoisonError},
};

use b9::{Images, Request, Share};
use engine::{Pause, PauseContext, PauseHook};
use wire::ExitStatus;

use super::{
    args::{CommonArgs, RecipeArgs, RunArgs},
    build,
    configuration::Configuration,
    host_files::HostFiles,
    images::{self, Surroundings},
    narration::narrated,
    place::RunPlace,
    repository::Cache,
};
use crate::{
    build::{checks, prepared::Prepared, runtime, trees::Trees},
    commands::context::{Outcome, ProcessContext},
    error::{CommandError, Kind},
    machine::shell::{self, ShellError},
    run_context::RunContext,
    settings::Settings,
};

/// A script that starts zsh, bash or sh, the first that the image has.
const SHELL: &str = "for shell in zsh bash; do command -v $shell >/dev/null && exec $shell; done; \
                     exec sh";

/// Runs the command, and returns its exit status.
///
/// # Errors
/// Fails if there is no such image, or if the machine fails. A command that fails is not an error.
pub(super) fn run(context: &ProcessContext, common: &CommonArgs, args: &RunArgs) -> Outcome {
    let configuration = Configuration::read(context, common)?;
    let settings =
        build::with_configuration(build::guest_settings(&args.guest), &args.guest, &configuration);
    let cache = Cache::new(configuration.cache()?);
    // Standard output belongs to the command; messages are shown only with `-v`.
    let level = configuration.level().filter(|_| common.verbose);
    narrated(context, &configuration, level, async |ctx| {
        let (plan, before, held) = plan(args, &configuration, &cache, &settings, &ctx)?;
        let visited = visit(&plan, before, &args.command, &settings, &ctx).await;
        drop(held);
        visited
    })
}

/// Returns the plan, the index of the stage before which the command runs, and the lock of the
/// image.
fn plan(
    args: &RunArgs,
    configuration: &Configuration<'_>,
    cache: &Cache,
    settings: &Settings,
    ctx: &RunContext,
) -> Result<(plan::Plan, usize, Option<File>), CommandError> {
    let host = HostFiles::of(&RecipeArgs::default())?;
    let here = std::fs::canonicalize(&host.here).map_err(|error| {
        CommandError::new(Kind::Host, error).context("cannot find the working folder")
    })?;
    let shared = match host.directory(&here, &BTreeSet::new()) {
        Ok((share, warnings)) => {
            warnings.into_iter().for_each(|warning| ctx.warn(warning));
            Some(share)
        }
        Err(error) if host.is_broad(&here) => {
            ctx.warn(format!("the working folder is not shared: {error}"));
            None
        }
        Err(error) => return Err(error),
    };
    let folder = shared.as_ref().map(|_| {
        here.to_str()
            .ok_or_else(|| CommandError::usage("the path of the working folder is no text"))
    });
    let (id, assembly) = b9::visit(&args.name, folder.transpose()?);
    let Some(images) = Images::of(&assembly) else {
        return Err(CommandError::usage("there is no image to run in"));
    };
    let place = RunPlace::planned(configuration)?;
    let around = Surroundings {
        configuration,
        place: &place,
        host: &host,
        cache,
        settings,
        allowed: &base_image::AllowedBacking::default(),
        makes: false,
    };
    let beginning =
        runtime::until_signalled(ctx, || images::begin(&images.targets[0].source, around, ctx))?;
    let request = Request {
        id: &id,
        images,
        bases: vec![beginning.base],
        filesystems: vec![beginning.filesystem],
        sources: Vec::new(),
        shares: shared.into_iter().collect::<Vec<Share>>(),
        current: None,
        outputs: vec![None],
        attributes: None,
        // A shell of the user has no time limit.
        script_timeout_s: None,
        step_timeout_s: None,
    };
    let (plan, before) =
        b9::lower_session(&request).map_err(|fault| CommandError::usage(fault.to_string()))?;
    Ok((plan, before, beginning.held))
}

/// Runs the plan with the user's command in it, and returns the exit status of the command.
async fn visit(
    plan: &plan::Plan,
    before: usize,
    command: &[String],
    settings: &Settings,
    ctx: &RunContext,
) -> Result<u8, CommandError> {
    checks::stages(plan)?;
    let machine = Prepared::new(plan, settings, ctx).await?;
    let trees = Trees::of_plan(Arc::clone(&ctx.observer), plan);
    let user = Arc::new(User { command: command.to_vec(), ended: Mutex::default() });
    let visit = Pause {
        hook: user.clone(),
        after: None,
        before: vec![before],
        on_failure: false,
        from: None,
    };
    let config = machine.config(settings, ctx, Arc::new(trees.clone()), Some(visit))?;
    engine::run(plan, &config).await?;
    for directory in trees.take_directories() {
        directory.commit()?;
    }
    let ended = user.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
    match ended {
        None => Err(CommandError::message(Kind::Build, "the command was not run")),
        Some(Err(error)) => {
            Err(CommandError::new(Kind::Build, error).context("the command was lost"))
        }
        Some(Ok(status)) => Ok(shell::exit_code(status)),
    }
}

/// The hook that runs the user's command.
struct User {
    command: Vec<String>,
    ended: Mutex<Option<Result<ExitStatus, ShellError>>>,
}

#[async_trait::async_trait]
impl PauseHook for User {
    async fn inspect(&self, place: PauseContext<'_>) {
        // The shell looks the command up in PATH; its words are passed unchanged.
        let script = if self.command.is_empty() { SHELL } else { "exec \"$@\"" };
        let words = ["/bin/sh", "-c", script, "sh"].map(str::to_owned);
        let mut env = shell::environment();
        env.push(("USER".into(), "root".into()));
        let argv = words.into_iter().chain(self.command.iter().cloned());
        let command = place.session.command(argv).envs(env).chroot(place.image.clone());
        let ended = shell::join(command).await;
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
    }
}
