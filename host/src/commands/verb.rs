//! The verbs of vbuild. To add one, add it here and write its file.

use clap::Subcommand;

use super::{
    appliance, b9, boot, cache, completions,
    context::{Outcome, ProcessContext},
    doctor, exec, explain, images, layers, plan, shell, store, vmdb,
};

/// Everything that vbuild does beside the default, which is to build.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub(crate) enum Verb {
    /// Build what a vmdb2 spec says
    #[command(infer_long_args = true)]
    Vmdb(Box<vmdb::VmdbArgs>),
    /// Build a stack of layer folders, as vm-layer-builder has them
    Layers(Box<layers::LayersArgs>),
    /// Build what files of B9 describe, and keep its shared images
    B9(Box<b9::B9Args>),
    /// Build the images that definitions in YAML name
    Images(Box<images::ImagesArgs>),
    /// Show what a build would do, without doing it
    Plan(Box<plan::PlanArgs>),
    /// Open a shell in the machine of a build, between two of its stages
    #[command(infer_long_args = true)]
    Shell(Box<shell::ShellArgs>),
    /// Tell which script of a build made a file of its image
    Explain(Box<explain::ExplainArgs>),
    /// Tell how much of an image each part of its build made
    Du(Box<explain::DuArgs>),
    /// List, check and shrink what is kept of builds
    Store(store::StoreCommand),
    /// Boot a finished image on its serial console, without changing it
    Boot(Box<boot::BootArgs>),
    /// Run one command in a fresh appliance
    Exec(Box<exec::ExecArgs>),
    /// Check what vbuild needs of this machine, and say what to do about it
    Doctor(doctor::DoctorArgs),
    /// Make, show and remove appliances
    Appliance(appliance::ApplianceCommand),
    /// Make what builds keep between them
    Cache(cache::CacheCommand),
    /// Print the completions of a shell
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
