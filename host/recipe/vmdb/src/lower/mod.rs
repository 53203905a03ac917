//! Lowers steps to a plan: one stage per step that runs in the guest. Each stage mounts all that it
//! needs, so it can start from the disks left by the previous one.
//!
//! ```text
//! /build/image/TAG       where a filesystem is mounted that has no `dirname`
//! /build/spec            working directory of `shell`: the spec's folder, read only
//! /build/vmdb/NN         what step NN needs from the host
//! /build/rootfs-cache    the tarball of cache-rootfs and unpack-rootfs
//! ```

mod finish;

use crate::{
    complaint::{Complaint, SpecError},
    lowering::{Lowered, Lowering, Settings},
    narration::StepNote,
    spec::{self, Spec},
    steps::Action,
};

/// Lowers a spec.
///
/// # Errors
/// Fails on all errors that reading did not find.
pub fn lower(spec: &Spec, settings: &Settings) -> Result<Lowered, SpecError> {
    let mut lowering = Lowering::new(settings);
    for step in &spec.steps {
        step.action.fixed_name().into_iter().for_each(|name| lowering.names.promise(name));
        match &step.action {
            Action::UnpackRootfs(_) => lowering.unpack_steps.push(step.number),
            Action::Mkimg(image) => lowering.images.push(image.path.clone()),
            _ => {}
        }
    }
    for step in &spec.steps {
        lowering.step(step);
    }
    lowering.finish(spec)
}

impl Lowering<'_> {
    fn step(&mut self, step: &spec::Step) {
        self.current = (step.title(), step.at, step.places.clone());
        self.number = step.number;
        let skipped = self.is_skipped(step);
        self.narration.steps.push(StepNote {
            number: step.number,
            name: step.name.to_owned(),
            at: step.at,
            skipped,
            ..StepNote::default()
        });
        let outcome =
            if skipped { step.action.lower_skipped(self) } else { step.action.lower(self) };
        if let Err(fault) = outcome {
            for name in step.action.defines() {
                self.poisoned.insert(name);
            }
            if !fault.silent {
                let at = self.place_of(fault.key);
                self.complaints.push(Complaint {
                    at,
                    step: Some(self.current.0.clone()),
                    message: fault.message,
                    hint: fault.hint,
                });
            }
        }
    }

    /// Whether `unless` skips a step: all of its flags are set. All flags are determined before the
    /// build, so this is decided here.
    fn is_skipped(&mut self, step: &spec::Step) -> bool {
        let Some(flags) = &step.unless else { return false };
        for flag in flags.iter().filter(|flag| *flag != "rootfs_unpacked") {
            let complaint = Complaint {
                at: self.place_of("unless"),
                step: Some(step.title()),
                message: format!("no step sets the flag `{flag}`"),
                hint: Some("the one flag is `rootfs_unpacked`".into()),
            };
            if self.settings.lenient {
                self.warnings.push(complaint);
            } else {
                self.complaints.push(complaint.can_be_passed_over());
            }
        }
        flags.iter().all(|flag| flag == "rootfs_unpacked" && self.rootfs_unpacked)
    }
}
