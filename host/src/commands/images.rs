//! `vbuild images`: builds several images from definitions in YAML, like the program
//! `diskimage-builder`. Each definition is converted to a command line of disk-image-create, which
//! is parsed and run as a build.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::Args;
use inputs::{SourceError, Sources};
use serde::Deserialize;

use super::{
    context::{Outcome, ProcessContext},
    dib,
};
use crate::{
    build::host_paths,
    cli::{
        self, BuildArgs, BuildLine, BuilderArgs, HostPathArgs, OutputArgs, Personality, Share,
        ViewArgs,
    },
    error::{CommandError, Kind},
};

/// The name of an image whose definition has no name and follows none with a name.
const DEFAULT_NAME: &str = "image";

/// The arguments of `vbuild images`.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(
    after_help = "Definitions with the same `imagename` are merged: lists grow, maps and values are \
                        replaced key by key."
)]
pub(crate) struct ImagesArgs {
    /// Files with lists of image definitions
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,

    /// Show the command lines and end
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// End when an image fails, instead of building the others
    #[arg(long)]
    pub(crate) stop_on_failure: bool,

    /// Search PATH for elements; repeatable, the first match wins
    #[arg(short = 'p', long, value_name = "PATH")]
    pub(crate) element_path: Vec<PathBuf>,

    /// Let scripts read a file or folder of the host; repeatable
    ///
    /// It appears read-only in the guest under GUEST, or under its own absolute path.
    #[arg(long, value_name = "HOST[:GUEST]")]
    pub(crate) share: Vec<Share>,

    /// The host paths that the definitions may name.
    #[command(flatten)]
    pub(crate) host_paths: HostPathArgs,
    /// The options for the machine and the caches.
    #[command(flatten)]
    pub(crate) builder: BuilderArgs,
    /// The output options.
    #[command(flatten)]
    pub(crate) view: ViewArgs,
}

/// One definition, with the keys of diskimage-builder 3.43.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Image {
    imagename: Option<String>,
    arch: Option<String>,
    types: Option<Vec<String>>,
    environment: BTreeMap<String, String>,
    ramdisk: Option<bool>,
    debug_trace: Option<u8>,
    uncompressed: Option<bool>,
    clear: Option<bool>,
    logfile: Option<String>,
    checksum: Option<bool>,
    image_size: Option<u32>,
    image_extra_size: Option<u32>,
    image_cache: Option<String>,
    max_online_resize: Option<u64>,
    min_tmpfs: Option<u32>,
    mkfs_journal_size: Option<u32>,
    mkfs_options: Option<String>,
    no_tmpfs: Option<bool>,
    offline: Option<bool>,
    qemu_img_options: BTreeMap<String, String>,
    root_label: Option<String>,
    ramdisk_element: Option<String>,
    install_type: Option<String>,
    docker_target: Option<String>,
    packages: Option<Vec<String>>,
    skip_base: Option<bool>,
    elements: Option<Vec<ElementName>>,
}

/// The name of an element. The words of a definition become a command line, in which a
/// name must not be an option.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct ElementName(String);

impl TryFrom<String> for ElementName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"-_.+".contains(&b);
        if first && name.bytes().all(fine) {
            Ok(Self(name))
        } else {
            Err(format!("`{}` is no name of an element", name.escape_default()))
        }
    }
}

