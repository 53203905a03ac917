//! Helpers that create steps for the plans of this crate.

use std::path::Path;

use plan::{
    Context, FileSource, FileStep, GuestPath, Keep, PROGRAM_PATH, Place, Run, Stage, Step, Upload,
    UploadEntry, UploadKind, Value,
};

pub(super) fn at(path: &str) -> GuestPath {
    GuestPath::new(path).expect("made of checked normal paths")
}

pub(super) fn stage(name: &str, context: Context, steps: Vec<Step>) -> Stage {
    Stage {
        name: name.to_owned(),
        context,
        steps,
        network: false,
        keep: Keep::Shared,
        timeout_s: None,
    }
}

pub(super) fn directory(path: &str) -> Step {
    Step::File(FileStep::MakeDirectory { path: at(path), mode: 0o755 })
}

pub(super) fn upload(what: &str, to: &str, entries: Vec<UploadEntry>) -> Step {
    Step::Upload(Upload { what: what.to_owned(), to: at(to), entries })
}

fn executable(name: &str, text: &str) -> UploadEntry {
    let source = FileSource::Text(text.to_owned());
    UploadEntry { path: name.into(), kind: UploadKind::File { mode: 0o755, source } }
}

/// Uploads a bash script as `run.sh` in a directory.
pub(super) fn script(what: &str, to: &str, text: &str) -> Step {
    upload(what, to, vec![executable("run.sh", &format!("{text}\n"))])
}

/// Uploads the tools of this crate.
pub(super) fn tools(to: &str) -> Step {
    let all = vec![
        executable("changed", include_str!("../../scripts/changed")),
        executable("fixup", include_str!("../../scripts/fixup")),
        executable("places", include_str!("../../scripts/places")),
        executable("resize", include_str!("../../scripts/resize")),
    ];
    upload("the tools of b9", to, all)
}

/// A command in the tools root, with the environment of B9's containers.
pub(super) fn command(what: &str, argv: Vec<Value>) -> Run {
    let env = [
        ("PATH", PROGRAM_PATH),
        ("HOME", "/root"),
        ("USER", "root"),
        ("LOGNAME", "root"),
        ("LANG", "C.UTF-8"),
        ("TERM", "dumb"),
    ];
    Run {
        what: what.to_owned(),
        place: Place::Tools,
        argv,
        env: env.map(|(name, value)| (name.to_owned(), Value::from(value))).to_vec(),
        environment: None,
        cwd: at("/"),
        stdin: None,
        capture: None,
    }
}

/// Records the time from which changes are collected.
pub(super) fn mark(tools: &str, notes: &str) -> Step {
    let argv = [format!("{tools}/changed"), "mark".into(), format!("{notes}/moment")];
    Step::Run(command("note the time", argv.map(Value::from).to_vec()))
}

/// Collects the changes in a directory.
pub(super) fn gather(tools: &str, notes: &str, (from, by): (String, String)) -> Step {
    let argv = [format!("{tools}/changed"), "copy".into(), format!("{notes}/moment"), from, by];
    Step::Run(command("gather what was written", argv.map(Value::from).to_vec()))
}

/// Copies collected changes to the host.
pub(super) fn fetch(from: &str, to: &Path) -> Step {
    Step::Fetch { from: at(from), to: to.to_owned() }
}

/// Whether a host directory can be bound at its own path in the tools root, that is, hides nothing
/// that commands need.
pub(super) fn can_be_bound(path: &GuestPath) -> bool {
    const NEEDED: [&str; 8] = ["/bin", "/etc", "/lib", "/lib64", "/root", "/sbin", "/usr", "/tmp"];
    const SYSTEM: [&str; 7] = ["/build", "/dev", "/helper", "/proc", "/run", "/sys", "/vbuild"];
    !NEEDED.iter().chain(&SYSTEM).any(|needed| path.contains(&at(needed)))
        && !SYSTEM.iter().any(|system| at(system).contains(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_projects_can_be_bound() {
        for (path, can) in [
            ("/home/a/project", true),
            ("/root/project", true),
            ("/tmp/x", true),
            ("/usr/src/x", true),
            ("/", false),
            ("/usr", false),
            ("/tmp", false),
            ("/build/x", false),
            ("/dev/shm/x", false),
        ] {
            assert_eq!(can_be_bound(&at(path)), can, "{path}");
        }
    }
}
