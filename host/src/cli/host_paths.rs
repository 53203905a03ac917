//! The option about files of the host that recipes name, for every verb whose recipe is a file
//! or a folder.

use std::path::PathBuf;

use clap::{Args, builder::ValueParser};

/// What a recipe may read of the host beside its own files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "What scripts see")]
pub(crate) struct HostPathArgs {
    /// Let the recipe name PATH of the host, which is not in its own folder; may be given several times
    ///
    /// A recipe may name files of its own folder (and of the working folder, where the recipe lies
    /// in it). Other files, hidden ones of a home or of a folder for temporary files, and links
    /// that lead to such are read only when this option has named them, or a folder that they are in.
    #[arg(long, value_name = "PATH", value_parser = ValueParser::path_buf())]
    pub(crate) allow_host_path: Vec<PathBuf>,
}
