//! Runs phases: directories of scripts, by the rules of dib-run-parts of diskimage-builder 3.43.
//!
//! dib-run-parts sources the environment files in one shell and runs every script as its child.
//! Here the files are also sourced once per phase, but the environment that they export is read
//! back, and each script is started with it directly. So each script has its own output, time and
//! exit status, and the disks can be saved between two scripts. Scripts of the plan are put into
//! the directory right before they run.

mod listing;

use std::collections::BTreeMap;

use plan::{Run, RunParts, compare_scripts};
use serde::{Deserialize, Serialize};
use session::FileKind;

use super::{
    command::{self, Command},
    upload,
};
use crate::{EngineError, State, events::CommandKind, step_context::StepContext};

/// A shell script that sources its arguments and prints the resulting environment with a NUL after
/// each entry. The variable [`PRELUDE`] has whatever else children of the shell inherit. If a file
/// fails or leaves the shell, the script prints the path of that file instead. Everything that the
/// files print goes to standard error.
const CAPTURE_ENVIRONMENT: &str = include_str!("../../scripts/environment.sh");
/// A variable with commands that set up what a script cannot inherit through variables: the mask of
/// new files, the working directory and limits, as far as files of environment.d have changed them.
const PRELUDE: &str = "_vbuild_prelude";

/// A phase that has begun: its progress, and the environment of its scripts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Phase {
    /// The scripts of the phase, and which of them have run.
    pub(crate) scripts: Scripts,
    /// The environment after sourcing the files of environment.d.
    pub(crate) env: Variables,
}

/// The names and values of environment variables.
pub(crate) type Variables = Vec<(String, String)>;

impl Phase {
    /// Returns the script that runs next.
    pub(crate) fn next<'a>(&'a self, parts: &'a RunParts) -> Option<&'a str> {
        self.scripts.next(parts)
    }
}

/// The scripts of a phase, and which of them have run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scripts {
    /// The scripts that were in the directory when the phase began.
    found: Vec<String>,
    /// The script that has run last.
    last: Option<String>,
    /// Whether a file of environment.d has left the shell successfully, so that no script runs.
    #[serde(default)]
    left: bool,
}

impl Scripts {
    /// Returns the script that runs next: one that was found in the directory, or one of the plan
    /// that has not been put there yet.
    pub(crate) fn next<'a>(&'a self, parts: &'a RunParts) -> Option<&'a str> {
        let planned = parts.scripts.iter().map(|script| &script.name);
        let names = self.found.iter().chain(planned).filter(|name| self.is_left(name));
        names.min_by(|a, b| compare_scripts(a, b)).map(String::as_str)
    }

    /// Whether a script has yet to run: it comes after the last one that has run.
    pub(crate) fn is_left(&self, name: &str) -> bool {
        !self.left && self.last.as_ref().is_none_or(|last| compare_scripts(last, name).is_lt())
    }

    /// Returns how many of the plan's scripts have been put into the directory.
    pub(crate) fn in_place(&self, parts: &RunParts) -> usize {
        parts.scripts.iter().filter(|script| !self.is_left(&script.name)).count()
    }
}

/// Begins a phase: lists the scripts in its directory, and sources its environment.
pub(crate) async fn begin(parts: &RunParts, cx: &StepContext<'_>) -> Result<Phase, EngineError> {
    let root = cx.root_of(parts.place)?;
    let found = listing::scripts(&root, parts.directory.as_str(), cx).await?;
    let scripts = Scripts { found, last: None, left: false };
    if scripts.found.is_empty() && parts.scripts.is_empty() {
        return Ok(Phase { scripts, env: Vec::new() });
    }
    let env = command::resolve_env(&parts.env, cx)?;
    let (phase, place, origins) = (&parts.phase, parts.place, Some(&parts.origins));
    let cwd = parts.cwd.as_str();
    let sourcing = Sourcing { cx, phase, place, origins, cwd };
    let directory = parts.environment.as_ref().map(plan::GuestPath::as_str);
    Ok(match sourcing.source(directory, env).await? {
        Some(env) => Phase { scripts, env },
        None => Phase { scripts: Scripts { left: true, ..scripts }, env: Vec::new() },
    })
}

