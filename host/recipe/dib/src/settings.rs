//! Merges options and variables: an option overrides the variable of the same meaning, and the
//! default comes last.

use std::collections::BTreeMap;

use plan::{Architecture, Checksum, MachineArchitecture};

use crate::{
    numbers::{self, Unit, count},
    options::{DibOptions, OptionError},
};

/// Journal size of an ext4 root filesystem in MiB. It is large because images are often grown a lot
/// after the build.
const DEFAULT_JOURNAL_MIB: u64 = 64;
const KIB_PER_MIB: u64 = 1024;

/// How the image size is determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SizeChoice {
    /// Exactly this number of bytes.
    Exact(u64),
    /// This number of KiB, plus space for an ESP.
    Kib(u64),
    /// The size of the tree plus `extra_kib` of free space, by default two thirds of it.
    Computed { extra_kib: Option<u64> },
}

/// The resolved settings.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The value of `ARCH`, as the user wrote it.
    pub(crate) arch: String,
    /// The machine architecture that the value of `ARCH` stands for.
    pub(crate) architecture: Architecture,
    pub(crate) fs_type: String,
    pub(crate) root_label: Option<String>,
    pub(crate) size: SizeChoice,
    pub(crate) journal_mib: u64,
    pub(crate) max_online_resize: Option<String>,
    pub(crate) install_type: String,
    pub(crate) offline: bool,
    pub(crate) debug_trace: u32,
    pub(crate) checksums: Vec<Checksum>,
    pub(crate) overwrite: bool,
    pub(crate) block_bytes: Option<u32>,
    pub(crate) block_device_config: Option<String>,
    pub(crate) show_usage: bool,
    pub(crate) show_usage_full: bool,
    /// Warnings about values that the user may misunderstand.
    pub(crate) warnings: Vec<String>,
    /// The user's variables; the last value of each name.
    pub(crate) variables: BTreeMap<String, String>,
}

impl Settings {
    pub(crate) fn resolve(options: &DibOptions) -> Result<Self, OptionError> {
        let mut variables: BTreeMap<String, String> = options.envvars.iter().cloned().collect();
        // Scripts read this variable itself, so the option must set it.
        if let (Some(kind), Some(value)) =
            (&options.install_type, variables.get_mut("DIB_DEFAULT_INSTALLTYPE"))
        {
            value.clone_from(kind);
        }
        let variable = |name: &str| variables.get(name).filter(|value| !value.is_empty()).cloned();
        let flag = |name: &str| variable(name).is_some_and(|value| value != "0");
        let debug_trace = match (options.debug_trace, variable("DIB_DEBUG_TRACE")) {
            (0, Some(value)) => {
                let level = count("DIB_DEBUG_TRACE", &value)?;
                u32::try_from(level).unwrap_or(u32::MAX)
            }
            (level, _) => level,
        };
        let journal = given("--mkfs-journal-size", &options.journal_size_mib)
            .or_else(|| Some(("DIB_JOURNAL_SIZE", variable("DIB_JOURNAL_SIZE")?)));
        let online_resize = given("--max-online-resize", &options.max_online_resize)
            .or_else(|| Some(("MAX_ONLINE_RESIZE", variable("MAX_ONLINE_RESIZE")?)));
        if let Some((option, blocks)) = &online_resize {
            numbers::blocks(option, blocks)?;
        }
        let mut warnings = Vec::new();
        let checksums = match variable("DIB_CHECKSUM") {
            Some(value) if options.checksums.is_empty() => checksums(&value),
            _ => options.checksums.clone(),
        };
        let (arch, architecture) = architecture(options.arch.as_deref(), variable("ARCH"))?;
        Ok(Self {
            arch,
            architecture,
            fs_type: options
                .fs_type
                .clone()
                .or_else(|| variable("FS_TYPE"))
                .unwrap_or_else(|| "ext4".into()),
            root_label: options.root_label.clone().or_else(|| variable("ROOT_LABEL")),
            size: size(options, &variable, &mut warnings)?,
            journal_mib: journal
                .map(|(option, value)| count(option, &value))
                .transpose()?
                .unwrap_or(DEFAULT_JOURNAL_MIB),
            max_online_resize: online_resize.map(|(_, blocks)| blocks),
            install_type: options
                .install_type
                .clone()
                .or_else(|| variable("DIB_DEFAULT_INSTALLTYPE"))
                .unwrap_or_else(|| "source".into()),
            offline: options.offline || options.no_network || flag("DIB_OFFLINE"),
            debug_trace,
            checksums,
            overwrite: options.overwrite || flag("OVERWRITE_OLD_IMAGE"),
            block_bytes: block_bytes(variable("DIB_BLOCK_SIZE"))?,
            block_device_config: variable("DIB_BLOCK_DEVICE_CONFIG"),
            show_usage: flag("DIB_SHOW_IMAGE_USAGE"),
            show_usage_full: flag("DIB_SHOW_IMAGE_USAGE_FULL"),
            warnings,
            variables,
        })
    }

