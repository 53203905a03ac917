//! Renders vbuild(1) from the command line's own types, so that every option is documented. Parts
//! that no type contains (examples, files, exit status) are roff files in `sections/`.
//!
//! `man/vbuild.1` is committed; a test fails if it differs from the rendered page. `UPDATE_MAN=1`
//! updates it.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use clap::{Arg, Command};
use clap_mangen::Man;
use vbuild::{Kind, exit_status};

/// The date of the last significant change of the manual; the pages of sections 5 and 7 have it
/// in their headers too.
pub const DATE: &str = "2026-11-30";

/// The hand-written sections, in the order of the page.
const BEHIND_VERBS: &[&str] =
    &[include_str!("../sections/environment.roff"), include_str!("../sections/files.roff")];
/// Definition of the apostrophe, which the rendered parts need.
const APOSTROPHE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";
const LAST: &[&str] = &[
    include_str!("../sections/examples.roff"),
    include_str!("../sections/differences.roff"),
    include_str!("../sections/see-also.roff"),
];

/// The whole page.
///
/// # Errors
/// Fails if clap's renderer fails, which writing to memory does not.
pub fn vbuild_1() -> Result<String> {
    let command = vbuild::command();
    let mut page = String::from(
        ".\\\" Rendered from the command line's types by the crate `man`; edit those, or man/sections.\n",
    );
    page += APOSTROPHE;
    let man = Man::new(command.clone());
    let version = format!("vbuild {}", command.get_version().unwrap_or_default());
    let _ = writeln!(page, ".TH VBUILD 1 \"{DATE}\" \"{version}\" \"vbuild manual\"");
    page += &rendered(|out| man.render_name_section(out))?;
    page += include_str!("../sections/synopsis.roff");
    page += include_str!("../sections/description.roff");
    page += ".SH OPTIONS\n";
    page += &options(&command)?;
    page += ".SH VERBS\n";
    for verb in command.get_subcommands() {
        verb_section(&mut page, verb, "vbuild", &command)?;
    }
    BEHIND_VERBS.iter().for_each(|section| page += section);
    page += &exit_statuses();
    LAST.iter().for_each(|section| page += section);
    Ok(page)
}

fn rendered(render: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>) -> Result<String> {
    let mut out = Vec::new();
    render(&mut out).context("failed to render")?;
    let text = String::from_utf8(out).context("the rendered page is no UTF-8")?;
    // Each part repeats definitions that roff needs only once.
    let head = |line: &&str| !line.starts_with(".ie \\n(.g") && !line.starts_with(".el .ds Aq");
    Ok(text.lines().filter(head).fold(String::new(), |mut text, line| {
        text.push_str(line);
        text.push('\n');
        text
    }))
}

/// The options of a command, with their groups as sub-sections.
fn options(command: &Command) -> Result<String> {
    let text = rendered(|out| Man::new(command.clone()).render_options_section(out))?;
    // Removes line breaks beside spaces, which have no effect.
    let text = text.replace(".br\n\n.br\n", "\n").replace(".br\n.sp\n.br\n", ".sp\n");
    Ok(text
        .lines()
        .filter(|line| *line != ".SH OPTIONS")
        .map(|line| match line.strip_prefix(".SH ") {
            Some(heading) => format!(".SS {}\n", capitalised(heading)),
            None => format!("{line}\n"),
        })
        .collect())
}

fn capitalised(heading: &str) -> String {
    let lower = heading.to_lowercase();
    let at = lower.find(|c: char| c.is_alphabetic()).unwrap_or(0);
    let mut text = lower.clone();
    text.replace_range(at..=at, &lower[at..=at].to_uppercase());
    text
}