/// Runs the next script of a phase, if there is one.
pub(crate) async fn next(
    parts: &RunParts,
    phase: &mut Phase,
    cx: &mut StepContext<'_>,
) -> Result<(), EngineError> {
    let Some(script) = phase.next(parts).map(str::to_owned) else { return Ok(()) };
    if let Some(planned) = parts.scripts.iter().find(|planned| planned.name == script) {
        upload::upload(&planned.upload, cx).await?;
    }
    let (argv, env) = as_inherited(format!("{}/{script}", parts.directory), parts, &phase.env);
    let command = Command {
        kind: CommandKind::Script,
        phase: &parts.phase,
        script: &script,
        origin: parts.origins.get(&script),
        place: parts.place,
        argv,
        env,
        cwd: parts.cwd.as_str(),
        stdin: None,
        capture: parts.block_device_output,
        echo: true,
        quiet: false,
    };
    let output = command::run(command, cx).await?;
    if parts.block_device_output {
        note_block_device(&output, cx.state)?;
    }
    phase.scripts.last = Some(script);
    Ok(())
}

/// Returns the command line and the environment with which a script is started, as if by the shell
/// that has sourced environment.d.
fn as_inherited(path: String, parts: &RunParts, env: &Variables) -> (Vec<String>, Variables) {
    let prelude = env.iter().find(|(name, _)| name == PRELUDE).map(|(_, commands)| commands);
    let mut env: Variables = env.iter().filter(|(name, _)| name != PRELUDE).cloned().collect();
    // A shell sets PWD by itself, but other programs expect to find it.
    if prelude.is_none() && !env.iter().any(|(name, _)| name == "PWD") {
        env.push(("PWD".to_owned(), parts.cwd.to_string()));
    }
    let argv = match prelude {
        None => vec![path],
        Some(commands) => {
            let commands = format!("{commands}exec \"$0\"");
            vec!["/bin/bash".to_owned(), "-c".to_owned(), commands, path]
        }
    };
    (argv, env)
}

/// Runs a phase from its beginning to its end.
pub(crate) async fn run_all(parts: &RunParts, cx: &mut StepContext<'_>) -> Result<(), EngineError> {
    let mut phase = begin(parts, cx).await?;
    while phase.next(parts).is_some() {
        next(parts, &mut phase, cx).await?;
    }
    Ok(())
}

/// Runs one command of the recipe.
pub(crate) async fn run_one(run: &Run, cx: &mut StepContext<'_>) -> Result<(), EngineError> {
    let env = command::resolve_env(&run.env, cx)?;
    let (phase, place, origins, cwd) = (&cx.stage.name, run.place, None, run.cwd.as_str());
    let sourcing = Sourcing { cx, phase, place, origins, cwd };
    let directory = run.environment.as_ref().map(plan::GuestPath::as_str);
    let Some(mut env) = sourcing.source(directory, env).await? else { return Ok(()) };
    env.retain(|(name, _)| name != PRELUDE);
    let argv =
        run.argv.iter().map(|word| command::resolve(word, cx.state)).collect::<Result<_, _>>()?;
    let command = Command {
        kind: if run.is_script() { CommandKind::Script } else { CommandKind::Command },
        phase: &cx.stage.name,
        script: &run.what,
        origin: None,
        place: run.place,
        argv,
        env,
        cwd: run.cwd.as_str(),
        stdin: run.stdin.as_deref(),
        capture: run.capture.is_some(),
        echo: false,
        quiet: false,
    };
    let output = command::run(command, cx).await?;
    if let Some(fact) = &run.capture {
        let text = String::from_utf8_lossy(&output).trim_end_matches('\n').to_owned();
        cx.state.facts.insert(fact.clone(), text);
    }
    Ok(())
}

/// The parameters for sourcing a directory of environment files.
struct Sourcing<'a> {
    cx: &'a StepContext<'a>,
    phase: &'a str,
    place: plan::Place,
    origins: Option<&'a BTreeMap<String, String>>,
    cwd: &'a str,
}

