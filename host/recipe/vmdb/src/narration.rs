//! The lines that vmdb2 prints on standard output under `-v`, as data: steps in order, texts of
//! `echo`, teardowns in reverse. The caller asks for the lines at each event; this module does not
//! print.
//!
//! ```text
//! begin ─► stage 0 ─► script ─► script ─► stage 1 ─► … ─► end(true)    teardowns, "All went fine."
//!                                              └─ failure ─► end(false) "Something went wrong…", teardowns
//! ```

use crate::yaml::{Position, repr_text};

/// The vmdb2 version whose wording is used. Versions differ where vmdb2's manual differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wording {
    /// vmdb2 0.26, as in Debian 12.
    #[default]
    V026,
    /// vmdb2 0.41: prints the whole spec before it runs anything.
    V041,
}

/// The narration of one step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepNote {
    /// The step's number in the spec, from 1.
    pub number: usize,
    /// The name of the step, such as `mkpart`.
    pub name: String,
    /// The position of the step in the spec.
    pub at: Position,
    /// Whether `unless` skips it.
    pub skipped: bool,
    /// Printed when the step runs.
    pub says: Option<String>,
    /// Printed at the end or after a failure, in reverse order of the steps.
    pub teardown: Option<String>,
    /// Whether the step always fails.
    pub fails: bool,
    /// Indices of its stages in the plan; empty for steps that do nothing in the guest.
    pub stages: Vec<usize>,
}

/// The narration of a build.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Narration {
    /// Printed before anything runs.
    pub opening: Vec<String>,
    /// The steps.
    pub steps: Vec<StepNote>,
    /// The command lines of each stage, in the order of its `Run` steps.
    pub commands: Vec<Vec<String>>,
}

/// The result of a spec that needed no machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRun {
    /// The output under `-v`.
    pub lines: Vec<String>,
    /// The step that failed.
    pub failed: Option<StepNote>,
}

impl Narration {
    pub(crate) fn opening(spec: &str, repr: &str, wording: Wording) -> Vec<String> {
        let mut lines = Vec::new();
        lines.push(if spec == "-" {
            "Load spec from stdin".to_owned()
        } else {
            format!("Load spec file {spec}")
        });
        if wording == Wording::V041 {
            lines.push(format!("Spec:\n{repr}"));
        }
        lines
    }

    /// The command as vmdb2 shows it.
    pub(crate) fn command(argv: &[String]) -> String {
        let words: Vec<String> = argv.iter().map(|word| repr_text(word)).collect();
        format!("Exec: [{}]", words.join(", "))
    }

    /// The step that a stage of the plan belongs to.
    #[must_use]
    pub fn step_of_stage(&self, stage: usize) -> Option<&StepNote> {
        self.steps.iter().find(|step| step.stages.contains(&stage))
    }

    /// Runs a spec whose steps only print messages: no step has a stage.
    #[must_use]
    pub fn run_local(&self) -> LocalRun {
        let mut narrator = Narrator::new(self.clone());
        let mut lines = narrator.begin();
        let failed = self.steps.iter().find(|step| step.fails && !step.skipped);
        match failed {
            Some(step) => lines.extend(narrator.reach(step.number)),
            None => lines.extend(narrator.reach(usize::MAX)),
        }
        lines.extend(narrator.end(failed.is_none()));
        LocalRun { lines, failed: failed.cloned() }
    }
}

/// Follows a build and returns the lines to print next.
#[derive(Debug, Clone)]
pub struct Narrator {
    narration: Narration,
    /// The number of steps attempted so far.
    reached: usize,
    stage: Option<usize>,
    commands_shown: usize,
}

impl Narrator {
    /// Creates a narrator at the start of a build.
    #[must_use]
    pub fn new(narration: Narration) -> Self {
        Self { narration, reached: 0, stage: None, commands_shown: 0 }
    }

    /// The lines to print before anything runs.
    #[must_use]
    pub fn begin(&self) -> Vec<String> {
        self.narration.opening.clone()
    }

    /// The lines to print when a stage of the plan begins, or is found in the cache.
    pub fn stage(&mut self, stage: usize) -> Vec<String> {
        self.stage = Some(stage);
        self.commands_shown = 0;
        // The last stage belongs to no step: all steps precede it.
        let step = self.narration.step_of_stage(stage).map(|step| step.number);
        self.reach(step.unwrap_or(usize::MAX))
    }

    /// The line to print when the next command of the stage begins.
    pub fn command(&mut self) -> Option<String> {
        let commands = self.narration.commands.get(self.stage?)?;
        let line = commands.get(self.commands_shown).cloned();
        self.commands_shown += 1;
        line
    }

    /// The lines to print at the end.
    pub fn end(&mut self, success: bool) -> Vec<String> {
        let mut lines = Vec::new();
        if success {
            lines.extend(self.reach(usize::MAX));
        } else {
            lines.push("Something went wrong, cleaning up!".to_owned());
        }
        let attempted = &self.narration.steps[..self.reached];
        let run = attempted.iter().rev().filter(|step| !step.skipped);
        lines.extend(run.filter_map(|step| step.teardown.clone()));
        if success {
            lines.push("All went fine.".to_owned());
        }
        lines
    }

    /// Advances to a step, by number, and returns the lines up to it.
    fn reach(&mut self, number: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(step) = self.narration.steps.get(self.reached) {
            if step.number > number {
                break;
            }
            if !step.skipped {
                lines.extend(step.says.clone());
            }
            self.reached += 1;
        }
        lines
    }
}
