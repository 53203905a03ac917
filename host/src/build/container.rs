//! `--load-into`: the finished container image for the engine that runs here.

use crate::{
    cli::{ContainerEngine, Formats},
    error::CommandError,
    run_context::RunContext,
};

/// The format whose archive `--load-into` takes.
///
/// # Errors
/// When no container image is made, or the engine is missing.
pub(crate) fn archive(
    engine: Option<ContainerEngine>,
    formats: Option<&Formats>,
) -> Result<Option<&'static str>, CommandError> {
    let Some(engine) = engine else { return Ok(None) };
    let is_made = |name: &str| formats.is_some_and(|formats| formats.names().any(|f| f == name));
    // Of two, the one that every engine takes: it comes first in the list.
    let mut containers = output::FORMATS.iter().filter(|format| format.container.is_some());
    let found = containers.find(|format| is_made(format.name)).ok_or_else(|| {
        CommandError::usage("--load-into: no container image is among the outputs")
            .hint("--formats docker --docker-target NAME:TAG writes one")
    })?;
    output::needs_program(engine.command(), "to load the container image into it")?;
    Ok(Some(found.name))
}

/// Loads the finished container image into the engine.
///
/// # Errors
/// When the engine does not take it.
pub(crate) fn load(
    engine: Option<ContainerEngine>,
    format: Option<&'static str>,
    written: &[output::Written],
    ctx: &RunContext,
) -> Result<(), CommandError> {
    let archive = written.iter().find(|file| Some(file.format) == format);
    if let (Some(engine), Some(archive)) = (engine, archive) {
        output::load_container(engine.command(), &archive.path)?;
        ctx.say(format!("loaded {} into {}", archive.path.display(), engine.command()));
    }
    Ok(())
}
