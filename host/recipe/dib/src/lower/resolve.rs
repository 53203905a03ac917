//! Resolves everything that must be known before stages are written.

use std::path::{Path, PathBuf};

use plan::{DiskSize, GuestPath, ImageSize, NodeKind, PartitionTable, Size};
use rooted::Dir;
use uuid::Uuid;

use crate::{
    block_device::{
        BlockDeviceError, BlockDevices, ConfigText, Configuration, IMAGE_DISK, RootParameters,
        Symbols, choose,
    },
    elements::{self, Catalogue, Element},
    environment::{Environment, SIZE_FACT},
    error::DibError,
    files::{Tree, read_tree},
    guest,
    hooks::Hooks,
    host_files::{self, Host},
    lower::steps,
    options::{DibOptions, OptionError},
    settings::{Settings, SizeChoice},
    source::Located,
};

/// Added for an EFI system partition, whose size does not follow from the tree.
const ESP_KIB: u64 = 525 * 1024;
/// Image sizes are rounded up to this: some versions of qemu-img compress other sizes wrongly.
const ROUND_KIB: u64 = 64;
/// Namespace of filesystem UUIDs that are derived from a recipe.
const UUID_NAMESPACE: Uuid = Uuid::from_bytes(*b"vbuild-dib-uuids");

/// The image size, in all forms that the plan needs.
#[derive(Debug, Clone)]
pub(crate) struct ImageBytes {
    pub(crate) disk: DiskSize,
    /// The size in KiB, if already known.
    pub(crate) kib: Option<u64>,
    /// Otherwise, the step that computes it.
    pub(crate) step: Option<ImageSize>,
}

/// A resolved build.
#[derive(Debug)]
pub(crate) struct Build<'a> {
    pub(crate) options: &'a DibOptions,
    pub(crate) located: &'a Located,
    pub(crate) settings: Settings,
    pub(crate) requested: Vec<String>,
    pub(crate) elements: Vec<Element>,
    pub(crate) hooks: Hooks,
    pub(crate) config: ConfigText,
    pub(crate) root_options: String,
    pub(crate) devices: BlockDevices,
    pub(crate) symbols: Symbols,
    pub(crate) root_uuid: String,
    pub(crate) size: ImageBytes,
    /// The image name without directories and without the suffix of a format.
    pub(crate) image_name: String,
    /// The output directory.
    pub(crate) directory: PathBuf,
    /// Whether the build produces only the files left by cleanup.d, and no image.
    pub(crate) ramdisk: bool,
    pub(crate) warnings: Vec<String>,
    /// Files passed to scripts with `--share`.
    pub(crate) shares: Vec<Shared>,
}

/// Files of the host that the user shares with scripts.
#[derive(Debug)]
pub(crate) struct Shared {
    /// A description for messages.
    pub(crate) what: String,
    /// The guest path.
    pub(crate) to: GuestPath,
    pub(crate) tree: Tree,
}

impl<'a> Build<'a> {
    pub(crate) fn resolve(options: &'a DibOptions, located: &'a Located) -> Result<Self, DibError> {
        if options.elements.is_empty() {
            return Err(OptionError::NoElements.into());
        }
        let settings = Settings::resolve(options)?;
        check_docker(options)?;
        let (directory, image_name) = image_name(options)?;
        let mut warnings = settings.warnings.clone();
        let requested = elements::requested(options, &settings.arch);
        let elements = expand(options, located, &requested, &mut warnings)?;
        let hooks = Hooks::merge(&elements, &options.exclude_scripts)?;
        warnings.extend(hooks.warnings.iter().cloned());
        for excluded in &options.exclude_scripts {
            if !hooks.excluded.contains(excluded) {
                let names = hooks.script_names();
                warnings.push(unmatched("--exclude-script", excluded, "script", &names));
            }
        }
        let config = choose(settings.block_device_config.as_deref(), &elements, &settings.arch)?;
        let seed = seed(&image_name, &elements, &settings, &config.text);
        let layout =
            Layout::of(&config, options, &settings, &seed).map_err(|error| error.at(&config))?;
        let names = |name: &str| elements.iter().any(|element| element.name == name);
        let has_esp = elements.iter().any(|element| element.name.contains("block-device-efi"));
        let size = image_size(&settings, has_esp, &layout.symbols, &layout.devices);
        let ramdisk = options.ramdisk || names("ironic-agent");
        warnings.extend(unseen_files(options, &settings, &hooks));
        let shares = shared(options, &mut warnings)?;
        let root_uuid = root_uuid(&layout.devices);
        Ok(Self {
            ramdisk,
            root_uuid,
            size,
            symbols: layout.symbols,
            devices: layout.devices,
            root_options: layout.root_options,
            options,
            located,
            settings,
            requested,
            elements,
            hooks,
            config,
            image_name,
            directory,
            warnings,
            shares,
        })
    }

