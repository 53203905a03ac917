//! Tests of the command line, among them those for the table of virt-dib's behaviour.

mod pages;

use std::path::Path;

use super::*;
use crate::cli::{
    ChecksumKind, EnvVar, Words,
    classes::{Class, options_of},
    format_names, parse_formats, recipe_words,
};

fn argv(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn build(line: &str) -> BuildArgs {
    match parse_argv(&argv(line)) {
        Ok((_, Invocation::Build(args))) => *args,
        other => panic!("`{line}` is no build: {other:?}"),
    }
}

#[track_caller]
fn refused(words: &[&str]) -> String {
    let argv: Vec<OsString> = words.iter().map(OsString::from).collect();
    let error = parse_argv(&argv).unwrap_err();
    assert_eq!(error.exit_status(), 1);
    error.to_string()
}

#[test]
fn the_example_of_the_readme() {
    let args = build(
        "vbuild --drive cache.img --envvar DIB_RELEASE=bookworm --name debian debian-minimal vm",
    );
    assert_eq!(args.elements.elements, ["debian-minimal", "vm"]);
    assert_eq!(args.image.name, "debian");
    assert_eq!(args.builder.guest.drive.drive.as_deref(), Some(Path::new("cache.img")));
    assert_eq!(args.scripts.envvar, [EnvVar::Set("DIB_RELEASE".into(), "bookworm".into())]);
}

#[test]
fn options_after_elements_single_dashes_and_prefixes() {
    let args = build("vbuild deb -name x --net vm -p /e --element-path /f -u");
    assert_eq!(args.elements.elements, ["deb", "vm"]);
    assert_eq!(args.image.name, "x");
    assert!(args.builder.guest.network.network && args.image.uncompressed);
    assert_eq!(args.elements.element_path, [Path::new("/e"), Path::new("/f")]);
}

#[test]
fn defaults_of_virt_dib() {
    let args = build("vbuild deb");
    assert_eq!(args.image.name, "image");
    assert_eq!(args.image.formats, parse_formats("qcow2").unwrap());
    // What a variable may decide too has its default from the recipe.
    assert_eq!(args.image.fs_type, None);
    assert_eq!(args.image.checksum, []);
}

#[test]
fn the_last_of_single_options_and_all_of_lists() {
    let args =
        build("vbuild --name a --name b --formats raw --formats tar --envvar A=1 --envvar A=2 d");
    assert_eq!(args.image.name, "b");
    assert_eq!(args.image.formats, parse_formats("tar").unwrap());
    assert_eq!(args.scripts.envvar.len(), 2);
}

#[test]
fn messages_of_virt_dib() {
    let table: [(&[&str], &str); 19] = [
        (&["vbuild"], "at least one distribution root element must be specified"),
        (&["vbuild", "--formats", "bogus", "d"], "invalid format ‘bogus’ in --formats"),
        (&["vbuild", "--formats", "", "d"], "invalid format ‘’ in --formats"),
        (&["vbuild", "--formats", ",", "d"], "invalid format ‘’ in --formats"),
        (&["vbuild", "--debug", "-1", "d"], "--debug parameter must be >= 0"),
        (&["vbuild", "--debug", "abc", "d"], "--debug: ‘abc’ is not a numeric value."),
        (
            &["vbuild", "--size", "10", "d"],
            "--size: 10: cannot parse size field (a number and one of b, K, M, G: `5G`)",
        ),
        (
            &["vbuild", "--size", "1T", "d"],
            "--size: 1T: cannot parse size field (a number and one of b, K, M, G: `5G`)",
        ),
        (
            &["vbuild", "--size", "1.2.3G", "d"],
            "--size: 1.2.3G: cannot parse size field (a number and one of b, K, M, G: `5G`)",
        ),
        (
            &["vbuild", "--machine-readable=foo"],
            "invalid format string for --machine-readable: foo",
        ),
        (&["vbuild", "--bogus", "d"], "unrecognized option '--bogus'"),
        (&["vbuild", "--name"], "option '--name' requires an argument"),
        (&["vbuild", "--smp", "0", "d"], "--smp: invalid smp parameter: 0 (1 to 16 are possible)"),
        (
            &["vbuild", "--memsize", "100", "d"],
            "--memsize: too small value for memsize (must be at least 256)",
        ),
        // The option is named as it was given.
        (&["vbuild", "-m", "100", "d"], "-m: too small value for memsize (must be at least 256)"),
        (&["vbuild", "-t", "x", "d"], "invalid format ‘x’ in -t"),
        (&["vbuild", "--timeout", "0", "d"], "--timeout: `0` must be at least 1"),
        (&["vbuild", "--share", "a:b", "d"], "--share: the guest's path in `a:b` must be absolute"),
        (&["disk-image-create", "-xt", "x", "d"], "invalid format ‘x’ in -t"),
    ];
    for (words, message) in table {
        assert_eq!(refused(words), message, "for {words:?}");
    }
}

#[test]
fn a_variable_without_a_name_is_refused() {
    assert!(refused(&["vbuild", "--envvar", "=x", "d"]).contains("--envvar"));
}

#[test]
fn wrong_formats_come_before_missing_elements() {
    assert_eq!(refused(&["vbuild", "--formats", "x"]), "invalid format ‘x’ in --formats");
}

#[test]
fn machine_readable_alone_asks_for_the_capabilities() {
    let (_, invocation) = parse_argv(&argv("vbuild --machine-readable")).unwrap();
    assert_eq!(invocation, Invocation::Capabilities(MachineReadable::Plain));
    let (_, invocation) = parse_argv(&argv("vbuild --machine-readable=stream:stderr")).unwrap();
    assert_eq!(invocation, Invocation::Capabilities(MachineReadable::Stderr));
    assert_eq!(
        build("vbuild --machine-readable=fd:3 deb").output.machine_readable,
        Some(MachineReadable::Fd(3))
    );
    assert_eq!(
        build("vbuild --machine-readable deb").output.machine_readable,
        Some(MachineReadable::Plain)
    );
}

#[test]
fn help_version_and_lists() {
    let print = |line: &str| match parse_argv(&argv(line)).unwrap().1 {
        Invocation::Print(text) => text,
        other => panic!("{other:?}"),
    };
    assert_eq!(print("vbuild -V"), format!("vbuild {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(print("vbuild --vers"), print("vbuild --version"));
    assert!(print("vbuild --help").contains("Elements:"));
    assert!(print("vbuild cache create --help").contains("--size"));
    let long = print("vbuild --long-options");
    for option in getopt_options_of_virt_dib() {
        assert!(long.lines().any(|line| line == format!("--{option}")), "--{option} is missing");
    }
    assert!(print("vbuild --short-options").lines().any(|line| line == "-p"));
}

#[test]
fn short_help_fits_one_screen_and_long_help_is_complete() {
    const SCREEN_LINES: usize = 50;
    let print = |line: &str| match parse_argv(&argv(line)).unwrap().1 {
        Invocation::Print(text) => text,
        other => panic!("{other:?}"),
    };
    let command = command();
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    for words in verbs.map(|verb| format!(" {}", verb.get_name())).chain([String::new()]) {
        let [short, long] =
            ["-h", "--help"].map(|option| print(&format!("vbuild{words} {option}")));
        assert!(short.lines().count() <= SCREEN_LINES, "vbuild{words} -h:\n{short}");
        assert!(long.len() >= short.len(), "vbuild{words} --help");
    }
    assert!(print("vbuild boot -h").contains("--with-network"), "its own options are listed");
    assert!(!print("vbuild -h").contains("--proxy-resolves"));
    assert!(print("vbuild --help").contains("--proxy-resolves"));
    let wide = |option: &str| print(&format!("vbuild exec {option}")).contains("\n  <COMMAND>...");
    assert!(wide("-h") && wide("--help"));
}

#[test]
fn a_mistyped_option_is_met_with_the_one_that_was_meant() {
    for (line, meant) in [
        ("vbuild --sise 3G deb", "--size"),
        ("vbuild exec --no-netwrok true", "--no-network"),
        ("vbuild boot --wiht-network a.raw", "--with-network"),
    ] {
        let error = parse_argv(&argv(line)).unwrap_err();
        assert!(error.hints.iter().any(|hint| hint.contains(meant)), "{line}: {error:?}");
    }
    assert!(parse_argv(&argv("vbuild exec ls -la --no-network")).is_ok());
}

fn getopt_options_of_virt_dib() -> &'static [&'static str] {
    cli::VIRT_DIB_OPTIONS
}

#[test]
fn checksums_are_both_unless_named() {
    use ChecksumKind::{Md5, Sha256, Sha512};
    assert_eq!(build("vbuild --checksum d").image.checksum, [Md5, Sha256]);
    assert_eq!(build("vbuild --checksum=sha512 d").image.checksum, [Sha512]);
    assert_eq!(build("vbuild --checksum=sha256,md5 d").image.checksum, [Sha256, Md5]);
}

#[test]
fn disk_image_create_has_its_own_letters() {
    let line =
        "/usr/bin/disk-image-create -a arm64 -o img -t raw,qcow2 -p a,b -p c -n -u -x -x deb vm";
    let (personality, invocation) = parse_argv(&argv(line)).unwrap();
    assert_eq!(personality, Personality::DiskImageCreate);
    let Invocation::Build(args) = invocation else { panic!("no build") };
    assert_eq!(args.elements.extra_packages, ["a,b", "c"]);
    assert!(args.elements.element_path.is_empty());
    assert_eq!(args.image.arch.as_deref(), Some("arm64"));
    assert_eq!(args.image.name, "img");
    assert_eq!(args.scripts.trace, 2);
    assert!(args.elements.skip_base && !args.scripts.clear_environment);
}

#[test]
fn the_letters_of_disk_image_create_work_in_vbuild_too() {
    let args = build("vbuild -a arm64 -o img -t raw -n deb --image-size 2.5");
    assert_eq!((args.image.name.as_str(), args.image.image_size.as_deref()), ("img", Some("2.5")));
}

#[test]
fn a_drop_in_shows_the_other_programs_name_and_no_verbs() {
    let print = |line: &str| match parse_argv(&argv(line)).unwrap().1 {
        Invocation::Print(text) => text,
        other => panic!("{other:?}"),
    };
    for name in ["virt-dib", "disk-image-create", "ramdisk-image-create", "vmdb2"] {
        for help in [print(&format!("{name} --help")), print(&format!("/usr/bin/{name} -h"))] {
            assert!(help.contains(&format!("Usage: {name} ")), "{help}");
            assert!(!help.contains("Verbs:") && !help.contains("Usage: vbuild"), "{help}");
        }
        let error = parse_argv(&argv(&format!("{name} --bogus"))).unwrap_err();
        assert!(error.hints.iter().any(|h| h.contains(&format!("‘{name} --help’"))), "{error:?}");
    }
    assert_eq!(print("disk-image-create --version"), format!("{}\n", dib::VERSION));
    assert_eq!(print("ramdisk-image-create --ver"), format!("{}\n", dib::VERSION));
    assert!(print("virt-dib -V").starts_with("virt-dib 1.48 (vbuild "));
    assert!(print("disk-image-create --help").contains("-p, --extra-packages"));
    assert!(print("virt-dib -h").contains("-p, --element-path"));
}

#[test]
fn ramdisk_image_create_means_a_ramdisk() {
    let (_, invocation) = parse_argv(&argv("ramdisk-image-create deb")).unwrap();
    let Invocation::Build(args) = invocation else { panic!("no build") };
    assert!(args.elements.ramdisk);
}

#[test]
fn a_first_word_is_a_verb_and_only_there() {
    let is_verb = |line: &str| matches!(parse_argv(&argv(line)), Ok((_, Invocation::Verb(_))));
    assert!(is_verb("vbuild completions bash"));
    assert!(is_verb("vbuild cache create x.img"));
    assert!(!is_verb("virt-dib completions"));
    assert_eq!(build("vbuild -- completions").elements.elements, ["completions"]);
    assert_eq!(build("vbuild deb cache").elements.elements, ["deb", "cache"]);
    assert_eq!(build("vbuild -u cache vm").elements.elements, ["cache", "vm"]);
}

#[test]
fn docker_needs_a_name() {
    if !format_names().contains(&"docker") {
        return;
    }
    assert_eq!(
        refused(&["vbuild", "--formats", "docker", "d"]),
        "docker: a target was not specified, use ‘--docker-target’"
    );
}

#[test]
fn sizes_exclude_each_other() {
    assert!(
        refused(&["vbuild", "--size", "5G", "--image-size", "3", "d"]).contains("--image-size")
    );
}

#[test]
fn the_clap_command_is_sound() {
    for name in ["vbuild", "virt-dib", "disk-image-create", "ramdisk-image-create", "vmdb2", "b9c"]
    {
        command_of(Personality::of(&name.into())).debug_assert();
    }
}

#[test]
fn every_option_of_a_build_says_what_depends_on_it() {
    let command = command();
    let plan = command.find_subcommand("plan").unwrap();
    let shell = command.find_subcommand("shell").unwrap();
    let mut all: Vec<&str> = [&command, plan, shell]
        .into_iter()
        .flat_map(clap::Command::get_arguments)
        .filter_map(clap::Arg::get_long)
        .collect();
    all.sort_unstable();
    all.dedup();
    let mut classed = options_of(&[Class::Content, Class::Outputs, Class::Nothing]);
    classed.sort_unstable();
    assert_eq!(classed, all, "left: the classes of options; right: the options");
}

#[test]
fn another_tag_or_permission_is_no_other_build() {
    let words =
        |line: &str| recipe_words(Words::Content, Personality::Vbuild, &command(), &argv(line));
    let plain = words("-x deb");
    for how in [
        "--docker-target team/x:2",
        "--load-into docker",
        "--debug-shell after-root",
        "--allow-host h:1",
        "--allow-private",
        "--ca-bundle host",
        "--appliance-package zfsutils",
        "--network",
        "--no-network",
    ] {
        assert_eq!(words(&format!("{how} -x deb")), plain, "{how}");
    }
}