impl Image {
    /// Merges a later definition of the same image: lists are extended, maps and values are
    /// replaced key by key.
    fn merge(&mut self, later: Self) {
        fn list<T>(into: &mut Option<Vec<T>>, later: Option<Vec<T>>) {
            into.get_or_insert_default().extend(later.into_iter().flatten());
        }
        fn value<T>(into: &mut Option<T>, later: Option<T>) {
            if later.is_some() {
                *into = later;
            }
        }
        list(&mut self.types, later.types);
        list(&mut self.packages, later.packages);
        list(&mut self.elements, later.elements);
        self.environment.extend(later.environment);
        self.qemu_img_options.extend(later.qemu_img_options);
        value(&mut self.imagename, later.imagename);
        value(&mut self.arch, later.arch);
        value(&mut self.ramdisk, later.ramdisk);
        value(&mut self.debug_trace, later.debug_trace);
        value(&mut self.uncompressed, later.uncompressed);
        value(&mut self.clear, later.clear);
        value(&mut self.logfile, later.logfile);
        value(&mut self.checksum, later.checksum);
        value(&mut self.image_size, later.image_size);
        value(&mut self.image_extra_size, later.image_extra_size);
        value(&mut self.image_cache, later.image_cache);
        value(&mut self.max_online_resize, later.max_online_resize);
        value(&mut self.min_tmpfs, later.min_tmpfs);
        value(&mut self.mkfs_journal_size, later.mkfs_journal_size);
        value(&mut self.mkfs_options, later.mkfs_options);
        value(&mut self.no_tmpfs, later.no_tmpfs);
        value(&mut self.offline, later.offline);
        value(&mut self.root_label, later.root_label);
        value(&mut self.ramdisk_element, later.ramdisk_element);
        value(&mut self.install_type, later.install_type);
        value(&mut self.docker_target, later.docker_target);
        value(&mut self.skip_base, later.skip_base);
    }

    /// Converts the definition to an equivalent command line, with the program's name first.
    fn argv(&self) -> Vec<String> {
        let program = match self.ramdisk {
            Some(true) => "ramdisk-image-create",
            _ => "disk-image-create",
        };
        let mut argv = vec![program.to_owned()];
        let mut option = |name: &str, value: Option<String>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                argv.extend([name.to_owned(), value]);
            }
        };
        let number = |value: Option<u32>| value.map(|number| number.to_string());
        let pairs = self.qemu_img_options.iter().map(|(key, value)| format!("{key}={value}"));
        option("-o", self.imagename.clone());
        option("-a", self.arch.clone());
        option("-t", self.types.as_ref().map(|list| list.join(",")));
        option("--logfile", self.logfile.clone());
        option("--image-size", number(self.image_size));
        option("--image-extra-size", number(self.image_extra_size));
        option("--image-cache", self.image_cache.clone());
        option("--max-online-resize", self.max_online_resize.map(|blocks| blocks.to_string()));
        option("--min-tmpfs", number(self.min_tmpfs));
        option("--mkfs-journal-size", number(self.mkfs_journal_size));
        option("--mkfs-options", self.mkfs_options.clone());
        option("--qemu-img-options", Some(pairs.collect::<Vec<_>>().join(",")));
        option("--root-label", self.root_label.clone());
        option("--ramdisk-element", self.ramdisk_element.clone());
        option("--install-type", self.install_type.clone());
        option("--docker-target", self.docker_target.clone());
        option("-p", self.packages.as_ref().map(|list| list.join(",")));
        let flags = [
            ("-c", self.clear),
            ("-u", self.uncompressed),
            ("--checksum", self.checksum),
            ("--no-tmpfs", self.no_tmpfs),
            ("--offline", self.offline),
            ("-n", self.skip_base),
        ];
        let given = flags.into_iter().filter(|(_, given)| *given == Some(true));
        argv.extend(given.map(|(flag, _)| flag.to_owned()));
        argv.extend((0..self.debug_trace.unwrap_or(0)).map(|_| "-x".to_owned()));
        argv.extend(self.elements.iter().flatten().map(|element| element.0.clone()));
        argv
    }

    /// The name of the image, for messages.
    fn title(&self) -> &str {
        self.imagename.as_deref().unwrap_or(DEFAULT_NAME)
    }

    /// Returns the definition as a shell command line, quoted for the user to read or copy.
    fn shown(&self) -> String {
        let quoted = |text: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
            if !text.is_empty() && text.chars().all(plain) {
                text.to_owned()
            } else {
                format!("'{}'", text.replace('\'', "'\"'\"'"))
            }
        };
        let environment =
            self.environment.iter().map(|(name, value)| format!("{name}={}", quoted(value)));
        environment.chain(self.argv().iter().map(|word| quoted(word))).collect::<Vec<_>>().join(" ")
    }
}

