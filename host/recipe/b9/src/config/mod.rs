//! B9's configuration file: an INI file whose values are Haskell terms.
//!
//! Keys that only select or configure a container engine are parsed but have no effect: vbuild
//! always has its own. They are listed in [`Config::engines`], so that the user can be warned.

mod ini;

use ini::Ini;

pub use ini::IniError;

use crate::{
    haskell::{self, Shown, Term, Value, terms},
    place::{Fault, Text},
};

/// The content of a new configuration file.
pub const NEW_FILE: &str = include_str!("../../b9.conf");

/// A parsed configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The log level.
    pub verbosity: Option<LogLevel>,
    /// The log file.
    pub log_file: Option<String>,
    /// The parent of build directories.
    pub build_dir_root: Option<String>,
    /// Whether build directories are kept.
    pub keep_temp_dirs: bool,
    /// Whether each build gets a unique build directory.
    pub unique_build_dirs: bool,
    /// The id of the selected repository.
    pub repository: Option<String>,
    /// The cache directory of shared images.
    pub repository_cache: Option<CachePath>,
    /// How many revisions of a shared image the cache keeps.
    pub max_cached_shared_images: Option<u32>,
    /// Time limit of a step, in seconds.
    pub default_timeout_seconds: Option<u32>,
    /// Factor by which time limits are multiplied.
    pub timeout_factor: u32,
    /// Features of new ext4 filesystems.
    pub ext4_attributes: Option<Vec<String>>,
    /// Time limit of a script, in seconds.
    pub max_lifetime_seconds: Option<u32>,
    /// Minimum memory for a script, in MiB.
    pub guest_ram_mib: Option<u32>,
    /// Repositories of shared images.
    pub repositories: Vec<Repository>,
    /// Sections of container engines, which are ignored.
    pub engines: Vec<String>,
}

/// A repository of shared images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// The name of the repository.
    pub id: String,
    /// The directory of the repository on the remote host.
    pub remote_path: String,
    /// The file of the private SSH key.
    pub ssh_priv_key_file: String,
    /// The remote host.
    pub ssh_remote_host: String,
    /// The SSH port.
    pub ssh_remote_port: u16,
    /// The login name.
    pub ssh_remote_user: String,
}

terms! {
    /// Log levels.
    #[derive(Copy, PartialEq, Eq)]
    pub enum LogLevel = "LogLevel" {
        /// All messages.
        Trace = "LogTrace",
        /// Most messages.
        Debug = "LogDebug",
        /// Messages about actions.
        Info = "LogInfo",
        /// Messages about failures.
        Error = "LogError",
        /// No messages.
        Nothing = "LogNothing",
    }
}

terms! {
    /// A path in the configuration.
    enum SystemPath = "SystemPath" {
        /// A path as given.
        Path = "Path"(path: Text),
        /// Below the home directory.
        InHome = "InHomeDir"(path: Text),
        /// Below `~/.b9`.
        InUser = "InB9UserDir"(path: Text),
        /// Below the directory for temporary files.
        InTemp = "InTempDir"(path: Text),
    }
}

terms! {
    /// The memory limit of a container.
    enum RamSize = "RamSize" {
        /// A given size.
        Size = "RamSize"(number: i64, unit: crate::types::SizeUnit),
        /// The engine's default.
        Automatic = "AutomaticRamSize",
    }
}

/// The cache directory of shared images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePath {
    /// A path as given.
    Path(String),
    /// Below the home directory.
    InHome(String),
    /// Below the directory for temporary files.
    InTemp(String),
}

impl<T: Term> Term for Option<T> {
    fn type_name() -> String {
        format!("Maybe {}", T::type_name())
    }

    fn read(value: Value<'_>) -> Result<Self, Fault> {
        const KNOWN: &[&str] = &["Nothing", "Just"];
        let mut application = value.application("Maybe", KNOWN)?;
        let read = match application.name {
            "Nothing" => None,
            "Just" => Some(application.argument()?),
            _ => return Err(application.unknown("Maybe", KNOWN)),
        };
        application.end()?;
        Ok(read)
    }

    fn shown(&self) -> Shown {
        match self {
            None => Shown::Constructor("Nothing", Vec::new()),
            Some(value) => Shown::Constructor("Just", vec![value.shown()]),
        }
    }
}

/// Why a configuration is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The text is not an INI file.
    #[error(transparent)]
    Ini(#[from] IniError),
    /// A required key is missing.
    #[error("section `{section}` lacks the key `{key}`")]
    Missing {
        /// The section.
        section: String,
        /// The key.
        key: String,
    },
    /// A value has the wrong type.
    #[error("`{key}` in section `{section}`: cannot understand `{value}`: {reason}")]
    Value {
        /// The section.
        section: String,
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// The reason.
        reason: String,
    },
}

/// The container engines of B9.
const ENGINES: [&str; 4] = ["libvirt-lxc", "systemdNspawn", "docker", "podman"];
const GLOBAL: &str = "global";

