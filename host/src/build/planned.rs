//! A recipe lowered to a plan, with the settings to run it.

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
    /// Whether a build creates the missing directories of its outputs.
    pub(crate) makes_folders: bool,
}

impl Planned {
    /// Creates a value for a plan without generated files. The directories of its outputs must
    /// exist.
    pub(crate) fn new(plan: Plan, settings: Settings) -> Self {
        Self { plan, settings, files: None, makes_folders: false }
    }
}
