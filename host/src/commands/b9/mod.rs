//! `vbuild b9`: a substitute for b9c 4.0.0. Started under the name `b9c`, vbuild offers only this
//! verb.
//!
//! ```text
//! args ─► configuration ─► recipe ─► images ─► pipeline ─► deliver ─► repository ─► remotes
//!                            │    └► seeds
//!                            └ files that are generated, in the place of the run
//! ```
//!
//! The messages of b9c go to standard output, through `narration`; errors and warnings go to
//! standard error, as everywhere in vbuild.

mod args;
mod build;
mod configuration;
mod host_files;
mod images;
mod jobs;
mod narration;
mod outputs;
mod place;
mod recipe;
mod remotes;
mod repository;
mod seeds;
mod session;
mod text;
mod turns;

use std::io;

pub(crate) use args::{B9Args, B9PlanArgs, B9Verb, CommonArgs, NameArgs, PullArgs, ReformatArgs};
pub(crate) use build::{build_settings, plan};

use b9::share_index;
use configuration::Configuration;
use repository::Cache;

use super::context::{Outcome, ProcessContext};
use crate::{
    cli::Personality,
    error::{CommandError, Kind},
};

/// The version of B9 for which `vbuild b9` is a substitute.
const B9_VERSION: &str = "4.0.0";

/// Runs a verb of `vbuild b9`.
pub(crate) fn run(context: &ProcessContext, args: &B9Args) -> Outcome {
    let common = &args.common;
    match &args.verb {
        B9Verb::Build(args) => build::run(context, common, args),
        B9Verb::Run(args) => session::run(context, common, args),
        B9Verb::Push(args) => push(context, common, args),
        B9Verb::Pull(args) => pull(context, common, args),
        B9Verb::List => list(context, common),
        B9Verb::CleanLocal => clean_local(context, common),
        B9Verb::CleanRemote => clean_remote(context, common),
        B9Verb::AddRepo(args) => {
            Configuration::read(context, common)?.add_repository(args)?;
            Ok(0)
        }
        B9Verb::Reformat(args) => reformat(context, args),
        B9Verb::Version => {
            let own = match context.personality {
                Personality::B9c => String::new(),
                _ => format!(" (vbuild {})", env!("CARGO_PKG_VERSION")),
            };
            context.console.print(&format!("{B9_VERSION}{own}\n"))?;
            Ok(0)
        }
    }
}

fn push(context: &ProcessContext, common: &CommonArgs, args: &NameArgs) -> Outcome {
    let configuration = Configuration::read(context, common)?;
    let Some(repository) = configuration.repository()? else {
        let text = "No repository specified! Use '-r' to specify a repo BEFORE 'push'.";
        return Err(CommandError::usage(text));
    };
    let cache = Cache::new(configuration.cache()?);
    narration::narrated(context, &configuration, configuration.level(), async |ctx| {
        let revisions = cache.local_revisions(&ctx)?;
        let revision = share_index::newest(&revisions, &args.name)
            .ok_or_else(|| CommandError::usage(format!("Nothing found for {:?}.", args.name)))?;
        remotes::push(&repository, &cache, revision, &ctx).await
    })?;
    Ok(0)
}

fn pull(context: &ProcessContext, common: &CommonArgs, args: &PullArgs) -> Outcome {
    let configuration = Configuration::read(context, common)?;
    let repositories = configuration.repositories()?;
    let cache = Cache::new(configuration.cache()?);
    narration::narrated(context, &configuration, configuration.level(), async |ctx| {
        let mut known = Vec::new();
        for repository in &repositories {
            known.push((repository, remotes::learn(repository, &cache, &ctx).await?));
        }
        let Some(name) = &args.name else { return Ok(()) };
        let newest = known.iter().filter_map(|(repository, revisions)| {
            share_index::newest(revisions, name).map(|revision| (revision, *repository))
        });
        let newest = newest.max_by(|(one, _), (other, _)| one.cmp(other));
        let Some((revision, repository)) = newest else {
            let text = format!("failed to pull: SharedImageName {name:?}");
            return Err(CommandError::usage(text)
                .hint("`vbuild b9 -r ID list` shows what a repository has"));
        };
        let keep = configuration.config.max_cached_shared_images;
        remotes::pull(repository, &cache, revision, keep, &ctx).await
    })?;
    Ok(0)
}

