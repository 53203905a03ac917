//! Helpers for the tests: a spec in its own directory, and a plan as readable text.

#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    dead_code,
    reason = "each test program uses a part of this"
)]

use std::{fmt::Write as _, fs, path::Path};

use plan::{FileSource, FileStep, NodeKind, Step, UploadKind, Value};
use vmdb::{Options, Prepared, prepare};

/// Options for a spec in a directory, with an output.
pub(crate) fn options(directory: &Path, spec: &str) -> Options {
    Options {
        spec: spec.to_owned(),
        output: Some("out.img".into()),
        arch: "amd64".into(),
        directory: directory.to_owned(),
        ..Options::default()
    }
}

/// Prepares a spec given as text, with files beside it.
pub(crate) fn try_prepare(
    text: &str,
    files: &[(&str, &str)],
    change: impl FnOnce(&mut Options),
) -> Result<Prepared, String> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("spec.vmdb"), text).unwrap();
    for (name, content) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let mut options = options(directory.path(), "spec.vmdb");
    change(&mut options);
    let place = directory.path().display().to_string();
    prepare(&options, &mut std::io::empty()).map_err(|e| e.to_string().replace(&place, "DIR"))
}

/// Prints a plan, with the faults that its own check finds.
pub(crate) fn show(prepared: &Prepared) -> String {
    let plan = &prepared.lowered.plan;
    let mut out = String::new();
    for disk in &plan.disks {
        writeln!(out, "disk {} {:?} {:?}", disk.name, disk.role, disk.size).unwrap();
    }
    let mut binds = Vec::new();
    for stage in &plan.stages {
        let root = stage.context.image_root.as_ref().map_or("-", |root| root.as_str());
        let network = if stage.network { " network" } else { "" };
        writeln!(out, "{} in {root}{network}", stage.name).unwrap();
        if stage.context.binds != binds {
            binds.clone_from(&stage.context.binds);
            for bind in &binds {
                let how = if bind.read_only { "read only " } else { "" };
                writeln!(out, "  bound {how}{} -> {}", bind.from, bind.to).unwrap();
            }
        }
        for step in &stage.steps {
            show_step(&mut out, step);
        }
    }
    for image in &plan.outputs.images {
        writeln!(out, "output {} {} {}", image.disk, image.format, image.path.display()).unwrap();
    }
    for package in &prepared.lowered.packages {
        writeln!(out, "package {package}").unwrap();
    }
    for warning in &prepared.lowered.warnings {
        writeln!(out, "warning {} {warning}", warning.at).unwrap();
    }
    for note in &prepared.lowered.notes {
        writeln!(out, "note {note}").unwrap();
    }
    for complaint in plan::check(plan) {
        writeln!(out, "PLAN {complaint}").unwrap();
    }
    out
}

fn word(value: &Value) -> String {
    match value {
        Value::Fact(fact) => format!("<{fact}>"),
        // Scripts of the crate are tested by running them.
        Value::Text(text) if text.starts_with("# ") => "SCRIPT".into(),
        Value::Text(text) if text.is_empty() || text.contains([' ', '\n']) => format!("{text:?}"),
        Value::Text(text) => text.clone(),
    }
}

fn show_run(out: &mut String, run: &plan::Run) {
    let argv: Vec<String> = run.argv.iter().map(word).collect();
    let own = |name: &str| !matches!(name, "PATH" | "HOME" | "LC_ALL");
    let env: Vec<String> = run
        .env
        .iter()
        .filter(|(name, _)| own(name))
        .map(|(name, value)| format!("{name}={} ", word(value)))
        .collect();
    let capture = run.capture.as_ref().map_or(String::new(), |fact| format!(" > <{fact}>"));
    writeln!(out, "  run [{}] {}{}{capture}", run.what, env.concat(), argv.join(" ")).unwrap();
}

fn show_step(out: &mut String, step: &Step) {
    match step {
        Step::Run(run) => show_run(out, run),
        Step::CreateLayout(layout) => {
            for node in &layout.nodes {
                match &node.kind {
                    NodeKind::Table(table) => {
                        writeln!(out, "  make {} {:?}", node.name, table.label).unwrap();
                        if let plan::Placing::Exact { extended: Some(extended) } = table.placing {
                            let plan::Extended { number, start, end } = extended;
                            writeln!(out, "    extended {number} from {start} to {end}").unwrap();
                        }
                        for part in &table.partitions {
                            writeln!(
                                out,
                                "    {} {:?} {:?} type {} boot {} primary {}",
                                part.name,
                                part.start,
                                part.size,
                                part.type_code,
                                part.boot,
                                part.primary
                            )
                            .unwrap();
                        }
                    }
                    kind => writeln!(out, "  make {} {kind:?}", node.name).unwrap(),
                }
            }
        }
        Step::Upload(upload) => {
            writeln!(out, "  upload to {}", upload.to).unwrap();
            for entry in &upload.entries {
                let what = match &entry.kind {
                    UploadKind::Directory(mode) => format!("directory {mode:o}"),
                    UploadKind::Symlink(target) => format!("link to {target}"),
                    UploadKind::Fifo(mode) => format!("fifo {mode:o}"),
                    UploadKind::Device { kind, major, minor, .. } => {
                        format!("{kind:?} {major}:{minor}")
                    }
                    UploadKind::File { mode, source: FileSource::Text(text) } => {
                        format!("text {mode:o} {} bytes", text.len())
                    }
                    UploadKind::File { mode, source: FileSource::Host { bytes, .. } } => {
                        format!("file {mode:o} {bytes} bytes")
                    }
                };
                writeln!(out, "    {}: {what}", entry.path).unwrap();
            }
        }
        Step::File(FileStep::MakeDirectory { path, mode }) => {
            writeln!(out, "  mkdir {path} {mode:o}").unwrap();
        }
        Step::File(FileStep::Symlink { path, target }) => {
            writeln!(out, "  link {path} to {target}").unwrap();
        }
        Step::File(FileStep::Remove { path, .. }) => writeln!(out, "  remove {path}").unwrap(),
        Step::ExportTree { root, output, .. } => {
            let name = output.path.file_name().unwrap().to_string_lossy();
            writeln!(out, "  export {root} as {} {name}", output.format).unwrap();
        }
        Step::Fetch { from, .. } => writeln!(out, "  fetch {from}").unwrap(),
        Step::KillProcesses { root } => writeln!(out, "  end processes in {root}").unwrap(),
        Step::Trim => writeln!(out, "  trim").unwrap(),
        other => writeln!(out, "  {other:?}").unwrap(),
    }
}