    /// The environments of this build.
    pub(crate) fn environment(&self) -> Environment<'_> {
        Environment {
            options: self.options,
            settings: &self.settings,
            elements: &self.elements,
            symbols: &self.symbols,
            image_name: &self.image_name,
            size_kib: self.size.kib,
            root_uuid: &self.root_uuid,
            search_paths: self.located.elements.len(),
            named: self.hooks.named_variables(),
        }
    }

    /// The guest directory whose content is copied to the host.
    pub(crate) fn save_directory(&self) -> Result<GuestPath, OptionError> {
        guest_path("--name", self.environment().save_directory())
    }

    /// The directory for downloads of elements.
    pub(crate) fn image_cache(&self) -> Result<GuestPath, OptionError> {
        guest_path("--image-cache", self.environment().image_cache())
    }

    /// Whether disks become image files.
    pub(crate) fn has_final_image(&self) -> bool {
        !self.ramdisk
            && !self.elements.iter().any(|element| element.name.contains("no-final-image"))
    }
}

pub(crate) fn guest_path(option: &'static str, path: String) -> Result<GuestPath, OptionError> {
    GuestPath::new(path).map_err(|source| OptionError::GuestPath { option, source })
}

/// Warnings about host files that options and variables name but no script sees.
fn unseen_files(options: &DibOptions, settings: &Settings, hooks: &Hooks) -> Vec<String> {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let home = options.home.as_deref();
    let host = Host { here: &here, home, shares: &options.shares };
    let mut warnings = host_files::of_variables(&settings.variables, &host);
    let assignments = hooks.assignments();
    warnings.extend(host_files::of_environment(&assignments, &settings.variables, &host));
    let cache = options.image_cache.as_deref().filter(|cache| Path::new(cache).is_dir());
    warnings.extend(cache.map(|cache| {
        format!(
            "--image-cache: `{cache}` of this host is not used: it names a folder of the drive, which \
             `--drive` keeps between builds"
        )
    }));
    warnings
}

/// Reads the shared paths. The user named them, so links in these paths are followed; links in a
/// shared tree stay links.
fn shared(options: &DibOptions, warnings: &mut Vec<String>) -> Result<Vec<Shared>, DibError> {
    let mut shares = Vec::new();
    for share in &options.shares {
        let to = share.guest.clone().unwrap_or_else(|| share.host.display().to_string());
        let to = guest_path("--share", to)?;
        let what = format!("shared {}", share.host.display());
        let (to, tree) = if share.host.is_dir() {
            let (tree, told) = read_tree(&Dir::open(&share.host)?, &|_, _| false)?;
            warnings.extend(told);
            (to, tree)
        } else {
            let (parent, name) = to.as_str().rsplit_once('/').unwrap_or(("", to.as_str()));
            let file = inputs::named_file(&share.host)?;
            (steps::path(&format!("{parent}/")), Tree::from([(name.into(), file)]))
        };
        shares.push(Shared { what, to, tree });
    }
    Ok(shares)
}

