//! The configuration of B9: chooses the file, reads it, and applies the command line.

use std::{
    fs,
    path::{Path, PathBuf},
};

use b9::{CachePath, Config, LogLevel, Repository};

use super::{
    args::{AddRepoArgs, CommonArgs},
    remotes::Remote,
    text::read_text,
};
use crate::{
    commands::context::ProcessContext,
    error::{CommandError, Kind},
};

/// The suffixes that B9 4.0.0 tries for the name of a single configuration file, in this order.
const SUFFIXES: [&str; 4] = [".4.0.0", ".4.0", ".4", ""];
/// The maximum size of a configuration in bytes. Even with a hundred repositories, a configuration
/// has only some kilobytes.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// B9's directory in the user's home.
const USER_FOLDER: &str = ".b9";
/// The default directory of shared images, relative to the user's home.
const CACHE_FOLDER: &str = ".b9/repo-cache";
/// The SSH port of a repository, if `add-repo` is given none.
const SSH_PORT: u16 = 22;

/// A configuration, and the options of the command line that override it.
#[derive(Debug)]
pub(super) struct Configuration<'a> {
    /// The content of the file.
    pub(super) config: Config,
    options: &'a CommonArgs,
    home: Option<PathBuf>,
    file: PathBuf,
    text: String,
}

impl<'a> Configuration<'a> {
    /// Reads the configuration. If none is named and B9's default one does not exist, the default
    /// is created.
    ///
    /// # Errors
    /// Fails if no configuration is found, or if it cannot be read or is invalid.
    pub(super) fn read(
        context: &ProcessContext,
        options: &'a CommonArgs,
    ) -> Result<Self, CommandError> {
        Self::load(context, options, |file, candidates| {
            context.console.print_warning(&none_exists(candidates));
            context.console.print_warning(&format!(
                "creating a new config file with defaults at: {}",
                file.display()
            ));
            write(file, b9::NEW_CONFIG_FILE)
        })
    }

    /// Reads the configuration for verbs that only query: a missing default is not created, its
    /// content is used.
    ///
    /// # Errors
    /// Same as for [`Self::read`].
    pub(super) fn read_only(
        context: &ProcessContext,
        options: &'a CommonArgs,
    ) -> Result<Self, CommandError> {
        Self::load(context, options, |_, _| Ok(()))
    }

