//! The steps of a round: set up a new folder with recipe, earlier output, and possibly a filled
//! store and a drive → start the build → disturb it → check what is left → repeat the build
//! undisturbed → compare.

use std::{fs, os::unix::fs::symlink, os::unix::process::ExitStatusExt as _};

use anyhow::{Context as _, Result, ensure};

use crate::{
    draw::{Draw, Fault, Signal, Victim},
    ground::{Ground, mount_small},
    mirror::Behaviour,
    processes,
    recipe::Site,
    references::References,
    run::{Ended, Run},
    state::{self, Earlier},
    strike::{self, Struck},
    table::Outcome,
};

/// Time limit of scripts in seconds (`--timeout`). It is shorter than a stall of the mirror.
const SCRIPT_LIMIT_S: &str = "30";

/// Runs a round. An error means that a check failed.
pub(crate) fn play(
    draw: &Draw,
    ground: &mut Ground,
    references: &mut References,
) -> Result<Outcome> {
    if let Some(why) = impossible(draw, ground) {
        return Ok(Outcome::Skipped(why));
    }
    references.prepare(draw.recipe, ground).context("an undisturbed build")?;
    let site = Site { folder: ground.round(draw.seed), recipe: draw.recipe, options: draw.options };
    let earlier = furnish(draw, &site, ground, references)?;
    let outcome = disturb_and_repeat(draw, &site, &earlier, ground, references)?;
    ground.clear(&site.folder)?;
    Ok(outcome)
}

/// Returns the reason why this host cannot inject the fault, if there is one.
fn impossible(draw: &Draw, ground: &Ground) -> Option<String> {
    let needs_mounts = matches!(draw.fault, Fault::Full { .. });
    ground.without_namespaces.clone().filter(|_| needs_mounts)
}

/// Sets up the folder of a round.
fn furnish(draw: &Draw, site: &Site, ground: &Ground, references: &References) -> Result<Earlier> {
    for folder in [site.output(), site.cache(), site.temporary(), site.drives()] {
        fs::create_dir_all(folder)?;
    }
    if let Fault::Full { place, .. } = draw.fault {
        mount_small(&strike::full_folder(place, site))?;
    }
    ground.furnish_cache(&site.cache(), draw.options.restored)?;
    if draw.options.warm {
        references.warm(draw.recipe, &site.store())?;
    }
    if draw.options.drive {
        state::make_drive(site, ground)?;
    }
    site.write_recipe(ground, references)?;
    let mut earlier = Earlier::default();
    if draw.options.earlier {
        for name in site.names() {
            let path = site.output().join(&name);
            if name == "image.qcow2" && site.names().contains("20_late.qcow2") {
                symlink("20_late.qcow2", &path)?;
            } else {
                earlier.write(&path, format!("{name} of an earlier build\n").repeat(1000))?;
            }
        }
    }
    Ok(earlier)
}

fn disturb_and_repeat(
    draw: &Draw,
    site: &Site,
    earlier: &Earlier,
    ground: &Ground,
    references: &mut References,
) -> Result<Outcome> {
    let mut draw = draw.clone();
    let mut command = site.command(ground, references)?;
    let stalls = matches!(draw.fault, Fault::Mirror(Behaviour::Stalls { .. }));
    if stalls && draw.seed.is_multiple_of(2) {
        command.args(["--timeout", SCRIPT_LIMIT_S]);
    }
    strike::prepare(&draw, references);
    let pace = references.pace(draw.recipe, draw.options.warm);
    let mut run = Run::start(command, site)?;
    let struck = strike::strike(&mut run, &mut draw, site, references, pace);
    let ended = run.finish();
    let (at, tracer) = match struck? {
        Struck::Done { at, tracer } => (Some(at), tracer),
        Struck::TooLate => (None, None),
        Struck::Impossible(why) => {
            strike::undo(&draw, site, references)?;
            processes::all_gone()?;
            return Ok(Outcome::Skipped(why));
        }
    };
    drop(tracer);
    let ended = ended.context("the disturbed build")?;
    fs::copy(site.folder.join("said"), site.folder.join("said.disturbed"))?;
    if site.log().exists() {
        fs::copy(site.log(), site.folder.join("log.disturbed"))?;
    }
    let moment = at.clone().unwrap_or_else(|| "too late".into());
    strike::undo(&draw, site, references)?;
    let outcome = judge(&draw, site, earlier, &ended, at.is_some(), references)
        .with_context(|| format!("the disturbed build ({moment})"))?;
    repeat(&draw, site, ground, references)
        .with_context(|| format!("the build after it ({moment})"))?;
    Ok(outcome)
}

/// Checks what the disturbed build has left.
fn judge(
    draw: &Draw,
    site: &Site,
    earlier: &Earlier,
    ended: &Ended,
    struck: bool,
    references: &References,
) -> Result<Outcome> {
    processes::all_gone()?;
    state::no_panic(&ended.said)?;
    state::no_locks(&site.folder)?;
    state::drive_is_whole(site, true)?;
    let killed = ended.status.signal();
    let expected =
        matches!(draw.fault, Fault::Kill { victim: Victim::Vbuild, signal: Signal::Kill });
    if killed == Some(9) && expected {
        earlier.is_kept_or_replaced(site, references)?;
        return Ok(Outcome::Killed);
    }
    ensure!(killed.is_none(), "it ended by signal {killed:?}: {}", ended.said);
    if ended.status.success() {
        state::finished(site, references)?;
        return Ok(if struck { Outcome::Survived } else { Outcome::TooLate });
    }
    ensure!(struck, "it failed undisturbed ({}): {}", ended.status, ended.said);
    ensure!(ended.said.contains("error"), "it failed without a word: {}", ended.said);
    state::failed(site, earlier, references).with_context(|| ended.said.clone())?;
    Ok(Outcome::Failed)
}

/// Repeats the build undisturbed, and compares the results.
fn repeat(draw: &Draw, site: &Site, ground: &Ground, references: &mut References) -> Result<()> {
    let ended = Run::start(site.command(ground, references)?, site)?.finish()?;
    processes::all_gone()?;
    ensure!(ended.status.success(), "it failed ({}): {}", ended.status, ended.said);
    state::no_panic(&ended.said)?;
    state::finished(site, references)?;
    state::drive_is_whole(site, false)?;
    state::store_is_whole(draw, site, ground)?;
    state::nothing_left_over(site)?;
    state::no_locks(&site.folder)?;
    if draw.options.warm {
        references.note_pace(draw.recipe, ended.pace);
    }
    Ok(())
}
