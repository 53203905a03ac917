//! `echo` and `error`: steps that only speak, on which vmdb2's own tests rest.

use super::StepKind;
use crate::{
    fields::Fields,
    lower::{Fault, Lowering},
};

/// Says something, and something else at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Echo {
    /// Said when the step runs.
    pub text: String,
    /// Said at the end.
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

/// Says something and fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorStep {
    /// Said when the step runs.
    pub text: String,
    /// Said after that, with the teardowns of earlier steps.
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
            // The build has to end here, in the guest that it began in.
            let argv = vec!["sh".into(), "-c".into(), "printf '%s\\n' \"$1\" >&2; exit 1".into()];
            let argv = argv.into_iter().chain(["sh".into(), self.text.as_str().into()]).collect();
            let work = lowering.tool("fail", argv).shown(&["false"]).work();
            lowering.stage("", None, false, vec![work]);
        }
        lowering.fail_here();
        Ok(())
    }
}