/// A verb and the verbs below it. Options that the build has too are named, not
/// told again.
fn verb_section(page: &mut String, verb: &Command, above: &str, build: &Command) -> Result<()> {
    let name = format!("{above} {}", verb.get_name());
    let mut below = verb.get_subcommands();
    // Most also work without a sub-verb.
    if verb.is_subcommand_required_set() {
        page.push_str(&options_of_all_below(verb, &name)?);
        return below.try_for_each(|below| verb_section(page, below, &name, build));
    }
    let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
    let words: String = verb
        .get_positionals()
        .map(|arg| {
            let value = arg.get_value_names().and_then(|names| names.first()).map_or("", |v| v);
            let dots =
                if arg.get_num_args().is_some_and(|n| n.max_values() > 1) { "..." } else { "" };
            if arg.is_required_set() {
                format!(" {value}{dots}")
            } else {
                format!(" [{value}{dots}]")
            }
        })
        .collect();
    let _ = writeln!(page, ".SS \"{}\"", escaped(&format!("{name} [OPTIONS]{words}")));
    let _ = writeln!(page, "{}.", escaped(&about));
    if let Some(more) = verb.get_after_help() {
        let _ = writeln!(page, "{}", escaped(&more.to_string()));
    }
    let shared: Vec<&Arg> =
        verb.get_arguments().filter(|arg| !arg.is_hide_set() && shares(build, arg)).collect();
    let own = shared
        .iter()
        .fold(verb.clone(), |verb, arg| verb.mut_arg(arg.get_id(), |arg| arg.hide(true)));
    let own = own.mut_args(|arg| match arg.get_id().as_str() {
        "help" | "version" => arg.hide(true),
        // They are documented once, above.
        _ if arg.is_global_set() => arg.hide(true),
        _ => arg.help_heading(None::<&str>),
    });
    page.push_str(&options(&own)?);
    if !shared.is_empty() {
        let names: Vec<String> = shared
            .iter()
            .filter_map(|arg| Some(format!("\\fB\\-\\-{}\\fR", escaped(arg.get_long()?))))
            .collect();
        let has_all = build
            .get_arguments()
            .filter(|arg| !arg.is_hide_set() && shares(build, arg))
            .all(|arg| shared.iter().any(|own| own.get_id() == arg.get_id()));
        let text = match has_all {
            true => "All options of a build.".to_owned(),
            false => format!("As for a build: {}.", names.join(", ")),
        };
        let _ = writeln!(page, ".PP\n{text}");
    }
    below.try_for_each(|below| verb_section(page, below, &name, build))
}

/// The options that all sub-verbs of a verb accept, before or after the sub-verb.
fn options_of_all_below(verb: &Command, name: &str) -> Result<String> {
    if !verb.get_arguments().any(Arg::is_global_set) {
        return Ok(String::new());
    }
    let mut text = format!(".SS \"{} [OPTIONS] VERB\"\n", escaped(name));
    let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
    let more = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(text, "{}.\n{}", escaped(&about), escaped(&more));
    let common = verb.clone().mut_args(|arg| {
        let told = arg.is_global_set();
        arg.hide(!told).help_heading(None::<&str>)
    });
    text += &options(&common)?;
    Ok(text)
}

fn shares(build: &Command, arg: &Arg) -> bool {
    let common = |other: &Arg| other.get_id() == arg.get_id() && other.get_help() == arg.get_help();
    !matches!(arg.get_id().as_str(), "help" | "version")
        && arg.get_long().is_some()
        && build.get_arguments().any(common)
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace("\n.", "\n\\&.")
}

/// The table of exit statuses, from the one that vbuild itself uses.
fn exit_statuses() -> String {
    let rows = [
        (0, "The image was built, or the verb did what it was asked."),
        (
            exit_status(Kind::Usage),
            "Anything else, as virt\\-dib has it: a wrong command line, elements that do not fit \
             together, a failed script, a missing program, a signal.",
        ),
        (exit_status(Kind::VmdbUsage), "vbuild vmdb: the command line is wrong."),
        (
            exit_status(Kind::Unconfined),
            "\\fB\\-\\-require\\-confinement\\fR was given, and the kernel does not grant every \
             layer; no machine was started.",
        ),
        (
            exit_status(Kind::Exec),
            "vbuild exec: the command line is wrong, or vbuild itself failed. Every other status is the command's own; 124 when \
             its time was up, 128 and the number of the signal that ended it.",
        ),
    ];
    let mut text = String::from(".SH \"EXIT STATUS\"\n");
    for (status, meaning) in rows {
        let _ = writeln!(text, ".TP\n\\fB{status}\\fR\n{meaning}");
    }
    text += ".PP\nA script of extra\\-data.d that fails gives vbuild its own exit status, as it gave virt\\-dib.\n";
    text
}
