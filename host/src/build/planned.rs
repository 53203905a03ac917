//! A recipe lowered to a plan, with the settings to run it.

use std::path::PathBuf;

use plan::Plan;

use crate::settings::Settings;

/// A plan and the settings with which it is built.
#[derive(Debug)]
pub(crate) struct Planned {
    /// The plan of the recipe.
    pub(crate) plan: Plan,
    /// The settings of the build.
    pub(crate) settings: Settings,
    /// Generated files that the plan reads; they are removed when this value is dropped.
    pub(crate) files: Option<tempfile::TempDir>,
    /// The files that the front end makes of the plan's images, if it makes others, each with a
    /// description.
    pub(crate) results: Option<Vec<(PathBuf, &'static str)>>,
    /// Whether a build creates the missing directories of its outputs.
    pub(crate) makes_folders: bool,
}

impl Planned {
    /// Creates a value for a plan without generated files. The directories of its outputs must
    /// exist.
    pub(crate) fn new(plan: Plan, settings: Settings) -> Self {
        Self { plan, settings, files: None, results: None, makes_folders: false }
    }
}
