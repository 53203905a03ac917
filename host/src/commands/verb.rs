//! The verbs of vbuild. To add one, add it here and write its file.

use clap::Subcommand;

use super::{
    appliance, b9, boot, cache, completions,
    context::{Outcome, ProcessContext},
    doctor, exec, explain, images, layers, plan, shell, store, vmdb,
};

/// The verbs of vbuild, except for the default, which is to build with elements.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub(crate) enum Verb {
    /// Build the image that a vmdb2 spec describes
    #[command(infer_long_args = true)]
    Vmdb(Box<vmdb::VmdbArgs>),
    /// Build a stack of layer folders, in the layout of vm-layer-builder
    Layers(Box<layers::LayersArgs>),
    /// Build the artifacts that B9 files describe, and manage shared images
    B9(Box<b9::B9Args>),
    /// Build the images that YAML definitions describe
    Images(Box<images::ImagesArgs>),
    /// Show what a build would do, without doing it
    Plan(Box<plan::PlanArgs>),
    /// Open a shell in the machine of a build, between two of its stages
    #[command(infer_long_args = true)]
    Shell(Box<shell::ShellArgs>),
    /// Show which script of a build made a file of its image
    Explain(Box<explain::ExplainArgs>),
    /// Show how much of an image each part of its build made
    Du(Box<explain::DuArgs>),
    /// List, check and shrink the stored results of builds
    Store(store::StoreCommand),
    /// Boot a finished image on its serial console, without changing it
    Boot(Box<boot::BootArgs>),
    /// Run one command in a fresh appliance
    Exec(Box<exec::ExecArgs>),
    /// Check that this machine has what vbuild needs, and show what to do if not
    Doctor(doctor::DoctorArgs),
    /// Make, show and remove appliances
    Appliance(appliance::ApplianceCommand),
    /// Make a drive for files that scripts keep between builds
    Cache(cache::CacheCommand),
    /// Print the completion script of a shell
    Completions(completions::CompletionsArgs),
}

impl Verb {
    /// Runs the verb.
    pub(crate) fn run(self, context: &ProcessContext) -> Outcome {
        match self {
            Self::Vmdb(args) => vmdb::run(context, &args),
            Self::Layers(args) => layers::run(context, &args),
            Self::B9(args) => b9::run(context, &args),
            Self::Images(args) => images::run(context, &args),
            Self::Plan(args) => plan::run(context, &args),
            Self::Shell(args) => shell::run(context, &args),
            Self::Explain(args) => explain::run(context, &args),
            Self::Du(args) => explain::run_du(context, &args),
            Self::Store(command) => store::run(context, command),
            Self::Boot(args) => boot::run(context, &args),
            Self::Exec(args) => exec::run(context, &args),
            Self::Doctor(args) => doctor::run(context, &args),
            Self::Appliance(command) => appliance::run(context, command),
            Self::Cache(command) => cache::run(context, command),
            Self::Completions(args) => completions::run(context, &args),
        }
    }
}