/// Merges definitions with the same name into one image, in the place of the first. A definition
/// without a name continues the one before it.
fn merged(definitions: Vec<Image>) -> Vec<Image> {
    let mut images: Vec<(String, Image)> = Vec::new();
    let mut previous = DEFAULT_NAME.to_owned();
    for definition in definitions {
        previous = definition.imagename.clone().unwrap_or(previous);
        match images.iter_mut().find(|(name, _)| *name == previous) {
            Some((_, image)) => image.merge(definition),
            None => images.push((previous.clone(), definition)),
        }
    }
    images.into_iter().map(|(_, image)| image).collect()
}

/// Builds the images, one after another.
///
/// # Errors
/// Fails if a file cannot be read or is invalid. If images fail, returns the error of the last one
/// that failed.
pub(crate) fn run(context: &ProcessContext, args: &ImagesArgs) -> Outcome {
    let mut definitions = Vec::new();
    for file in &args.files {
        definitions.extend(read(file)?);
    }
    let images = merged(definitions);
    let places = Places::of(args)?;
    for image in &images {
        places.check(image)?;
    }
    // All definitions are converted to builds before the first one runs.
    let builds: Vec<(ProcessContext, BuildArgs)> =
        images.iter().map(|image| build(context, args, image)).collect::<Result<_, _>>()?;
    let mut failed = None;
    for (image, (context, build)) in images.iter().zip(&builds) {
        context.console.print(&format!("{}\n", image.shown()))?;
        if args.dry_run {
            continue;
        }
        if let Err(error) = dib::run(context, build) {
            if !error.told {
                context.console.print_error(&error);
            }
            failed = Some(CommandError { told: true, ..error });
            if args.stop_on_failure {
                break;
            }
        }
    }
    failed.map_or(Ok(0), Err)
}

/// The host paths that the definitions may read and write.
struct Places {
    /// For inputs and logs: the definitions' own directories, and the working directory if all of
    /// these are in it.
    own: Sources,
    /// For images: the definitions' own directories, and always the working directory.
    images: Sources,
}

impl Places {
    fn of(args: &ImagesArgs) -> Result<Self, CommandError> {
        let here = std::env::current_dir().map_err(|error| {
            CommandError::new(Kind::Host, error).context("cannot find the working folder")
        })?;
        let folder = |file: &PathBuf| here.join(file).parent().map(Path::to_owned);
        let folders: Vec<PathBuf> = args.files.iter().filter_map(folder).collect();
        let real = |path: &PathBuf| std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        let lie_here = folders.iter().all(|folder| real(folder).starts_with(real(&here)));
        let mut allowed = host_paths::allowed(&args.host_paths)?;
        allowed.extend(args.element_path.iter().cloned());
        let sources = |here_too: bool| Sources {
            lookup: vec![here.clone()],
            own: folders.iter().cloned().chain(here_too.then(|| here.clone())).collect(),
            allowed: allowed.clone(),
            broad: host_paths::broad(),
        };
        Ok(Self { own: sources(lie_here), images: sources(true) })
    }

    /// Checks the host paths that a definition names.
    ///
    /// # Errors
    /// Fails if the definition names a path that is not allowed.
    fn check(&self, image: &Image) -> Result<(), CommandError> {
        if let Some(log) = image.logfile.as_deref().filter(|log| !log.is_empty()) {
            host_paths::check_output("the logfile", Path::new(log), &self.own)?;
        }
        if let Some(name) = image.imagename.as_deref().filter(|name| !name.is_empty()) {
            host_paths::check_output("the imagename", Path::new(name), &self.images)?;
        }
        let variable = |name: &str| image.environment.get(name).map(String::as_str);
        let elements = variable("ELEMENTS_PATH").into_iter().flat_map(|list| list.split(':'));
        let config = variable("DIB_BLOCK_DEVICE_CONFIG");
        let config = config.and_then(|config| config.strip_prefix("file://"));
        for path in elements.chain(config).filter(|path| !path.is_empty()) {
            match self.own.find(Path::new(path)) {
                Ok(_) | Err(SourceError::Missing(_)) => {}
                Err(error) => return Err(CommandError::from(error)),
            }
        }
        Ok(())
    }
}

