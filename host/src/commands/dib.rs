//! The default verb: a build with diskimage-builder's elements. The options as typed are converted
//! to the options of the recipe; [`options`] is pure.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    caller,
    context::{Outcome, ProcessContext},
};
use crate::{
    build::{
        advice, container, downloads::IndexFetcher, formats, logs, options, pipeline, runtime,
    },
    cli::{BuildArgs, ChecksumKind, EnvVar, Words, comma_list, recipe_words, verbs},
    error::CommandError,
    run_context::RunContext,
    settings::Settings,
    ui::{self, Ui},
};
use dib::{DibError, DibOptions, Lowered, World};

/// Runs a build with elements.
pub(crate) fn run(context: &ProcessContext, args: &BuildArgs) -> Outcome {
    let settings = settings(context, args);
    let log = args.output.logfile.clone().or_else(|| logs::new_log(&settings.cache_dir));
    let console = context.console.shared_with_shell(settings.may_open_shell());
    let mut view = ui::Settings::of(&args.output, log);
    view.verbosity.quiet |= caller::is_quiet(context, args);
    let ui = Arc::new(Ui::open(&view, &console)?);
    runtime::run_attempts(&ui, async |ctx| {
        let lowered = lower(context, args, &settings, ctx)?;
        let loading = container::archive(args.image.load_into, Some(&args.image.formats))?;
        let written = pipeline::build(&lowered.plan, &settings, ctx).await?;
        container::load(args.image.load_into, loading, &written, ctx)
    })?;
    Ok(0)
}

/// Returns the settings of a build with elements.
pub(crate) fn settings(context: &ProcessContext, args: &BuildArgs) -> Settings {
    let mut settings = options::build_settings(args);
    take_breaks(context, args, &mut settings);
    settings
}

/// Applies `--debug-shell`, and the variable `break` as diskimage-builder reads it: a
/// comma-separated list of points at which a shell opens, or at which `break_cmd` runs.
fn take_breaks(context: &ProcessContext, args: &BuildArgs, settings: &mut Settings) {
    let variables = envvars(context, args);
    let value = |of: &str| {
        variables.iter().rev().find(|(name, _)| name == of).map(|(_, value)| value.clone())
    };
    settings.break_command = value("break_cmd").filter(|command| !command.trim().is_empty());
    let points = value("break");
    let points = points.iter().chain(&args.scripts.debug_shell);
    for point in points.flat_map(|points| points.split(',')).map(str::trim) {
        match point {
            "" => {}
            "after-error" => settings.shell_on_failure = true,
            point => settings.breaks.push(point.to_owned()),
        }
    }
}

/// Lowers the options to a plan, and shows the elements that it consists of, as virt-dib did.
///
/// # Errors
/// Fails if the options, the elements or diskimage-builder itself cannot be used.
pub(crate) fn lower(
    context: &ProcessContext,
    args: &BuildArgs,
    settings: &Settings,
    ctx: &RunContext,
) -> Result<Lowered, CommandError> {
    if args.tmpfs.min_tmpfs.is_some() {
        ctx.warn("--min-tmpfs: vbuild builds on a disk of its machine, never in memory");
    }
    let source_date_epoch = settings.seed.as_deref().map(source_date_epoch).transpose()?;
    let options = DibOptions { source_date_epoch, ..options(context, args) };
    check_first_word(context, &options)?;
    check_outputs(&options)?;
    ctx.say(format!("Elements: {}", options.elements.join(" ")));
    caller::tell(context, args, ctx);
    let world = World {
        cache: &settings.cache_dir,
        env: |name: &str| context.variable(name).map(str::to_owned),
        root: Path::new("/"),
    };
    let fetcher = IndexFetcher::new(settings);
    let wrong = |error: DibError| {
        let words = error.virt_dib_words().filter(|_| !context.personality.reads_dib_environment());
        CommandError::from(error).in_words(words)
    };
    let located = runtime::until_signalled(ctx, || {
        dib::locate(&options, &world, &fetcher).map_err(|error| wrong(error.into()))
    })?;
    let lowered = dib::lower(&options, &located).map_err(wrong)?;
    ctx.say(format!("Expanded elements: {}", lowered.elements.join(" ")));
    if !lowered.variables.is_empty() {
        ctx.say(format!("Carried environment variables: {}", lowered.variables.join(" ")));
    }
    let unpassed = caller::unpassed(context, args, &lowered);
    let packages = &settings.appliance_packages;
    let engine = advice::missing_engine(&lowered.elements, &options.envvars, packages);
    let own = unpassed.iter().chain(&engine);
    for warning in located.warnings.iter().chain(&lowered.warnings).chain(own) {
        ctx.warn(warning.clone());
    }
    Ok(lowered)
}

