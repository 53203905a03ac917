//! A recipe that has become a plan, ready to be built or looked at.

use plan::Plan;

use crate::settings::Settings;

/// What would be built, and how.
#[derive(Debug)]
pub(crate) struct Planned {
    /// The plan of the recipe.
    pub(crate) plan: Plan,
    /// How it is to be run.
    pub(crate) settings: Settings,
    /// Files that were made for the plan, and are there as long as this.
    pub(crate) files: Option<tempfile::TempDir>,
    /// Whether a build makes folders of its outputs where they are missing.
    pub(crate) makes_folders: bool,
}

impl Planned {
    /// A plan without files of its own, whose output folders must exist.
    pub(crate) fn new(plan: Plan, settings: Settings) -> Self {
        Self { plan, settings, files: None, makes_folders: false }
    }
}
