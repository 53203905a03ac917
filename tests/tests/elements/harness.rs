//! Runs `vbuild` and records its messages and outputs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tests::{accelerator, names, vbuild_binary};

/// The directory of the elements for these tests.
const ELEMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/elements");

/// A directory, with the program that builds in it.
pub struct Workshop {
    pub dir: tempfile::TempDir,
    cache: PathBuf,
}

/// The results of a run.
pub struct Built {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// The lines of `--machine-readable`.
    pub events: Vec<serde_json::Value>,
    pub log: String,
    pub dir: PathBuf,
}

/// A workshop; `None` after printing the reason why it is unavailable.
pub fn workshop(test: &str) -> Option<Workshop> {
    let Some(cache) = std::env::var_os("VBUILD_TEST_CACHE") else {
        println!("skipped {test}: VBUILD_TEST_CACHE names no cache with an appliance");
        return None;
    };
    let dir = tempfile::Builder::new().prefix("vbuild-elements-").tempdir().unwrap();
    Some(Workshop { dir, cache: PathBuf::from(cache) })
}

impl Workshop {
    /// A vbuild command, to run in the workshop's directory.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let accel = accelerator();
        let mut command = Command::new(vbuild_binary());
        command
            .args(["--machine-readable=file:events", "--logfile", "log"])
            .args([
                "--accel",
                &accel,
                "--smp",
                "2",
                "-m",
                "1024",
                "-p",
                ELEMENTS,
                "--skip-base",
                "--no-cache",
            ])
            // The tree is so small that the default journal would not fit.
            .args(["--mkfs-journal-size", "8"])
            .args(arguments)
            .current_dir(self.dir.path())
            .env("VBUILD_TEST_SECRET", "of the caller")
            .env_remove("TMPDIR");
        command.arg("--cache-dir").arg(&self.cache);
        if !arguments.contains(&"--network") {
            command.arg("--no-network");
        }
        command
    }

    /// A command with another verb, in the workshop's directory.
    pub fn verb(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(vbuild_binary());
        command.arg(verb).args(arguments).args(["--accel", &accelerator(), "--no-cache"]);
        command.arg("--no-network").arg("--cache-dir").arg(&self.cache);
        command.current_dir(self.dir.path());
        command
    }

    /// Runs a build to its end, successful or not. Checks that its build directory is removed,
    /// unless `--no-delete-on-failure` is among the arguments.
    pub fn run(&self, arguments: &[&str]) -> Built {
        for stale in ["events", "log"] {
            let _ = fs::remove_file(self.path(stale));
        }
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let pid = child.id();
        let output = child.wait_with_output().unwrap();
        // It is kept on request, which is reported.
        let kept = self.build_dirs(pid);
        let built = self.built(&output);
        if arguments.contains(&"--no-delete-on-failure") {
            let told = kept.iter().all(|name| built.stdout.contains(name));
            assert!(kept.len() == 1 && told, "{kept:?}: {}", built.stdout);
        } else {
            assert_eq!(kept, Vec::<String>::new());
        }
        built
    }

    /// The results of a run, from its output.
    pub fn built(&self, output: &Output) -> Built {
        let read = |name: &str| fs::read_to_string(self.path(name)).unwrap_or_default();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Built {
            status: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
            events: read("events")
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect(),
            log: read("log"),
            dir: self.dir.path().to_owned(),
        }
    }

    /// Runs a build that must succeed.
    pub fn build(&self, arguments: &[&str]) -> Built {
        let built = self.run(arguments);
        assert_eq!(built.status, Some(0), "{}\n{}", built.stdout, built.stderr);
        built
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file to the directory.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn names(&self) -> Vec<String> {
        names(self.dir.path())
    }

    /// The build directories of a process that is running, or has left them.
    pub fn build_dirs(&self, pid: u32) -> Vec<String> {
        let mut dirs = names(&self.cache.join("run"));
        dirs.retain(|name| name.starts_with(&format!("vbuild-run-{pid}-")));
        dirs
    }
}

impl Built {
    /// The scripts that ran, in order, as `phase/script`.
    pub fn scripts(&self) -> Vec<String> {
        self.events
            .iter()
            .filter(|event| event["event"] == "script-started" && event["type"] == "message")
            .map(|event| {
                format!(
                    "{}/{}",
                    event["phase"].as_str().unwrap(),
                    event["script"].as_str().unwrap()
                )
            })
            .collect()
    }

    /// The records of the element `probe`, for an image name.
    pub fn records(&self, name: &str) -> Records {
        Records { dir: self.dir.join(format!("{name}.d/records")) }
    }
}

/// The records of the element `probe`.
pub struct Records {
    dir: PathBuf,
}

impl Records {
    pub fn text(&self, name: &str) -> String {
        let path = self.dir.join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The environment of a phase.
    pub fn env(&self, phase: &str) -> BTreeMap<String, String> {
        self.text(&format!("{phase}.env"))
            .split('\0')
            .filter_map(|entry| entry.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// A fact of a phase.
    pub fn fact(&self, phase: &str, name: &str) -> String {
        let text = self.text(&format!("{phase}.facts"));
        let prefix = format!("{name}=");
        text.lines()
            .find_map(|line| line.strip_prefix(&prefix))
            .unwrap_or_else(|| panic!("{phase} has no fact {name}:\n{text}"))
            .to_owned()
    }

    /// Mount points of a phase with filesystem and options.
    pub fn mounts(&self, phase: &str) -> BTreeMap<String, (String, String)> {
        self.text(&format!("{phase}.mounts"))
            .lines()
            .map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                let dash = words.iter().position(|word| *word == "-").unwrap();
                let (place, options, kind) = (words[4], words[5], words[dash + 1]);
                (place.to_owned(), (kind.to_owned(), options.to_owned()))
            })
            .collect()
    }
}

/// Whether a host program is installed; prints what is skipped without it.
pub fn has_program(test: &str, program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .any(|dir| dir.join(program).is_file());
    if !found {
        println!("skipped a part of {test}: there is no {program}");
    }
    found
}

/// Runs a host program, which must succeed, and returns its output.
pub fn host(program: &str, arguments: &[&str], dir: &Path) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