    /// The journal size in KiB.
    pub(crate) fn journal_kib(&self) -> u64 {
        self.journal_mib.saturating_mul(KIB_PER_MIB)
    }
}

/// An option with its value, if given.
fn given(option: &'static str, value: &Option<String>) -> Option<(&'static str, String)> {
    value.clone().map(|value| (option, value))
}

fn size(
    options: &DibOptions,
    variable: &dyn Fn(&str) -> Option<String>,
    warnings: &mut Vec<String>,
) -> Result<SizeChoice, OptionError> {
    if let Some(bytes) = options.size {
        return Ok(SizeChoice::Exact(bytes));
    }
    let mut kib = |(option, value): (&'static str, String), unit| {
        let (kib, warning) = numbers::size(option, &value, unit)?;
        warnings.extend(warning);
        Ok(kib)
    };
    let gib = given("--image-size", &options.image_size_gib)
        .or_else(|| Some(("DIB_IMAGE_SIZE", variable("DIB_IMAGE_SIZE")?)));
    if let Some(gib) = gib {
        return Ok(SizeChoice::Kib(kib(gib, Unit::Gib)?));
    }
    let extra = given("--image-extra-size", &options.image_extra_size_mib)
        .or_else(|| Some(("DIB_IMAGE_EXTRA_SIZE", variable("DIB_IMAGE_EXTRA_SIZE")?)));
    let extra_kib = extra.map(|extra| kib(extra, Unit::Mib)).transpose()?;
    Ok(SizeChoice::Computed { extra_kib })
}

fn block_bytes(value: Option<String>) -> Result<Option<u32>, OptionError> {
    let Some(value) = value else { return Ok(None) };
    crate::block_device::block_bytes(&value).map(Some).ok_or(OptionError::BlockSize(value))
}

/// `DIB_CHECKSUM`: `1` for both kinds, or names of kinds.
fn checksums(value: &str) -> Vec<Checksum> {
    if value == "1" {
        return vec![Checksum::Md5, Checksum::Sha256];
    }
    let kinds =
        [("md5", Checksum::Md5), ("sha256", Checksum::Sha256), ("sha512", Checksum::Sha512)];
    kinds.into_iter().filter(|(name, _)| value.contains(name)).map(|(_, kind)| kind).collect()
}

