//! `--load-into`: loads the finished container image into a container engine of this host.

use crate::{
    cli::{ContainerEngine, Formats},
    error::CommandError,
    run_context::RunContext,
};

/// Returns the format whose archive `--load-into` loads; `None` if the option is not given.
///
/// # Errors
/// Fails if no output is a container image, or if the engine is not installed.
pub(crate) fn archive(
    engine: Option<ContainerEngine>,
    formats: Option<&Formats>,
) -> Result<Option<&'static str>, CommandError> {
    let Some(engine) = engine else { return Ok(None) };
    let is_made = |name: &str| formats.is_some_and(|formats| formats.names().any(|f| f == name));
    // If both formats are written, prefer the one that every engine accepts: it is listed first.
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
/// Fails if the engine refuses the image.
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