fn check_docker(options: &DibOptions) -> Result<(), OptionError> {
    let docker = options.formats.iter().any(|format| format.name == "docker");
    if docker && options.docker_target.is_none() {
        return Err(OptionError::NoDockerTarget);
    }
    Ok(())
}

/// Splits the name into directory and base name. With a single format, its suffix is removed once,
/// so that the file does not get it twice.
fn image_name(options: &DibOptions) -> Result<(PathBuf, String), OptionError> {
    let name = if options.name.as_os_str().is_empty() {
        Path::new("image")
    } else {
        options.name.as_path()
    };
    let invalid = || OptionError::Name(name.display().to_string());
    let mut base = name.file_name().and_then(|base| base.to_str()).ok_or_else(invalid)?;
    if let [format] = options.formats.as_slice() {
        base = [&format.extension, &format.name]
            .into_iter()
            .find_map(|suffix| base.strip_suffix(suffix.as_str())?.strip_suffix('.'))
            .unwrap_or(base);
    }
    if base.is_empty() || name.to_string_lossy().ends_with('/') {
        return Err(invalid());
    }
    let directory = name.parent().map(Path::to_owned).unwrap_or_default();
    Ok((directory, base.to_owned()))
}

fn expand(
    options: &DibOptions,
    located: &Located,
    requested: &[String],
    warnings: &mut Vec<String>,
) -> Result<Vec<Element>, DibError> {
    let mut catalogue = Catalogue::load(&located.elements)?;
    let paths = options.element_paths.iter();
    catalogue.no_directories = paths.filter(|path| !path.is_dir()).cloned().collect();
    let mut elements = catalogue.expand(requested)?;
    for excluded in &options.exclude_elements {
        if !elements.iter().any(|element| element.name == *excluded) {
            let names: Vec<&str> = elements.iter().map(|element| element.name.as_str()).collect();
            warnings.push(unmatched("--exclude-element", excluded, "element", &names));
        }
    }
    elements.retain(|element| !options.exclude_elements.contains(&element.name));
    let used = |warning: &&String| {
        elements.iter().any(|element| {
            warning.starts_with(&format!("Element <{}> overrides", element.path.display()))
        })
    };
    warnings.extend(catalogue.warnings.iter().filter(used).cloned());
    Ok(elements)
}

/// The warning for an exclusion that matches nothing.
fn unmatched(option: &str, name: &str, what: &str, names: &[&str]) -> String {
    let meant = yaml_tree::nearest(name, names);
    let meant = meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
    format!("{option}: no {what} of this build is called `{name}`, so nothing is left out{meant}")
}

/// The identity of a build, from which its UUIDs are derived so that they do not change between
/// runs.
fn seed(name: &str, elements: &[Element], settings: &Settings, config: &str) -> String {
    let elements: Vec<&str> = elements.iter().map(|element| element.name.as_str()).collect();
    format!("{name}\n{}\n{}\n{:?}\n{config}", settings.arch, elements.join(" "), settings.variables)
}

/// The disk layout and the root filesystem properties derived from it.
struct Layout {
    devices: BlockDevices,
    symbols: Symbols,
    root_options: String,
}

impl Layout {
    fn of(
        config: &ConfigText,
        options: &DibOptions,
        settings: &Settings,
        seed: &str,
    ) -> Result<Self, BlockDeviceError> {
        let mut configuration = Configuration::parse(&config.text)?;
        let mut root = RootParameters {
            fstype: settings.fs_type.clone(),
            label: settings.root_label.clone(),
            options: String::new(),
        };
        // The configuration may set the type, on which the options depend.
        configuration.merge_root(&root);
        let symbols = configuration.symbols()?;
        root.options = root_options(options, settings, &symbols.root_fstype);
        configuration.merge_root(&root);
        let uuid_of = |node: &str| {
            Uuid::new_v5(&UUID_NAMESPACE, format!("{seed}\n{node}").as_bytes()).to_string()
        };
        let devices = configuration.lower(settings.block_bytes, &uuid_of)?;
        devices.check_directories(&config.origin)?;
        Ok(Self { devices, symbols, root_options: root.options })
    }
}