/// Parses a configuration file.
///
/// # Errors
/// Fails if a key is missing or has the wrong type.
pub fn read_config(text: &str) -> Result<Config, ConfigError> {
    let ini = Ini::parse(text)?;
    let global = Section { ini: &ini, name: GLOBAL };
    let text = |value: Option<Text>| value.map(|text| text.text);
    let nspawn = Section { ini: &ini, name: "systemdNspawn" };
    let lxc = Section { ini: &ini, name: "libvirt-lxc" };
    let suffix = "-repo";
    let repositories = ini.sections().filter_map(|name| name.strip_suffix(suffix));
    Ok(Config {
        verbosity: global.needed("verbosity")?,
        log_file: text(global.needed("log_file")?),
        build_dir_root: text(global.needed("build_dir_root")?),
        keep_temp_dirs: global.truth("keep_temp_dirs")?,
        unique_build_dirs: global.truth("unique_build_dirs")?,
        repository: text(global.needed("repository")?),
        repository_cache: global
            .needed::<Option<SystemPath>>("repository_cache")?
            .map(CachePath::from),
        max_cached_shared_images: global.positive_or_nothing("max_cached_shared_images")?,
        default_timeout_seconds: global.seconds("default_timeout_seconds")?,
        timeout_factor: global.seconds("timeout_factor")?.unwrap_or(1),
        ext4_attributes: global
            .optional::<Vec<Text>>("ext4_attributes")?
            .map(|all| all.into_iter().map(|text| text.text).collect()),
        max_lifetime_seconds: nspawn.positive_or_nothing("max_lifetime_seconds")?,
        guest_ram_mib: lxc.optional::<RamSize>("guest_ram_size")?.and_then(RamSize::mib),
        repositories: repositories
            .map(|id| Section { ini: &ini, name: &format!("{id}{suffix}") }.repository(id))
            .collect::<Result<_, _>>()?,
        engines: ini.sections().filter(|name| ENGINES.contains(name)).map(str::to_owned).collect(),
    })
}

/// Adds a repository to the text of a configuration file, or replaces the one of the same name.
/// Everything else is unchanged, comments included.
#[must_use]
pub fn with_repository(text: &str, repository: &Repository) -> String {
    let section = format!(
        "[{}-repo]\nremote_path: {}\nssh_priv_key_file: {}\nssh_remote_host: {}\nssh_remote_port: {}\nssh_remote_user: {}\n",
        repository.id,
        repository.remote_path,
        repository.ssh_priv_key_file,
        repository.ssh_remote_host,
        repository.ssh_remote_port,
        repository.ssh_remote_user,
    );
    ini::with_section(text, &format!("{}-repo", repository.id), &section)
}

impl From<SystemPath> for CachePath {
    fn from(path: SystemPath) -> Self {
        match path {
            SystemPath::Path(path) => Self::Path(path.text),
            SystemPath::InHome(path) => Self::InHome(path.text),
            SystemPath::InUser(path) => Self::InHome(format!(".b9/{}", path.text)),
            SystemPath::InTemp(path) => Self::InTemp(path.text),
        }
    }
}

impl RamSize {
    fn mib(self) -> Option<u32> {
        match self {
            Self::Size(number, unit) => {
                let bytes = crate::types::ImageSize { number, unit }.bytes()?;
                u32::try_from(bytes >> 20).ok()
            }
            Self::Automatic => None,
        }
    }
}

struct Section<'a> {
    ini: &'a Ini,
    name: &'a str,
}

impl Section<'_> {
    fn wrong(&self, key: &str, value: &str, reason: impl Into<String>) -> ConfigError {
        let (section, key) = (self.name.to_owned(), key.to_owned());
        ConfigError::Value { section, key, value: value.to_owned(), reason: reason.into() }
    }

    fn missing(&self, key: &str) -> ConfigError {
        ConfigError::Missing { section: self.name.to_owned(), key: key.to_owned() }
    }

    fn optional<T: Term>(&self, key: &str) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.ini.get(self.name, key) else { return Ok(None) };
        haskell::read(value, 0).map(Some).map_err(|fault| self.wrong(key, value, fault.message))
    }

    fn needed<T: Term>(&self, key: &str) -> Result<T, ConfigError> {
        self.optional(key)?.ok_or_else(|| self.missing(key))
    }

    /// A value as written, without quotes.
    fn plain(&self, key: &str) -> Result<String, ConfigError> {
        let value = self.ini.get(self.name, key).ok_or_else(|| self.missing(key))?;
        if value.is_empty() || value.contains(['\n', '\0']) {
            return Err(self.wrong(key, value, "it must be one line"));
        }
        Ok(value.to_owned())
    }

    fn truth(&self, key: &str) -> Result<bool, ConfigError> {
        let value = self.ini.get(self.name, key).ok_or_else(|| self.missing(key))?;
        match value.to_ascii_lowercase().as_str() {
            "1" | "yes" | "on" | "enabled" | "true" => Ok(true),
            "0" | "no" | "off" | "disabled" | "false" => Ok(false),
            _ => Err(self.wrong(key, value, "it is neither True nor False")),
        }
    }

    fn number(&self, key: &str, number: i64) -> Result<u32, ConfigError> {
        u32::try_from(number)
            .ok()
            .filter(|number| *number > 0)
            .ok_or_else(|| self.wrong(key, &number.to_string(), "it must be 1 or more"))
    }

    fn seconds(&self, key: &str) -> Result<Option<u32>, ConfigError> {
        self.optional::<i64>(key)?.map(|number| self.number(key, number)).transpose()
    }

    fn positive_or_nothing(&self, key: &str) -> Result<Option<u32>, ConfigError> {
        let number = self.optional::<Option<i64>>(key)?.flatten();
        number.map(|number| self.number(key, number)).transpose()
    }

    fn repository(&self, id: &str) -> Result<Repository, ConfigError> {
        let port = self.needed::<i64>("ssh_remote_port")?;
        let wrong = || self.wrong("ssh_remote_port", &port.to_string(), "it is no port");
        Ok(Repository {
            id: id.to_owned(),
            remote_path: self.plain("remote_path")?,
            ssh_priv_key_file: self.plain("ssh_priv_key_file")?,
            ssh_remote_host: self.plain("ssh_remote_host")?,
            ssh_remote_port: u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(wrong)?,
            ssh_remote_user: self.plain("ssh_remote_user")?,
        })
    }
}

#[cfg(test)]
mod tests;
