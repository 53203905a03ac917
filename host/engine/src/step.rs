//! One arm for each kind of step: who does it.

use std::time::Instant;

use plan::{Plan, Stage, Step};

use crate::{
    Config, EngineError, State, events::Event, guest::Guest, layout, run_parts, steps, upload,
};

/// Does a step.
pub(crate) async fn run_step(
    step: &Step,
    plan: &Plan,
    stage: &Stage,
    config: &Config,
    guest: &Guest,
    state: &mut State,
) -> Result<(), EngineError> {
    // Commands tell about themselves.
    let loud = matches!(
        step,
        Step::Upload(_)
            | Step::FindRoot { .. }
            | Step::FindDevices { .. }
            | Step::GrowRoot { .. }
            | Step::CopyTree { .. }
            | Step::Fetch { .. }
            | Step::ExportTree { .. }
            | Step::Trim
            | Step::Canonicalise { .. }
    ) || matches!(step, Step::CreateLayout(_) if !state.has_own_device());
    let started = Instant::now();
    let title = step.title();
    if loud {
        config.observer.event(&Event::StepStarted { title: title.clone() });
    }
    match step {
        Step::Upload(upload) => upload::upload(upload, guest, stage).await?,
        Step::Run(run) => run_parts::run_one(run, guest, stage, config, state).await?,
        Step::RunParts(parts) => run_parts::all(parts, guest, stage, config, state).await?,
        Step::File(file) => steps::file(file, guest, stage).await?,
        Step::ResolvConf(action) => steps::resolv_conf(*action, guest, stage, config).await?,
        Step::RequireContent { path, ignore, message } => {
            steps::require_content(guest, stage, path, ignore, message).await?;
        }
        Step::SetFact { fact, value } => {
            let value = crate::command::resolve(value, state)?;
            state.facts.insert(fact.clone(), value);
        }
        Step::ImageSize(size) => steps::image_size(size, guest, stage, state).await?,
        Step::CreateLayout(_) if state.has_own_device() => check_own_device(plan, state)?,
        Step::WriteFstab { .. } if state.has_own_device() => {}
        Step::CreateLayout(part) => layout::create(part, plan, config, guest, state).await?,
        Step::FindRoot { disk, root } => {
            let wanted = layout::Wanted { disk, root: root.as_deref() };
            layout::find_root(wanted, plan, config, guest, state).await?;
        }
        Step::FindDevices { disk, devices } => {
            layout::find_devices(disk, devices, plan, guest, state).await?;
        }
        Step::GrowRoot { disk } => layout::grow_root(disk, config, guest, state).await?,
        Step::ForgetLayout => layout::forget(guest, state).await?,
        Step::WriteFstab { path } => {
            let content = layout::fstab(state)?;
            let step = plan::FileStep::Write { path: path.clone(), content, mode: 0o644 };
            steps::file(&step, guest, stage).await?;
        }
        Step::ClampTimes { root, epoch } => layout::clamp_times(guest, root, *epoch).await?,
        Step::Canonicalise { epoch } => {
            layout::make_canonical(*epoch, config, guest, state).await?
        }
        Step::CopyTree { from, to } => steps::copy_tree(guest, from, to).await?,
        Step::KillProcesses { root } => steps::kill_processes(guest, &config.observer, root)
            .await
            .map_err(steps::failed(stage, "end left-over processes"))?,
        Step::Fetch { from, to } => steps::fetch(guest, stage, config, from, to).await?,
        Step::ExportTree { root, exclude, output } => {
            steps::export(guest, stage, config, root, exclude, output).await?;
        }
        Step::Trim => layout::trim(guest).await?,
        Step::Say { text } => config.observer.event(&Event::Message { text: text.clone() }),
    }
    if loud {
        config.observer.event(&Event::StepFinished { title, elapsed: started.elapsed() });
    }
    Ok(())
}

/// A device that block-device.d made lies on no disk of the plan, so nothing can
/// be made of those.
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