/// The architecture of the image: the option, the variable, or that of this host; and the name by
/// which elements see it.
fn architecture(
    option: Option<&str>,
    variable: Option<String>,
) -> Result<(String, Architecture), OptionError> {
    let (name, given) = match (option, variable) {
        (Some(given), _) => ("-a", given.to_owned()),
        (None, Some(given)) => ("ARCH", given),
        (None, None) => {
            let host = MachineArchitecture::of_host().architecture();
            return Ok((host.debian().to_owned(), host));
        }
    };
    let refused = |reason: String| OptionError::Architecture { option: name, reason };
    let known = given.parse::<Architecture>().map_err(|unknown| refused(unknown.to_string()))?;
    known.machine().map_err(|none| refused(none.to_string()))?;
    Ok((given, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)], change: impl FnOnce(&mut DibOptions)) -> Settings {
        let mut options = DibOptions {
            envvars: variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..DibOptions::default()
        };
        change(&mut options);
        Settings::resolve(&options).unwrap()
    }

    #[test]
    fn sizes() {
        assert_eq!(settings(&[], |_| ()).size, SizeChoice::Computed { extra_kib: None });
        assert_eq!(settings(&[("DIB_IMAGE_SIZE", "0.9")], |_| ()).size, SizeChoice::Kib(943_718));
        assert_eq!(
            settings(&[("DIB_IMAGE_EXTRA_SIZE", "200")], |_| ()).size,
            SizeChoice::Computed { extra_kib: Some(204_800) }
        );
        assert_eq!(
            settings(&[("DIB_IMAGE_SIZE", "9")], |o| o.image_size_gib = Some("2".into())).size,
            SizeChoice::Kib(2 << 20)
        );
        assert_eq!(
            settings(&[("DIB_IMAGE_SIZE", "9")], |o| o.size = Some(512)).size,
            SizeChoice::Exact(512)
        );
    }

    #[test]
    fn an_option_wins_over_its_variable() {
        let variables = [("ARCH", "arm64"), ("FS_TYPE", "xfs"), ("DIB_CHECKSUM", "sha256")];
        let from_variables = settings(&variables, |_| ());
        assert_eq!(from_variables.arch, "arm64");
        assert_eq!(from_variables.fs_type, "xfs");
        assert_eq!(from_variables.checksums, [Checksum::Sha256]);
        let from_options = settings(&variables, |options| {
            options.arch = Some("amd64".into());
            options.checksums = vec![Checksum::Md5];
        });
        assert_eq!(from_options.arch, "amd64");
        assert_eq!(from_options.checksums, [Checksum::Md5]);
    }

    #[test]
    fn an_architecture_without_a_machine_is_refused() {
        let resolved = |arch: &str| {
            let arch = Some(arch.to_owned());
            let settings = Settings::resolve(&DibOptions { arch, ..DibOptions::default() });
            settings.map(|settings| (settings.arch, settings.architecture))
        };
        // Elements see the word as it was given.
        assert_eq!(resolved("aarch64").unwrap(), ("aarch64".into(), Architecture::Arm64));
        let error = resolved("s390x").unwrap_err().to_string();
        assert!(error.starts_with("-a: ") && error.contains("s390x"), "{error}");
        let error = resolved("pdp11").unwrap_err().to_string();
        assert!(error.starts_with("-a: `pdp11` is not an architecture"), "{error}");
    }

    #[test]
    fn the_last_variable_of_a_name_wins() {
        assert_eq!(settings(&[("X", "1"), ("X", "2")], |_| ()).variables["X"], "2");
    }

    #[test]
    fn bad_numbers_are_named_with_what_was_given() {
        let refused = |variables: &[(&str, &str)], change: &dyn Fn(&mut DibOptions)| {
            let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            let envvars = variables.iter().map(pair).collect();
            let mut options = DibOptions { envvars, ..DibOptions::default() };
            change(&mut options);
            Settings::resolve(&options).unwrap_err().to_string()
        };
        let option = refused(&[], &|options| options.image_size_gib = Some("big".into()));
        assert_eq!(option, "--image-size: `big` is no number of GiB above zero");
        for (name, value) in [
            ("DIB_IMAGE_SIZE", "big"),
            ("DIB_IMAGE_EXTRA_SIZE", "-1"),
            ("DIB_JOURNAL_SIZE", "64M"),
            ("MAX_ONLINE_RESIZE", "0"),
            ("DIB_DEBUG_TRACE", "much"),
            ("DIB_BLOCK_SIZE", "1k"),
        ] {
            let message = refused(&[(name, value)], &|_| ());
            assert!(message.starts_with(&format!("{name}: `{value}`")), "{message}");
        }
    }

    #[test]
    fn a_unit_that_does_not_count_is_a_warning() {
        assert_eq!(settings(&[("DIB_IMAGE_SIZE", "275G")], |_| ()).warnings, [""; 0]);
        let settings = settings(&[("DIB_IMAGE_SIZE", "500M")], |_| ());
        assert_eq!(settings.size, SizeChoice::Kib(500 << 20));
        assert!(settings.warnings[0].starts_with("DIB_IMAGE_SIZE: `500M` is 500 GiB"));
    }
}