    /// Reads the configuration; `on_missing` gets the path of the missing default, and the paths
    /// that were tried.
    fn load(
        context: &ProcessContext,
        options: &'a CommonArgs,
        on_missing: impl FnOnce(&Path, &[PathBuf]) -> Result<(), CommandError>,
    ) -> Result<Self, CommandError> {
        let home = context.variable("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let candidates = candidates(&options.configuration_file, home.as_deref())?;
        let (file, text) = match candidates.iter().find(|path| path.exists()) {
            Some(file) => (file.clone(), read_file(file)?),
            None => {
                let file = default_file(options, &candidates)?;
                on_missing(&file, &candidates)?;
                (file, b9::NEW_CONFIG_FILE.to_owned())
            }
        };
        let config = b9::read_config(&text).map_err(|error| {
            CommandError::new(Kind::Usage, error)
                .context(format!("cannot use the configuration `{}`", file.display()))
        })?;
        Ok(Self { config, options, home, file, text })
    }

    /// The lowest level that is shown on standard output; `None` shows nothing.
    pub(super) fn level(&self) -> Option<LogLevel> {
        match (self.options.verbose, self.options.quiet) {
            (true, _) => Some(LogLevel::Trace),
            (_, true) => Some(LogLevel::Error),
            _ => self.config.verbosity,
        }
    }

    pub(super) fn log_file(&self) -> Option<PathBuf> {
        self.options.log_file.clone().or_else(|| self.config.log_file.clone().map(PathBuf::from))
    }

    /// The directory in which build directories are created; `None` is the working directory.
    pub(super) fn build_root(&self) -> Option<PathBuf> {
        let of_file = || self.config.build_dir_root.clone().map(PathBuf::from);
        self.options.build_root_dir.clone().or_else(of_file)
    }

    pub(super) fn keeps_build_directory(&self) -> bool {
        self.options.keep_build_dir || self.config.keep_temp_dirs
    }

    pub(super) fn has_predictable_build_directory(&self) -> bool {
        self.options.predictable_build_dir || !self.config.unique_build_dirs
    }

    /// Returns the directory of shared images.
    ///
    /// # Errors
    /// Fails if the directory is below the user's home, and `HOME` is not set.
    pub(super) fn cache(&self) -> Result<PathBuf, CommandError> {
        let below_home = |path: &str| match &self.home {
            Some(home) => Ok(home.join(path)),
            None => {
                Err(no_home("where shared images are kept").hint("`--repo-cache DIR` names it"))
            }
        };
        match (&self.options.repo_cache, &self.config.repository_cache) {
            (Some(folder), _) => Ok(folder.clone()),
            (None, Some(CachePath::Path(path))) => Ok(PathBuf::from(path)),
            (None, Some(CachePath::InHome(path))) => below_home(path),
            (None, Some(CachePath::InTemp(path))) => Ok(std::env::temp_dir().join(path)),
            (None, None) => below_home(CACHE_FOLDER),
        }
    }

    /// Returns the selected repository, if there is one: one of the configuration, or a place.
    ///
    /// # Errors
    /// Fails if no repository has that id, or if the place is invalid.
    pub(super) fn repository(&self) -> Result<Option<Remote>, CommandError> {
        let Some(id) = self.options.repo.as_ref().or(self.config.repository.as_ref()) else {
            return Ok(None);
        };
        if let Some(found) = self.config.repositories.iter().find(|one| one.id == *id) {
            return Ok(Some(Remote::of(found)));
        }
        if id.contains('/') {
            return Remote::at(id).map(Some);
        }
        let known: Vec<&str> = self.config.repositories.iter().map(|one| one.id.as_str()).collect();
        Err(CommandError::usage(format!(
            "selected remote repo '\"{id}\"' not configured, valid remote repos are: {}",
            known.join(", ")
        ))
        .hint("a folder with a `/`, s3://BUCKET/PREFIX or ssh://HOST/FOLDER is a repository, too"))
    }

    /// Returns the selected repository, or else all repositories of the configuration.
    ///
    /// # Errors
    /// Fails if no repository has the selected id, or if the place is invalid.
    pub(super) fn repositories(&self) -> Result<Vec<Remote>, CommandError> {
        Ok(match self.repository()? {
            Some(one) => vec![one],
            None => self.config.repositories.iter().map(Remote::of).collect(),
        })
    }

    /// Describes the parts of the configuration and the options that have no effect in vbuild.
    pub(super) fn without_effect(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.config.engines.is_empty() {
            notes.push(format!(
                "the configuration's sections of container engines ({}) only give limits of time and \
                 memory: scripts run in a microVM",
                self.config.engines.join(", ")
            ));
        }
        if let Some(network) = self.options.container_network.as_ref().filter(|net| *net != "host")
        {
            notes.push(format!("`--network {network}`: the machine has a network of its own"));
        }
        notes
    }

    /// Adds a repository to the configuration file, or changes it there.
    ///
    /// # Errors
    /// Fails if the repository cannot be described in the file, or if the file cannot be written.
    pub(super) fn add_repository(&self, args: &AddRepoArgs) -> Result<(), CommandError> {
        let repository = repository(args)?;
        let text = b9::with_repository(&self.text, &repository);
        // A file that could not be parsed the next time is not written.
        b9::read_config(&text).map_err(|error| {
            CommandError::new(Kind::Usage, error).context("the repository cannot be described so")
        })?;
        write(&self.file, &text)
    }

    /// Returns the effective configuration as text, for the number of a build.
    pub(super) fn digest_input(&self) -> String {
        format!("{:?}\0{:?}", self.config, self.options)
    }
}

fn repository(args: &AddRepoArgs) -> Result<Repository, CommandError> {
    let (port, user) = match args.port_and_user.as_slice() {
        [port, user] => {
            let number = port.parse().ok().filter(|port| *port > 0);
            (number.ok_or_else(|| CommandError::usage(format!("`{port}` is no port")))?, user)
        }
        [user] => (SSH_PORT, user),
        _ => return Err(CommandError::usage("who logs in at the repository is not said")),
    };
    let key = fs::canonicalize(&args.key).map_err(|error| {
        CommandError::new(Kind::Usage, error)
            .context(format!("cannot find the key `{}`", args.key.display()))
    })?;
    let key = key.to_str().ok_or_else(|| CommandError::usage("the path of the key is no text"))?;
    Ok(Repository {
        id: args.id.clone(),
        remote_path: args.directory.clone(),
        ssh_priv_key_file: key.to_owned(),
        ssh_remote_host: args.host.clone(),
        ssh_remote_port: port,
        ssh_remote_user: user.clone(),
    })
}

/// Returns the files that are tried, in order.
fn candidates(given: &[PathBuf], home: Option<&Path>) -> Result<Vec<PathBuf>, CommandError> {
    let with_suffixes = |base: &Path| {
        let with = |suffix: &&str| {
            let mut path = base.as_os_str().to_owned();
            path.push(suffix);
            PathBuf::from(path)
        };
        SUFFIXES.iter().map(with).collect()
    };
    match (given, home) {
        ([], Some(home)) => Ok(with_suffixes(&home.join(USER_FOLDER).join("b9.conf"))),
        ([], None) => Err(no_home("where B9's configuration is").hint("`-c FILE` names it")),
        ([one], _) => Ok(with_suffixes(one)),
        (several, _) => Ok(several.to_vec()),
    }
}

fn no_home(what: &str) -> CommandError {
    CommandError::usage(format!("HOME is not set, and so it is not known {what}"))
}

/// Returns the path of the user's default configuration. Fails if the command line names another.
fn default_file(options: &CommonArgs, candidates: &[PathBuf]) -> Result<PathBuf, CommandError> {
    match (options.configuration_file.is_empty(), candidates.last()) {
        (true, Some(file)) => Ok(file.clone()),
        _ => Err(CommandError::usage(none_exists(candidates))
            .hint("Please provide a valid config file path.")),
    }
}

/// The message that no configuration was found, in the words of b9c.
fn none_exists(candidates: &[PathBuf]) -> String {
    let tried: Vec<String> = candidates.iter().map(|path| format!("{path:?}")).collect();
    format!("B9 config file resolver: None of these files exists [{}]", tried.join(","))
}

fn read_file(file: &Path) -> Result<String, CommandError> {
    read_text(file, FILE_MAX_BYTES).map_err(|error| {
        CommandError::new(Kind::Usage, error)
            .context(format!("cannot read the configuration `{}`", file.display()))
    })
}

/// Replaces the file as a whole. An existing file keeps its permissions.
fn write(file: &Path, text: &str) -> Result<(), CommandError> {
    super::outputs::replace_text(file, text).map_err(|error| {
        CommandError::new(Kind::Host, error)
            .context(format!("cannot write the configuration `{}`", file.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_files_are_tried() {
        let shown = |given: &[&str], home: Option<&str>| {
            let given: Vec<PathBuf> = given.iter().map(PathBuf::from).collect();
            let found = candidates(&given, home.map(Path::new));
            found.map(|all| all.iter().map(|path| path.display().to_string()).collect::<Vec<_>>())
        };
        let suffixed = |base: &str| SUFFIXES.map(|suffix| format!("{base}{suffix}")).to_vec();
        assert_eq!(shown(&[], Some("/h")).unwrap(), suffixed("/h/.b9/b9.conf"));
        assert_eq!(shown(&["x.conf"], Some("/h")).unwrap(), suffixed("x.conf"));
        assert_eq!(shown(&["x", "y"], Some("/h")).unwrap(), ["x", "y"]);
        assert!(shown(&[], None).unwrap_err().to_string().starts_with("HOME is not set"));
    }

    #[test]
    fn the_port_of_a_repository_may_be_left_out() {
        let key = tempfile::NamedTempFile::new().unwrap();
        let args = |port_and_user: &[&str]| AddRepoArgs {
            id: "main".into(),
            directory: "/srv/b9".into(),
            key: key.path().to_owned(),
            host: "host".into(),
            port_and_user: port_and_user.iter().map(ToString::to_string).collect(),
        };
        let of = |words: &[&str]| {
            let made = repository(&args(words))?;
            Ok::<_, CommandError>((made.ssh_remote_port, made.ssh_remote_user))
        };
        assert_eq!(of(&["me"]).unwrap(), (22, "me".into()));
        assert_eq!(of(&["2222", "me"]).unwrap(), (2222, "me".into()));
        for bad in ["0", "70000", "x"] {
            assert!(of(&[bad, "me"]).unwrap_err().to_string().contains("is no port"), "{bad}");
        }
    }
}
