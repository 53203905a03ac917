//! `echo` and `error`: steps that only print messages; vmdb2's own tests use them.

use super::StepKind;
use crate::{
    fields::Fields,
    lowering::{Fault, Lowering},
};

/// Prints a message, and another one at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Echo {
    /// Printed when the step runs.
    pub text: String,
    /// Printed at the end.
    pub teardown: Option<String>,
}

impl StepKind for Echo {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self { text: fields.text("echo"), teardown: fields.optional("teardown") }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let note = lowering.note();
        note.says = Some(self.text.clone());
        note.teardown.clone_from(&self.teardown);
        Ok(())
    }
}

/// Prints a message and fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorStep {
    /// Printed when the step runs.
    pub text: String,
    /// Printed afterwards, with the teardowns of earlier steps.
    pub teardown: String,
}

impl StepKind for ErrorStep {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self { text: fields.text("error"), teardown: fields.text("teardown") }
    }

    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<(), Fault> {
        let note = lowering.note();
        note.says = Some(self.text.clone());
        note.teardown = Some(self.teardown.clone());
        note.fails = true;
        if lowering.stage_count() > 0 {
            // The build must end at this step, in the guest where it started.
            let argv = vec!["sh".into(), "-c".into(), "printf '%s\\n' \"$1\" >&2; exit 1".into()];
            let argv = argv.into_iter().chain(["sh".into(), self.text.as_str().into()]).collect();
            let work = lowering.tool("fail", argv).shown(&["false"]).work();
            lowering.stage("", None, false, vec![work]);
        }
        lowering.fail_here();
        Ok(())
    }
}