fn read(file: &Path) -> Result<Vec<Image>, CommandError> {
    let what = |error: CommandError| {
        error.context(format!("cannot read the image definitions in {}", file.display()))
    };
    let text = std::fs::File::open(file)
        .and_then(rooted::read_recipe)
        .map_err(|error| what(CommandError::new(Kind::Usage, error)))?;
    serde_saphyr::from_str(&text).map_err(|error| what(CommandError::usage(error.to_string())))
}

/// Returns the context and the arguments of an image's build: its own command line, with the
/// machine options of `vbuild images`.
fn build(
    context: &ProcessContext,
    args: &ImagesArgs,
    image: &Image,
) -> Result<(ProcessContext, BuildArgs), CommandError> {
    let argv: Vec<OsString> = image.argv().into_iter().map(OsString::from).collect();
    let (program, line) = argv.split_first().expect("the program's name comes first");
    let personality = Personality::of(program);
    let command = personality.build_command();
    let line = cli::parse_build(personality, &command, line)
        .map_err(|error| error.context(format!("the image cannot be built: {}", image.shown())))?;
    let BuildLine::Build(build) = line else {
        return Err(CommandError::usage(format!("`{}` builds no image", image.shown())));
    };
    // The definition sets these variables explicitly, so all are passed, whatever their names.
    let variables = image.environment.iter().map(|(name, value)| {
        format!("{name}={value}").parse().map_err(|error: cli::InvalidValue| {
            CommandError::usage(error.to_string())
                .context(format!("the `environment` of the image `{}`", image.title()))
        })
    });
    let scripts = cli::ScriptArgs {
        envvar: variables.collect::<Result<_, _>>()?,
        share: args.share.clone(),
        ..build.scripts
    };
    let build = BuildArgs {
        builder: args.builder.clone(),
        scripts,
        output: OutputArgs { view: args.view.clone(), ..build.output },
        elements: cli::ElementArgs { element_path: args.element_path.clone(), ..build.elements },
        ..*build
    };
    let mut environment = context.environment.clone();
    environment.extend(image.environment.iter().map(|(name, value)| (name.into(), value.into())));
    let args = argv[1..].to_vec();
    Ok((ProcessContext { personality, command, args, environment, ..context.clone() }, build))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(yaml: &str) -> Vec<String> {
        let definitions: Vec<Image> = serde_saphyr::from_str(yaml).unwrap();
        merged(definitions).iter().map(Image::shown).collect()
    }

    #[test]
    fn a_definition_is_a_command_line() {
        let yaml = "
- imagename: deb
  arch: amd64
  types: [qcow2, tar]
  environment: {DIB_RELEASE: bookworm, DIB_X: a b}
  debug-trace: 2
  checksum: true
  image-size: 3
  max-online-resize: 274877906944
  qemu-img-options: {compat: '1.1'}
  packages: [a, b]
  skip-base: true
  elements: [debian-minimal, vm]
";
        assert_eq!(
            shown(yaml),
            ["DIB_RELEASE=bookworm DIB_X='a b' disk-image-create -o deb -a amd64 -t qcow2,tar \
              --image-size 3 --max-online-resize 274877906944 --qemu-img-options compat=1.1 \
              -p a,b --checksum -n -x -x debian-minimal vm"]
        );
    }

    #[test]
    fn definitions_of_one_name_are_merged() {
        let yaml = "
- elements: [a]
  arch: amd64
  environment: {A: '1', B: '1'}
- elements: [b]
  environment: {B: '2'}
- imagename: other
  ramdisk: true
  elements: [c]
- root-label: x
- imagename: image
  arch: arm64
";
        assert_eq!(
            shown(yaml),
            [
                "A=1 B=2 disk-image-create -o image -a arm64 a b",
                "ramdisk-image-create -o other --root-label x c"
            ]
        );
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_refused() {
        for yaml in ["- elements: [--share=/h]", "- elements: [a, -x]", "- elements: [../a]"] {
            let error = serde_saphyr::from_str::<Vec<Image>>(yaml).unwrap_err().to_string();
            assert!(error.contains("no name of an element"), "{error}");
        }
        for yaml in ["- elemnts: [a]", "- elements: a", "- image-size: 1.5", "a: 1"] {
            assert!(serde_saphyr::from_str::<Vec<Image>>(yaml).is_err(), "{yaml}");
        }
    }
}