impl Sourcing<'_> {
    /// Sources the files of a directory, and returns the resulting environment. `None`, with a
    /// warning, if one of them has left the shell successfully.
    async fn source(
        &self,
        directory: Option<&str>,
        env: Variables,
    ) -> Result<Option<Variables>, EngineError> {
        let Some(directory) = directory else { return Ok(Some(env)) };
        let root = self.cx.root_of(self.place)?;
        let mut files = Vec::new();
        for (name, stat) in self.cx.entries(&root, directory).await? {
            if !is_environment_name(&name) {
                continue;
            }
            let path = format!("{directory}/{name}");
            let stat = listing::follow(&root, path.clone(), stat, self.cx).await?;
            files.extend(stat.filter(|stat| stat.kind == FileKind::File).map(|_| path));
        }
        if files.is_empty() {
            return Ok(Some(env));
        }
        files.sort();
        let mut argv: Vec<String> =
            ["/bin/bash", "-c", CAPTURE_ENVIRONMENT, "environment.d"].map(String::from).to_vec();
        argv.append(&mut files);
        let command = Command {
            kind: CommandKind::Script,
            phase: self.phase,
            script: "environment.d",
            origin: None,
            place: self.place,
            argv,
            env,
            cwd: self.cwd,
            stdin: None,
            capture: true,
            echo: false,
            quiet: true,
        };
        match command::run_capturing(command, self.cx).await {
            Ok(output) => Ok(match parse_environment(&output) {
                Ok(env) => Some(env),
                Err(file) => {
                    self.warn_left(&file);
                    None
                }
            }),
            Err(failed) => Err(self.name_file(failed)),
        }
    }

    fn warn_left(&self, file: &str) {
        let name = format!("environment.d/{}", file.rsplit('/').next().unwrap_or(file));
        let element = self.origins.and_then(|origins| origins.get(&name));
        let element = element.map(|element| format!(" (element {element})")).unwrap_or_default();
        let text = format!(
            "{name}{element} leaves the shell with `exit 0`, so no script of {} runs, as in \
             diskimage-builder",
            self.phase
        );
        self.cx.warn(text);
    }

    /// Names the file that failed, and its element, in the error and its events.
    fn name_file(&self, mut failed: command::Failed) -> EngineError {
        let path = String::from_utf8_lossy(&failed.captured);
        let name = path.rsplit('/').next().filter(|name| !name.is_empty());
        if let (EngineError::Script { script, origin, .. }, Some(name)) = (&mut failed.error, name)
        {
            *script = format!("environment.d/{name}");
            *origin = self.origins.and_then(|origins| origins.get(script)).cloned();
        }
        failed.report(self.cx.config)
    }
}

/// Parses the output of [`CAPTURE_ENVIRONMENT`]. The error is the path of the file that has left
/// the shell.
fn parse_environment(bytes: &[u8]) -> Result<Variables, String> {
    // Every entry ends with a NUL, the name of a file does not.
    let Some(entries) = bytes.strip_suffix(b"\0") else {
        return Err(String::from_utf8_lossy(bytes).into_owned());
    };
    let variables = entries.split(|byte| *byte == 0).filter_map(|entry| {
        let entry = String::from_utf8_lossy(entry);
        let (name, value) = entry.split_once('=')?;
        // bash sets these for itself, and the shell of a script sets them again.
        let own = matches!(name, "_" | "SHLVL" | "PWD" | "OLDPWD");
        (!own).then(|| (name.to_owned(), value.to_owned()))
    });
    Ok(variables.collect())
}

