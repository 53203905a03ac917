//! Commands of stages: how they run, and how they are shown.

use plan::{Env, GuestPath, PROGRAM_PATH, Place, Run, Step, Value};

/// A step of a stage with the command line that the narration shows for it.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) step: Step,
    pub(crate) command: Option<Vec<String>>,
}

impl From<Step> for Work {
    fn from(step: Step) -> Self {
        Self { step, command: None }
    }
}

/// A command of a stage.
#[derive(Debug)]
pub(crate) struct Command {
    what: String,
    argv: Vec<Value>,
    env: Env,
    cwd: &'static str,
    capture: Option<String>,
    /// The command line shown by the narration.
    pub(super) shown: Vec<String>,
}

impl Command {
    pub(super) fn new(what: String, argv: Vec<Value>) -> Self {
        let env = [("PATH", PROGRAM_PATH), ("HOME", "/root"), ("LC_ALL", "C.UTF-8")];
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        Self { what, shown: Self::words(&argv), argv, env, cwd: "/", capture: None }
    }

    pub(super) fn words(argv: &[Value]) -> Vec<String> {
        let word = |value: &Value| match value {
            Value::Text(text) => text.clone(),
            Value::Fact(fact) => format!("<{fact}>"),
        };
        argv.iter().map(word).collect()
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn cwd(mut self, cwd: &'static str) -> Self {
        self.cwd = cwd;
        self
    }

    pub(crate) fn capture(mut self, fact: String) -> Self {
        self.capture = Some(fact);
        self
    }

    /// Shows these words instead of the actual command line.
    pub(crate) fn shown(mut self, words: &[&str]) -> Self {
        self.shown = words.iter().map(ToString::to_string).collect();
        self
    }

    pub(crate) fn work(self) -> Work {
        let step = Step::Run(Run {
            what: self.what,
            place: Place::Tools,
            argv: self.argv,
            env: self.env,
            environment: None,
            cwd: GuestPath::new(self.cwd).expect("constants are normal paths"),
            stdin: None,
            capture: self.capture,
        });
        Work { step, command: Some(self.shown) }
    }
}
