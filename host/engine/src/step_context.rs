//! What a step works with: the plan, its stage, the run's configuration, the guest, and
//! what is known between stages.

use plan::{GuestPath, Place, Plan, Stage};
use session::{FileStat, Session, SessionError};

use crate::{
    Config, EngineError, State,
    events::Event,
    guest::{Guest, TOOLS},
};

/// The surroundings of one step. Functions that only read take it by `&`.
pub(crate) struct StepContext<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) stage: &'a Stage,
    pub(crate) config: &'a Config,
    pub(crate) guest: &'a Guest,
    pub(crate) state: &'a mut State,
}

impl<'a> StepContext<'a> {
    /// The session of the guest.
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

    /// Turns an error of the session into one that names the stage and the step.
    pub(crate) fn failed<S: Into<String>>(
        &self,
        step: S,
    ) -> impl FnOnce(SessionError) -> EngineError + use<S> {
        let (stage, step) = (self.stage.name.clone(), step.into());
        move |source| EngineError::Session { stage, step, source }
    }

    /// A path of the tools root as root directory and path below it: inside the
    /// image its own root, so that absolute links of the image stay in the image.
    pub(crate) fn locate(&self, path: &GuestPath) -> (String, String) {
        match &self.stage.context.image_root {
            Some(root) if root.contains(path) => {
                let below = &path.as_str()[root.as_str().trim_end_matches('/').len()..];
                (Guest::tools_path(root), if below.is_empty() { "/".into() } else { below.into() })
            }
            _ => (TOOLS.into(), path.to_string()),
        }
    }

    /// The directory that is `/` for a place, seen from the agent.
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

    /// The status of a file, if it exists.
    pub(crate) async fn stat(
        &self,
        root: &str,
        path: &str,
    ) -> Result<Option<FileStat>, EngineError> {
        let found = self.session().stat(root, path).await;
        found.map_err(self.failed(format!("look at {path}")))
    }

    /// The entries of a directory; none when it is missing.
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
