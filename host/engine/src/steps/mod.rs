//! Runs the steps of a stage: one match arm for each kind of step calls its function.
//!
//! To add a step to [`plan::Step`], write its function in a file here or in `layout/`, and add a
//! match arm to [`run`] and to the matches of `plan/src/step.rs` that the compiler reports.

pub(crate) mod processes;
pub(crate) mod run_parts;

mod command;
mod files;
mod resolv_conf;
mod size;
mod start;
mod tree;
mod upload;

use std::time::Instant;

use plan::{Plan, Step};

use crate::{
    EngineError, State,
    events::{Event, StepKind},
    layout,
    step_context::StepContext,
};

/// Runs a step, and emits its events.
pub(crate) async fn run(step: &Step, cx: &mut StepContext<'_>) -> Result<(), EngineError> {
    let reported = reported_as(step, cx.state);
    let started = Instant::now();
    let title = step.title();
    if let Some(kind) = reported {
        cx.emit(&Event::StepStarted { kind, title: title.clone() });
    }
    match step {
        Step::Upload(upload) => upload::upload(upload, cx).await?,
        Step::Run(run) => run_parts::run_one(run, cx).await?,
        Step::RunParts(parts) => run_parts::run_all(parts, cx).await?,
        Step::File(file) => files::file(file, cx).await?,
        Step::ResolvConf(action) => resolv_conf::resolv_conf(*action, cx).await?,
        Step::RequireContent { path, ignore, message } => {
            files::require_content(path, ignore, message, cx).await?;
        }
        Step::SetFact { fact, value } => {
            let value = command::resolve(value, cx.state)?;
            cx.state.facts.insert(fact.clone(), value);
        }
        Step::ImageSize(size) => size::image_size(size, cx).await?,
        Step::CreateLayout(_) if cx.state.has_own_device() => check_own_device(cx.plan, cx.state)?,
        Step::WriteFstab { .. } if cx.state.has_own_device() => {}
        Step::CreateLayout(part) => layout::create(part, cx).await?,
        Step::FindRoot { disk, root } => layout::find_root(disk, root.as_deref(), cx).await?,
        Step::FindDevices { disk, devices } => layout::find_devices(disk, devices, cx).await?,
        Step::GrowRoot { disk } => layout::grow_root(disk, cx).await?,
        Step::ForgetLayout => layout::forget(cx.guest, cx.state).await?,
        Step::WriteFstab { path } => {
            files::write(path, &layout::fstab(cx.state)?, 0o644, cx).await?;
        }
        Step::ClampTimes { root, epoch } => layout::clamp_times(cx.guest, root, *epoch).await?,
        Step::Canonicalise { epoch } => layout::make_canonical(*epoch, cx).await?,
        Step::CopyTree { from, to } => tree::copy_tree(from, to, cx).await?,
        Step::KillProcesses { root } => {
            processes::kill_left_over(cx.guest, &cx.config.observer, root)
                .await
                .map_err(cx.failed("end left-over processes"))?;
        }
        Step::Fetch { from, to } => tree::fetch(from, to, cx).await?,
        Step::ExportTree { root, exclude, output } => {
            tree::export(root, exclude, output, cx).await?;
        }
        Step::Trim => layout::trim(cx.guest).await?,
        Step::Say { text } => cx.emit(&Event::Message { text: text.clone() }),
    }
    if let Some(kind) = reported {
        cx.emit(&Event::StepFinished { kind, title, elapsed: started.elapsed() });
    }
    Ok(())
}

/// Returns the kind under which a step is reported; `None` if it is not reported as a step. Scripts
/// and commands emit their own events, and small changes are too quick to be worth a line.
fn reported_as(step: &Step, state: &State) -> Option<StepKind> {
    match step {
        Step::Upload(_) => Some(StepKind::Upload),
        Step::CopyTree { .. } => Some(StepKind::TreeCopy),
        Step::ExportTree { .. } => Some(StepKind::TreeOutput),
        Step::FindRoot { .. }
        | Step::FindDevices { .. }
        | Step::GrowRoot { .. }
        | Step::Fetch { .. }
        | Step::Trim
        | Step::Canonicalise { .. } => Some(StepKind::Other),
        Step::CreateLayout(_) => (!state.has_own_device()).then_some(StepKind::Other),
        Step::Run(_)
        | Step::RunParts(_)
        | Step::File(_)
        | Step::ResolvConf(_)
        | Step::RequireContent { .. }
        | Step::SetFact { .. }
        | Step::ImageSize(_)
        | Step::ForgetLayout
        | Step::WriteFstab { .. }
        | Step::ClampTimes { .. }
        | Step::KillProcesses { .. }
        | Step::Say { .. } => None,
    }
}

/// Fails if the plan has images as outputs: a device that block-device.d has made is not on a disk
/// of the plan, so no image can be made of it.
fn check_own_device(plan: &Plan, state: &State) -> Result<(), EngineError> {
    if plan.outputs.images.is_empty() {
        return Ok(());
    }
    let device = state.facts.get("image-block-device").map_or("", String::as_str);
    Err(EngineError::Recipe(format!(
        "block-device.d made `{device}` itself, which cannot become an image: ask for formats \
         of the file tree, or describe the disks with DIB_BLOCK_DEVICE_CONFIG"
    )))
}
