//! The context of a step: the plan, its stage, the configuration of the run, the guest, and the
//! state that stages pass on.

use plan::{GuestPath, Place, Plan, Stage};
use session::{FileStat, Session, SessionError};

use crate::{
    Config, EngineError, State,
    events::Event,
    guest::{Guest, TOOLS},
};

/// The context of one step. Functions that do not change the state take it by `&`.
pub(crate) struct StepContext<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) stage: &'a Stage,
    pub(crate) config: &'a Config,
    pub(crate) guest: &'a Guest,
    pub(crate) state: &'a mut State,
}

impl<'a> StepContext<'a> {
    /// Returns the session of the guest.
    pub(crate) fn session(&self) -> &'a Session {
        &self.guest.session
    }

    /// Passes an event to the observer of the build.
    pub(crate) fn emit(&self, event: &Event) {
        self.config.observer.event(event);
    }

    /// Reports a warning.
    pub(crate) fn warn(&self, text: String) {
        self.emit(&Event::Warning { text });
    }

    /// Returns a function for `map_err` that adds the stage and the step to an error of the
    /// session.
    pub(crate) fn failed<S: Into<String>>(
        &self,
        step: S,
    ) -> impl FnOnce(SessionError) -> EngineError + use<S> {
        let (stage, step) = (self.stage.name.clone(), step.into());
        move |source| EngineError::Session { stage, step, source }
    }

    /// Splits a path of the tools root into a root directory and the path below it. Inside the
    /// image, the root directory is that of the image, so that absolute links of the image stay
    /// inside it.
    pub(crate) fn locate(&self, path: &GuestPath) -> (String, String) {
        match &self.stage.context.image_root {
            Some(root) if root.contains(path) => {
                let below = &path.as_str()[root.as_str().trim_end_matches('/').len()..];
                (Guest::tools_path(root), if below.is_empty() { "/".into() } else { below.into() })
            }
            _ => (TOOLS.into(), path.to_string()),
        }
    }

    /// Returns the directory that is `/` for a place, seen from the agent.
    pub(crate) fn root_of(&self, place: Place) -> Result<String, EngineError> {
        match (place, &self.stage.context.image_root) {
            (Place::Tools, _) => Ok(TOOLS.to_owned()),
            (Place::Image, Some(root)) => Ok(Guest::tools_path(root)),
            (Place::Image, None) => Err(EngineError::Recipe(format!(
                "stage {} runs something in the image, but declares no image root",
                self.stage.name
            ))),
        }
    }

    /// Returns the status of a file, if it exists.
    pub(crate) async fn stat(
        &self,
        root: &str,
        path: &str,
    ) -> Result<Option<FileStat>, EngineError> {
        let found = self.session().stat(root, path).await;
        found.map_err(self.failed(format!("look at {path}")))
    }

    /// Lists the entries of a directory; the list is empty if the directory is missing.
    pub(crate) async fn entries(
        &self,
        root: &str,
        path: &str,
    ) -> Result<Vec<(String, FileStat)>, EngineError> {
        if self.stat(root, path).await?.is_none() {
            return Ok(Vec::new());
        }
        let listed = self.session().list(root, path).await;
        listed.map_err(self.failed(format!("list {path}")))
    }
}