/// Prints the list of shared images, in b9c's own words.
fn list(context: &ProcessContext, common: &CommonArgs) -> Outcome {
    let configuration = Configuration::read(context, common)?;
    let cache = Cache::new(configuration.cache()?);
    let repository = configuration.repository()?;
    // Programs read the list, so messages are shown only with `-v`.
    let level = configuration.level().filter(|_| common.verbose);
    let revisions =
        narration::narrated(context, &configuration, level, async |ctx| match &repository {
            Some(repository) => cache.known_revisions(&repository.folder(), &ctx),
            None => cache.local_revisions(&ctx),
        })?;
    let mut lines = match &repository {
        Some(repository) => vec![format!("Showing shared images on: {}", repository.id)],
        None => [
            "Showing local shared images only.",
            "",
            "To view the contents of a remote repo add",
            "the '-r' switch with one of the remote",
            "repository ids.",
        ]
        .map(str::to_owned)
        .to_vec(),
    };
    let repositories = &configuration.config.repositories;
    if !repositories.is_empty() {
        lines.extend(["".to_owned(), "Available remote repositories:".to_owned()]);
        lines.extend(repositories.iter().map(|repository| format!(" * {}", repository.id)));
    }
    if revisions.is_empty() {
        lines.extend(["", "", "NO SHARED IMAGES", ""].map(str::to_owned));
    } else {
        lines.push(String::new());
        lines.extend(share_index::table(&revisions));
        lines.push(String::new());
    }
    context.console.print(&(lines.join("\n") + "\n"))?;
    Ok(0)
}

fn clean_local(context: &ProcessContext, common: &CommonArgs) -> Outcome {
    let configuration = Configuration::read(context, common)?;
    let cache = Cache::new(configuration.cache()?);
    let Some(keep) = configuration.config.max_cached_shared_images else {
        context.console.print(
            "All shared images are kept: the configuration has no max_cached_shared_images.\n",
        )?;
        narration::narrated(context, &configuration, configuration.level(), async |ctx| {
            cache.sweep(&ctx)
        })?;
        return Ok(0);
    };
    narration::narrated(context, &configuration, configuration.level(), async |ctx| {
        let revisions = cache.local_revisions(&ctx)?;
        let names: std::collections::BTreeSet<&str> =
            revisions.iter().map(|revision| revision.name.as_str()).collect();
        names.into_iter().try_for_each(|name| cache.retain(name, keep, &ctx).map(drop))?;
        cache.sweep(&ctx)
    })?;
    Ok(0)
}

/// Removes what the cache knows about the repositories. The repositories themselves are not
/// changed.
fn clean_remote(context: &ProcessContext, common: &CommonArgs) -> Outcome {
    let configuration = Configuration::read(context, common)?;
    let cache = Cache::new(configuration.cache()?);
    for repository in configuration.repositories()? {
        let folder = cache.of_repository(&repository.folder());
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(CommandError::new(Kind::Host, error)
                    .context(format!("cannot remove `{}`", folder.display())));
            }
            _ => {}
        }
    }
    Ok(0)
}

/// Prints files in B9's layout, and rewrites them in it. If one of them cannot be parsed, no file
/// is written.
fn reformat(context: &ProcessContext, args: &ReformatArgs) -> Outcome {
    let files = recipe::read_files(&args.project_file)?;
    let texts = (0..files.0.len()).map(|number| {
        b9::reformatted(&files, number).map_err(|fault| recipe::fault(&files, &fault))
    });
    let texts: Vec<String> = texts.collect::<Result<_, _>>()?;
    for (path, text) in args.project_file.iter().zip(&texts) {
        context.console.print(&format!("{text}\n"))?;
        outputs::replace_text(path, text).map_err(|error| {
            CommandError::new(Kind::Host, error)
                .context(format!("cannot write `{}`", path.display()))
        })?;
    }
    Ok(0)
}