fn is_environment_name(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Sets the facts about the device that block-device.d prints as `IMAGE_BLOCK_DEVICE=`.
fn note_block_device(output: &[u8], state: &mut State) -> Result<(), EngineError> {
    let text = String::from_utf8_lossy(output);
    let mut values = text.lines().filter_map(|line| line.strip_prefix("IMAGE_BLOCK_DEVICE="));
    let Some(value) = values.next() else { return Ok(()) };
    if values.next().is_some() {
        return Err(EngineError::Recipe(
            "variable ‘IMAGE_BLOCK_DEVICE’ has more than one occurrence in the output of block-device.d".into(),
        ));
    }
    let device = value.trim_matches('"');
    state.facts.insert("image-block-device".into(), device.to_owned());
    state.facts.insert("image-block-devices".into(), format!(" [image0]={device} "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A phase with scripts of the plan.
    fn parts(scripts: Vec<plan::Script>) -> RunParts {
        RunParts {
            phase: "install.d".into(),
            place: plan::Place::Tools,
            directory: plan::GuestPath::new("/hooks/install.d").unwrap(),
            environment: None,
            env: Vec::new(),
            cwd: plan::GuestPath::new("/").unwrap(),
            origins: BTreeMap::new(),
            block_device_output: false,
            scripts,
        }
    }

    #[test]
    fn scripts_of_the_plan_run_among_those_that_are_found() {
        let script = |name: &str| plan::Script {
            name: name.into(),
            upload: plan::Upload {
                what: name.into(),
                to: plan::GuestPath::new("/hooks").unwrap(),
                entries: Vec::new(),
            },
        };
        let parts = parts(vec![script("5-a"), script("50-c"), script("100-e")]);
        let found = vec!["99-d".into(), "10-b".into()];
        let mut phase = Scripts { found, last: None, left: false };
        let mut order = Vec::new();
        while let Some(next) = phase.next(&parts).map(str::to_owned) {
            order.push((next.clone(), phase.in_place(&parts)));
            phase.last = Some(next);
        }
        let order: Vec<_> = order.iter().map(|(name, place)| (name.as_str(), *place)).collect();
        assert_eq!(order, [("5-a", 0), ("10-b", 1), ("50-c", 1), ("99-d", 2), ("100-e", 2)]);
        assert_eq!(phase.in_place(&parts), 3);
        let left = Scripts { found: vec!["10-b".into()], last: None, left: true };
        assert_eq!(left.next(&parts), None);
    }

    #[test]
    fn names_of_environment_files() {
        assert!(is_environment_name("10-a.bash"));
        assert!(!is_environment_name("10-a~"));
    }

    #[test]
    fn environment_is_read_back() {
        let printed = b"A=1\0B=x=y\nz\0_=/usr/bin/env\0BASH_FUNC_f%%=() { :; }\0";
        let env = parse_environment(printed).unwrap();
        let names: Vec<&str> = env.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["A", "B", "BASH_FUNC_f%%"]);
        assert_eq!(env[1].1, "x=y\nz");
        assert_eq!(
            parse_environment(b"/hooks/environment.d/10-a"),
            Err("/hooks/environment.d/10-a".into())
        );
    }

    /// What the script prints for files with this content; each stands in a folder of its own.
    fn sourced(files: &[&str]) -> (Option<i32>, Result<Variables, String>) {
        let folder = tempfile::tempdir().unwrap();
        let paths = files.iter().enumerate().map(|(number, text)| {
            let path = folder.path().join(format!("{number}-file"));
            std::fs::write(&path, text).unwrap();
            path
        });
        let output = std::process::Command::new("bash")
            .args(["-c", CAPTURE_ENVIRONMENT, "environment.d"])
            .args(paths.collect::<Vec<_>>())
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("GIVEN", "1")
            .output()
            .unwrap();
        (output.status.code(), parse_environment(&output.stdout))
    }

    #[test]
    fn what_environment_files_export_is_inherited() {
        let (status, env) =
            sourced(&["export A='two words'; B=mine", "unset GIVEN; f() { :; }; export -f f"]);
        assert_eq!(status, Some(0));
        let env = env.unwrap();
        let value = |of: &str| env.iter().find(|(name, _)| name == of).map(|(_, v)| v.as_str());
        assert_eq!(value("A"), Some("two words"));
        assert_eq!((value("B"), value("GIVEN"), value(PRELUDE)), (None, None, None));
        assert!(value("BASH_FUNC_f%%").is_some());
    }

    #[test]
    fn mask_directory_and_limits_are_inherited_too() {
        let (_, env) = sourced(&["umask 027; cd /usr/bin; ulimit -S -n 99"]);
        let parts = parts(Vec::new());
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("50-x");
        // It has no first line: bash runs it, as it would in the original.
        std::fs::write(&script, "umask; pwd; ulimit -S -n; echo \"$0\"\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, mode).unwrap();
        let (argv, env) = as_inherited(script.display().to_string(), &parts, &env.unwrap());
        assert!(!env.iter().any(|(name, _)| name == PRELUDE));
        let output =
            std::process::Command::new(&argv[0]).args(&argv[1..]).envs(env).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, format!("0027\n/usr/bin\n99\n{}\n", script.display()));
    }

    #[test]
    fn a_file_that_leaves_the_shell_is_named() {
        let (status, env) = sourced(&["A=1", "exit 0", "export B=1"]);
        assert_eq!(status, Some(0));
        assert!(env.unwrap_err().ends_with("/1-file"));
        assert_eq!(sourced(&["echo $UNSET"]).0, Some(1));
        assert_eq!(sourced(&["false | true"]).0, Some(1));
    }
}
