//! The options about results of earlier builds, for every verb that builds.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::values::{Age, age};

const CACHES: &str = "Caches";

/// What of earlier builds is used again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
#[command(next_help_heading = CACHES)]
pub(crate) struct ReuseArgs {
    /// Neither use nor keep results of builds
    ///
    /// Without this option vbuild keeps the disks after each part of a build whose work is worth
    /// it, and starts the next build behind the last part that nothing has changed for. The
    /// build's output is the same.
    #[arg(long, overrides_with = "refresh")]
    pub(crate) no_cache: bool,

    /// Run everything again, or STAGE and all that follows it; `vbuild plan` lists the stages
    #[arg(long, value_name = "STAGE", require_equals = true, num_args = 0..=1,
          default_missing_value = "")]
    pub(crate) refresh: Option<String>,

    /// Run a part that used the network again when its result is older: 12h, 7d, `never` [default: 7d]
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(crate) max_age: Option<Age>,

    /// Share results with others: fetch what they have built, push what is built here
    ///
    /// s3://BUCKET/PREFIX (with the usual variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
    /// AWS_REGION and AWS_ENDPOINT_URL), ssh://[USER@]HOST[:PORT]/FOLDER, or a folder. Stages up to
    /// the first whose result must stay here are shared.
    #[arg(long, value_name = "PLACE", conflicts_with = "no_cache")]
    pub(crate) remote_cache: Option<remote::Place>,

    /// Trust in the shared cache only what is signed with the secret in FILE, and sign with it
    ///
    /// Everybody who shares results needs the same file, of at least 16 bytes, which nobody else
    /// may read (mode 0600). Names of results are made with it too, so that nobody without it
    /// finds the value of a variable by trying.
    #[arg(long, value_name = "FILE", requires = "remote_cache")]
    pub(crate) remote_key: Option<PathBuf>,

    /// Use results of a shared cache that nobody has signed
    ///
    /// Whoever can write to the place then decides what is in images that are built from it.
    /// What came from there is used again only by builds with this option.
    #[arg(long, conflicts_with = "remote_key")]
    pub(crate) remote_unsigned: bool,

    /// What happens when a script fails, beside the failure
    ///
    /// `shell` opens a shell in the machine as the script has left it, if there is a terminal.
    /// After it, the build can be tried again; nothing done in the shell gets into a result.
    #[arg(long, value_name = "ACTION")]
    pub(crate) on_failure: Option<OnFailureArg>,
}

/// Actions after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnFailureArg {
    /// Stop
    Stop,
    /// A shell in the failed machine
    Shell,
}

impl ReuseArgs {
    /// The longest age, if there is one.
    pub(crate) fn max_age(&self) -> Option<Duration> {
        match self.max_age {
            None => Some(crate::settings::MAX_AGE_DEFAULT),
            Some(Age(age)) => age,
        }
    }
}

/// vbuild's own cache.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = CACHES)]
pub(crate) struct CacheDirArgs {
    /// Folder of the host for vbuild's own cache [default: $XDG_CACHE_HOME/vbuild]
    ///
    /// Appliances, results of builds, fetched elements and the logs of builds.
    #[arg(long, value_name = "DIR", value_parser = clap::builder::ValueParser::path_buf())]
    pub(crate) cache_dir: Option<PathBuf>,
}
