//! What vmdb2 says on standard output under `-v`, as data: steps in order,
//! texts of `echo`, teardowns in reverse. Whoever runs the build asks for the
//! lines when something happens; nothing here prints.
//!
//! ```text
//! begin ─► stage 0 ─► script ─► script ─► stage 1 ─► … ─► end(true)    teardowns, "All went fine."
//!                                              └─ failure ─► end(false) "Something went wrong…", teardowns
//! ```

use crate::yaml::{Position, repr_text};

/// Whose wording is used. The two differ where vmdb2's own manual differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wording {
    /// vmdb2 0.26, as in Debian 12.
    #[default]
    V026,
    /// vmdb2 0.41: the whole spec is shown before anything runs.
    V041,
}

/// What is to be said about one step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepNote {
    /// The step's place in the spec, from 1.
    pub number: usize,
    /// Its name.
    pub name: String,
    /// Where it is in the spec.
    pub at: Position,
    /// Whether `unless` skips it.
    pub skipped: bool,
    /// Said when it runs.
    pub says: Option<String>,
    /// Said at the end, or after a failure, in reverse order of the steps.
    pub teardown: Option<String>,
    /// Whether it is made to fail.
    pub fails: bool,
    /// Positions of its stages in the plan; none for steps with nothing to do
    /// in the guest.
    pub stages: Vec<usize>,
}

/// Everything that a build says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Narration {
    /// Before anything runs.
    pub opening: Vec<String>,
    /// The steps.
    pub steps: Vec<StepNote>,
    /// The commands of each stage, in order of its `Run` steps.
    pub commands: Vec<Vec<String>>,
}

/// How a spec ended that needed no machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRun {
    /// What is said on standard output under `-v`.
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

    /// Runs a spec whose steps only speak: no step has a stage.
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

/// Follows a build and knows what is to be said next.
#[derive(Debug, Clone)]
pub struct Narrator {
    narration: Narration,
    /// How many steps have been attempted.
    reached: usize,
    stage: Option<usize>,
    commands_shown: usize,
}

impl Narrator {
    /// A narrator at the beginning.
    #[must_use]
    pub fn new(narration: Narration) -> Self {
        Self { narration, reached: 0, stage: None, commands_shown: 0 }
    }

    /// What is said before anything runs.
    #[must_use]
    pub fn begin(&self) -> Vec<String> {
        self.narration.opening.clone()
    }

    /// What is said when a stage of the plan begins, or is found in the cache.
    pub fn stage(&mut self, stage: usize) -> Vec<String> {
        self.stage = Some(stage);
        self.commands_shown = 0;
        // A stage of no step is the last one: all steps are behind it.
        let step = self.narration.step_of_stage(stage).map(|step| step.number);
        self.reach(step.unwrap_or(usize::MAX))
    }

    /// What is said when the next command of the stage begins.
    pub fn command(&mut self) -> Option<String> {
        let commands = self.narration.commands.get(self.stage?)?;
        let line = commands.get(self.commands_shown).cloned();
        self.commands_shown += 1;
        line
    }

    /// What is said at the end.
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

    /// Goes on to a step, by number, and gives what was said until then.
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