/// Parses the value of `SOURCE_DATE_EPOCH`, a number of seconds since 1970.
fn source_date_epoch(text: &str) -> Result<u64, CommandError> {
    text.parse().map_err(|_| {
        CommandError::usage(format!("SOURCE_DATE_EPOCH is `{text}`, which is no number of seconds"))
            .hint("it counts seconds since 1970, as `date +%s` does; without it files keep their times")
    })
}

/// Checks the first word of the command line, which is an element if it is not a verb. If it
/// resembles a verb and no local element has the name, it is refused before any elements are
/// fetched.
fn check_first_word(context: &ProcessContext, options: &DibOptions) -> Result<(), CommandError> {
    let own = options.base_path.as_ref().map(|lib| lib.join("../elements"));
    let listed = options.elements_path.iter().flat_map(|paths| paths.split(':')).map(Path::new);
    let paths: Vec<&Path> = options
        .element_paths
        .iter()
        .map(PathBuf::as_path)
        .chain(own.as_deref())
        .chain(listed)
        .collect();
    let args = &context.args;
    match verbs::hint(context.personality, &context.command, args, &paths) {
        Some(hint) => {
            let word = args.first().map(|word| word.to_string_lossy()).unwrap_or_default();
            Err(CommandError::usage(format!("no verb and no element is called `{word}`"))
                .hint(hint))
        }
        None => Ok(()),
    }
}

/// Checks that the outputs can be written. They are written at the end of the build, which would be
/// too late to find out.
fn check_outputs(options: &DibOptions) -> Result<(), CommandError> {
    let name = &options.name;
    let refused = |reason: String| Err(CommandError::usage(format!("--name: {reason}")));
    if let Some(parent) =
        name.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.is_dir())
    {
        return refused(format!("there is no directory `{}`", parent.display()));
    }
    let named = |suffix: &str| {
        let mut path = name.clone().into_os_string();
        path.push(format!(".{suffix}"));
        PathBuf::from(path)
    };
    let suffixes: Vec<&str> = options.formats.iter().map(|f| f.extension.as_str()).collect();
    let checked = if options.ramdisk {
        output::check_directory(&named("d"))
    } else {
        suffixes.iter().try_for_each(|suffix| output::check_file(&named(suffix), &[], false))
    };
    checked.or_else(|error| refused(error.to_string()))
}

/// Converts the options as typed to the options of the recipe.
pub(crate) fn options(context: &ProcessContext, args: &BuildArgs) -> DibOptions {
    let BuildArgs { elements, scripts, image, builder, output, .. } = args;
    let network = &builder.guest.network;
    let of_caller = |name: &str| caller::setting(context, args, name).map(str::to_owned);
    DibOptions {
        elements: elements.elements.clone(),
        base_path: elements.base_path.clone(),
        element_paths: elements.element_path.clone(),
        elements_path: context.variable("ELEMENTS_PATH").map(str::to_owned),
        arch: image.arch.clone(),
        skip_base: elements.skip_base || caller::flag(context, args, "SKIP_BASE"),
        ramdisk: elements.ramdisk,
        ramdisk_element: elements.ramdisk_element.clone().or_else(|| of_caller("RAMDISK_ELEMENT")),
        exclude_elements: elements.exclude_element.clone(),
        exclude_scripts: elements.exclude_script.clone(),
        extra_packages: comma_list(&elements.extra_packages),
        envvars: envvars(context, args),
        home: context.variable("HOME").filter(|home| !home.is_empty()).map(PathBuf::from),
        name: PathBuf::from(&image.name),
        formats: image.formats.0.iter().copied().map(formats::for_dib).collect(),
        uncompressed: image.uncompressed,
        qemu_img_options: image.qemu_img_options.clone().or_else(|| of_caller("QEMU_IMG_OPTIONS")),
        docker_target: image.docker_target.clone(),
        checksums: image.checksum.iter().copied().map(ChecksumKind::into_plan).collect(),
        overwrite: overwrites(context, args),
        fs_type: image.fs_type.clone(),
        mkfs_options: image.mkfs_options.clone(),
        root_label: image.root_label.clone(),
        size: image.size.map(|size| size.0),
        image_size_gib: image.image_size.clone(),
        image_extra_size_mib: image.image_extra_size.clone(),
        max_online_resize: image.max_online_resize.clone(),
        journal_size_mib: image.mkfs_journal_size.map(|size| size.to_string()),
        install_type: elements.install_type.clone(),
        image_cache: scripts.image_cache.clone(),
        offline: scripts.offline,
        no_network: network.no_network,
        debug_trace: u32::from(scripts.trace).max(output.view.debug),
        python: scripts.python.clone(),
        command_line: words(context, Words::Recipe),
        content_line: words(context, Words::Content),
        shares: scripts
            .share
            .iter()
            .map(|share| dib::Share { host: share.host.clone(), guest: share.guest.clone() })
            .collect(),
        source_date_epoch: None,
        scratch_bytes: None,
    }
}

