//! The option for files of the host that recipes name, for every verb whose recipe is a file or a
//! directory.

use std::path::PathBuf;

use clap::{Args, builder::ValueParser};

/// The option for files of the host that a recipe may read in addition to its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "What scripts see")]
pub(crate) struct HostPathArgs {
    /// Let the recipe name PATH, which is outside its own folder; repeatable
    ///
    /// A recipe may name files in its own folder, and in the working folder if the recipe is in it.
    /// Other files, hidden files in a home folder or in a folder for temporary files, and links
    /// that lead to such files are read only if this option names them or a folder that they are
    /// in.
    #[arg(long, value_name = "PATH", value_parser = ValueParser::path_buf())]
    pub(crate) allow_host_path: Vec<PathBuf>,
}
