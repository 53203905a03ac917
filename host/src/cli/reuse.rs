//! The options about results of earlier builds, for every verb that builds.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::values::{Age, age};

const CACHES: &str = "Caches";

/// The options for results of earlier builds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
#[command(next_help_heading = CACHES)]
pub(crate) struct ReuseArgs {
    /// Neither use nor keep results of builds
    ///
    /// Without this option, vbuild keeps the disks after each part of a build that was enough work,
    /// and starts the next build after the last part that is unchanged. The output of the build is
    /// the same.
    #[arg(long, overrides_with = "refresh")]
    pub(crate) no_cache: bool,

    /// Run everything again, or STAGE and all stages after it; `vbuild plan` lists the stages
    #[arg(long, value_name = "STAGE", require_equals = true, num_args = 0..=1,
          default_missing_value = "")]
    pub(crate) refresh: Option<String>,

    /// Run parts that used the network again if older than AGE: 12h, 7d, `never` [default: 7d]
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(crate) max_age: Option<Age>,

    /// Share results with others: fetch what they have built, push what is built here
    ///
    /// PLACE is s3://BUCKET/PREFIX (with the usual variables AWS_ACCESS_KEY_ID,
    /// AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL), ssh://[USER@]HOST[:PORT]/FOLDER, or
    /// a folder. Stages are shared up to the first one whose result must stay on this host.
    #[arg(long, value_name = "PLACE", conflicts_with = "no_cache")]
    pub(crate) remote_cache: Option<remote::Place>,

    /// Trust only shared results that are signed with the secret in FILE, and sign with it
    ///
    /// All who share results need the same file. It has at least 16 bytes, and no other user may
    /// read it (mode 0600). The names of results are made with the secret, too; without it, they do
    /// not permit guessing the value of a variable.
    #[arg(long, value_name = "FILE", requires = "remote_cache")]
    pub(crate) remote_key: Option<PathBuf>,

    /// Use unsigned results of a shared cache
    ///
    /// Anyone who can write to the shared cache then decides what is in images that are built from
    /// it. Unsigned results that were fetched are used again only by builds with this option.
    #[arg(long, conflicts_with = "remote_key")]
    pub(crate) remote_unsigned: bool,

    /// Action after a script has failed
    ///
    /// `shell` opens a shell in the machine as the script left it, if there is a terminal. When the
    /// shell ends, the build can be tried again; no change made in the shell becomes part of a
    /// result.
    #[arg(long, value_name = "ACTION")]
    pub(crate) on_failure: Option<OnFailureArg>,
}

/// An action after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnFailureArg {
    /// Stop
    Stop,
    /// Open a shell in the failed machine
    Shell,
}

impl ReuseArgs {
    /// Returns the maximum age of results; `None` if there is no limit.
    pub(crate) fn max_age(&self) -> Option<Duration> {
        match self.max_age {
            None => Some(crate::settings::MAX_AGE_DEFAULT),
            Some(Age(age)) => age,
        }
    }
}

/// The option for vbuild's own cache.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = CACHES)]
pub(crate) struct CacheDirArgs {
    /// Folder of the host for vbuild's own cache [default: $XDG_CACHE_HOME/vbuild]
    ///
    /// It contains appliances, results of builds, fetched elements and the logs of builds.
    #[arg(long, value_name = "DIR", value_parser = clap::builder::ValueParser::path_buf())]
    pub(crate) cache_dir: Option<PathBuf>,
}