/// The mkfs options of the root filesystem.
fn root_options(options: &DibOptions, settings: &Settings, fstype: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    if let Some(blocks) = &settings.max_online_resize {
        words.push(format!("-E resize={blocks}"));
    }
    if fstype == "ext4" {
        // The fsck of that release does not support the feature.
        if settings.variables.get("DIB_RELEASE").is_some_and(|release| release == "trusty") {
            words.push("-O ^metadata_csum".into());
        }
        words.push(format!("-i 4096 -J size={}", settings.journal_mib));
    }
    words.extend(options.mkfs_options.clone());
    words.join(" ")
}

/// The UUID of the filesystem mounted on `/`, or an empty text.
fn root_uuid(devices: &BlockDevices) -> String {
    let nodes = &devices.layout.nodes;
    let base = nodes.iter().find_map(|node| match &node.kind {
        NodeKind::Mount(mount) if mount.mount_point == "/" => Some(mount.base.as_str()),
        _ => None,
    });
    nodes
        .iter()
        .find_map(|node| match &node.kind {
            NodeKind::Filesystem(filesystem) if Some(node.name.as_str()) == base => {
                filesystem.uuid.clone()
            }
            _ => None,
        })
        .unwrap_or_default()
}

/// The space on the image disk that fixed-size partitions and the table itself take, in KiB.
fn fixed_kib(devices: &BlockDevices) -> u64 {
    /// Table space at both ends, and loss from alignment.
    const TABLE_KIB: u64 = 4096;
    let tables = devices.layout.nodes.iter().filter_map(|node| match &node.kind {
        NodeKind::Table(table) if table.disk == IMAGE_DISK => Some(table),
        _ => None,
    });
    let sizes = |table: &PartitionTable| {
        let bytes = table.partitions.iter().map(|partition| match partition.size {
            Size::Bytes(bytes) => bytes / 1024,
            _ => 0,
        });
        bytes.fold(TABLE_KIB, u64::saturating_add)
    };
    tables.map(sizes).fold(0, u64::saturating_add)
}

/// The minimum filesystem size that mkfs accepts, in KiB.
fn root_least_kib(fstype: &str) -> u64 {
    const MIB: u64 = 1024;
    match fstype {
        // mkfs.xfs needs at least 300 MiB, mkfs.btrfs at least 109 MiB.
        "xfs" => 300 * MIB,
        "btrfs" => 128 * MIB,
        "f2fs" => 64 * MIB,
        _ => 0,
    }
}

fn image_size(
    settings: &Settings,
    has_esp: bool,
    symbols: &Symbols,
    devices: &BlockDevices,
) -> ImageBytes {
    let esp_kib = if has_esp { ESP_KIB } else { 0 };
    let known = |bytes: u64| ImageBytes {
        disk: DiskSize::Bytes(bytes),
        kib: Some(bytes / 1024),
        step: None,
    };
    match settings.size {
        SizeChoice::Exact(bytes) => known(bytes),
        SizeChoice::Kib(kib) => {
            let kib = kib.saturating_add(esp_kib).next_multiple_of(ROUND_KIB);
            known(kib.saturating_mul(1024))
        }
        SizeChoice::Computed { extra_kib } => ImageBytes {
            disk: DiskSize::FactKib(SIZE_FACT.to_owned()),
            kib: None,
            step: Some(ImageSize {
                tree: steps::path(guest::BUILT),
                explicit_kib: None,
                extra_kib,
                journal_kib: if symbols.root_fstype == "ext4" { settings.journal_kib() } else { 0 },
                fixed_kib: esp_kib,
                beside_kib: fixed_kib(devices),
                root_least_kib: root_least_kib(&symbols.root_fstype),
                fact: SIZE_FACT.to_owned(),
            }),
        },
    }
}