/// Returns the words of the command line that scripts see: those of the recipe, or only those that
/// determine the image's content.
fn words(context: &ProcessContext, which: Words) -> Vec<String> {
    let args = &context.args;
    let words = recipe_words(which, context.personality, &context.command, args);
    words.iter().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// Whether existing outputs are replaced. virt-dib replaced them; diskimage-builder renames them
/// unless `OVERWRITE_OLD_IMAGE` is set.
fn overwrites(context: &ProcessContext, args: &BuildArgs) -> bool {
    !context.personality.reads_dib_environment()
        || caller::flag(context, args, "OVERWRITE_OLD_IMAGE")
}

/// Returns the variables for scripts: first those of the caller's environment that are passed under
/// diskimage-builder's names, then those of the options.
fn envvars(context: &ProcessContext, args: &BuildArgs) -> Vec<(String, String)> {
    let mut variables = caller::passed(context, args);
    variables.extend(args.scripts.envvar.iter().filter_map(|option| match option {
        EnvVar::Set(name, value) => Some((name.clone(), value.clone())),
        EnvVar::FromHost(_) if args.scripts.clear_environment => None,
        EnvVar::FromHost(name) => Some((name.clone(), context.variable(name)?.to_owned())),
    }));
    variables
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use plan::Checksum;

    use super::*;
    use crate::{
        cli::Personality,
        commands::{
            base_recipe,
            command_line::{self, Invocation},
        },
        ui::Console,
    };

    /// The recipe's options for a command line in an environment.
    fn of(line: &str, environment: &[(&str, &str)]) -> DibOptions {
        let argv: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let (personality, invocation) = command_line::parse_argv(&argv).unwrap();
        let Invocation::Build(args) = invocation else { panic!("`{line}` is no build") };
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
        let console =
            Console { stdout_is_terminal: false, stderr_is_terminal: false, colours: false };
        let context = ProcessContext {
            console,
            personality,
            command: command_line::command_of(personality),
            args: argv[1..].to_vec(),
            build_base: base_recipe::build,
            environment: environment.collect(),
        };
        options(&context, &args)
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn defaults() {
        let options = of("vbuild deb", &[]);
        assert_eq!(options.elements, ["deb"]);
        assert_eq!(options.name, PathBuf::from("image"));
        assert_eq!(options.formats[0].name, "qcow2");
        assert_eq!(options.command_line, ["deb"]);
        assert_eq!(options.size, None);
        assert!(options.overwrite && !options.offline);
    }

    #[test]
    fn every_option_arrives() {
        let line = "vbuild -B /lib -p /e --arch arm64 -n --ramdisk --ramdisk-element r \
                    --exclude-element x --exclude-script y --extra-packages a,b --extra-packages c \
                    --name d/n --formats raw,tar -u --qemu-img-options o=1 --docker-target t:1 \
                    --checksum --fs-type xfs --mkfs-options=-K --root-label l --size 2G \
                    --max-online-resize 7 --mkfs-journal-size 8 --install-type package \
                    --image-cache /c --offline -x -x --python python3 --share /h:/g deb vm";
        let expected = DibOptions {
            elements: vec!["deb".into(), "vm".into()],
            base_path: Some("/lib".into()),
            element_paths: vec!["/e".into()],
            elements_path: Some("/more".into()),
            arch: Some("arm64".into()),
            skip_base: true,
            ramdisk: true,
            ramdisk_element: Some("r".into()),
            exclude_elements: vec!["x".into()],
            exclude_scripts: vec!["y".into()],
            extra_packages: vec!["a".into(), "b".into(), "c".into()],
            name: "d/n".into(),
            formats: [("raw", dib::MadeFrom::Disk), ("tar", dib::MadeFrom::Tree)]
                .map(|(name, made_from)| dib::FormatChoice {
                    name: name.into(),
                    extension: name.into(),
                    made_from,
                })
                .to_vec(),
            uncompressed: true,
            qemu_img_options: Some("o=1".into()),
            docker_target: Some("t:1".into()),
            checksums: vec![Checksum::Md5, Checksum::Sha256],
            overwrite: true,
            fs_type: Some("xfs".into()),
            mkfs_options: Some("-K".into()),
            root_label: Some("l".into()),
            size: Some(2 << 30),
            max_online_resize: Some("7".into()),
            journal_size_mib: Some("8".into()),
            install_type: Some("package".into()),
            image_cache: Some("/c".into()),
            offline: true,
            debug_trace: 2,
            python: Some("python3".into()),
            shares: vec![dib::Share { host: "/h".into(), guest: Some("/g".into()) }],
            command_line: line.split_whitespace().skip(1).map(str::to_owned).collect(),
            content_line: line
                .replace("--name d/n --formats raw,tar -u --qemu-img-options o=1 ", "")
                .replace("--docker-target t:1 --checksum ", "")
                .split_whitespace()
                .skip(1)
                .map(str::to_owned)
                .collect(),
            ..DibOptions::default()
        };
        assert_eq!(of(line, &[("ELEMENTS_PATH", "/more")]), expected);
        let sizes = of("vbuild --image-size 1.5 d", &[]);
        assert_eq!(sizes.image_size_gib.as_deref(), Some("1.5"));
        let extra = of("vbuild --image-extra-size 100 d", &[]);
        assert_eq!(extra.image_extra_size_mib.as_deref(), Some("100"));
    }

    #[test]
    fn variables_come_from_options_alone() {
        let environment = [("DIB_RELEASE", "sid"), ("A", "1")];
        let options = of("vbuild --envvar A --envvar UNSET --envvar B= deb", &environment);
        assert_eq!(options.envvars, [pair("A", "1"), pair("B", "")]);
    }

    #[test]
    fn under_the_name_of_disk_image_create_the_environment_counts() {
        let environment = [
            ("DIB_RELEASE", "sid"),
            ("FS_TYPE", "xfs"),
            ("REG_METHOD", "portal"),
            ("SECRET", "1"),
            ("http_proxy", "http://p.example:3128"),
        ];
        let passed =
            [pair("DIB_RELEASE", "sid"), pair("FS_TYPE", "xfs"), pair("REG_METHOD", "portal")];
        let options = of("disk-image-create deb", &environment);
        assert_eq!(options.envvars, passed);
        assert_eq!(of("virt-dib deb", &environment).envvars, []);
        assert!(!options.overwrite);
        let set = [("SKIP_BASE", "1"), ("QEMU_IMG_OPTIONS", "o=1"), ("RAMDISK_ELEMENT", "r")];
        let options = of("disk-image-create deb", &set);
        assert!(options.skip_base);
        assert_eq!(options.qemu_img_options.as_deref(), Some("o=1"));
        assert_eq!(options.ramdisk_element.as_deref(), Some("r"));
        assert!(!of("virt-dib deb", &set).skip_base);
        assert!(of("disk-image-create deb", &[("OVERWRITE_OLD_IMAGE", "1")]).overwrite);
    }

    #[test]
    fn dash_c_clears_the_environment_and_leaves_the_options() {
        let environment = [("DIB_RELEASE", "sid"), ("OVERWRITE_OLD_IMAGE", "1"), ("A", "1")];
        let environment =
            [&environment[..], &[("ELEMENTS_PATH", "/e"), ("SKIP_BASE", "1")]].concat();
        let line = "disk-image-create -c --envvar A --envvar B=2 --image-size 3 deb";
        let options = of(line, &environment);
        assert_eq!(options.envvars, [pair("B", "2")]);
        assert!(!options.overwrite && !options.skip_base);
        assert_eq!(options.image_size_gib.as_deref(), Some("3"));
        assert_eq!(options.elements_path.as_deref(), Some("/e"));
        let kept = of(&line.replace("-c ", ""), &environment);
        assert_eq!(kept.envvars, [pair("DIB_RELEASE", "sid"), pair("A", "1"), pair("B", "2")]);
        assert!(kept.overwrite && kept.skip_base);
    }

    #[test]
    fn scripts_see_what_is_built_and_not_how() {
        let how = "--drive d.img --smp=2 -quiet --refresh --refresh=copy --max-age 1d --no-cache";
        let options = of(&format!("vbuild {how} --name n -x deb"), &[]);
        assert_eq!(options.command_line, ["--name", "n", "-x", "deb"]);
        assert_eq!(options.content_line, ["-x", "deb"]);
        let formats = of("disk-image-create -o d/n -t raw,tar -u -p a --checksum deb", &[]);
        assert_eq!(formats.content_line, ["-p", "a", "deb"]);
        let plan = recipe_words(
            Words::Recipe,
            Personality::Vbuild,
            &command_line::command(),
            &["plan", "--cache", "--name=n", "deb"].map(OsString::from),
        );
        assert_eq!(plan, ["--name=n", "deb"].map(OsString::from));
    }

    #[test]
    fn no_network_is_more_than_offline() {
        let options = of("vbuild --no-network deb", &[]);
        assert!(options.no_network && !options.offline);
    }
}
