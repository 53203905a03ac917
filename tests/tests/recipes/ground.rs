//! The directory of a test and the unprivileged user who builds in it.

use std::{
    env, fs,
    fs::{DirBuilder, File},
    io::Write as _,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use appliance::Mirror;
use tests::{accelerator, vbuild_binary};

/// The user ID for builds if root runs the tests: `nobody`.
const USER: u32 = 65534;
/// The command by which root irrevocably becomes that user.
const DROP: [&str; 5] =
    ["setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all", "--no-new-privs"];
/// Maximum lines of a build's output in a failure message.
const SHOWN_LINES: usize = 40;

/// A directory that contains the program, a home and a working directory.
pub(crate) struct Ground {
    /// Path of the directory.
    pub(crate) work: PathBuf,
    /// Removes the directory on drop; `None` if `VBUILD_TEST_DIR` names it.
    _temporary: Option<tempfile::TempDir>,
}

/// The result of a vbuild run.
pub(crate) struct Ran {
    /// The exit status.
    pub(crate) status: ExitStatus,
    /// Standard output and error, interleaved as written.
    pub(crate) said: String,
}

impl Ran {
    /// Whether the output contains a text.
    pub(crate) fn says(&self, text: &str) -> bool {
        self.said.contains(text)
    }
}

impl Ground {
    /// Creates the directory; the caches of `VBUILD_TEST_CACHE` become the user's.
    pub(crate) fn new(name: &str) -> Self {
        let kept = env::var_os("VBUILD_TEST_DIR").map(PathBuf::from);
        let temporary = match kept {
            Some(_) => None,
            None => {
                Some(tempfile::Builder::new().prefix(&format!("vbuild-{name}.")).tempdir().unwrap())
            }
        };
        let work = kept.unwrap_or_else(|| temporary.as_ref().unwrap().path().to_owned());
        let ground = Self { work, _temporary: temporary };
        for folder in ["home/.cache/vbuild", "bin", "out"] {
            DirBuilder::new().recursive(true).mode(0o755).create(ground.at(folder)).unwrap();
        }
        // The source directory may be unreadable for the user.
        fs::copy(vbuild_binary(), ground.at("bin/vbuild")).unwrap();
        // `tests/agent.sh` builds the agent of arm64 here; vbuild looks for it beside itself.
        let targets = vbuild_binary().ancestors().nth(2).unwrap().to_owned();
        let agent = targets.join("aarch64-unknown-linux-gnu/release/vbuild-agent");
        if agent.exists() {
            fs::copy(agent, ground.at("bin/vbuild-agent-arm64")).unwrap();
        }
        let cache = ground.cache();
        if let Some(from) = env::var_os("VBUILD_TEST_CACHE").map(PathBuf::from) {
            for part in ["appliance", "agent", "diskimage-builder"] {
                if from.join(part).exists() && !cache.join(part).exists() {
                    let (from, to) = (from.join(part), cache.join(part));
                    done(Command::new("cp").args(["-a", "--reflink=auto"]).args([from, to]));
                }
            }
        }
        ground.readable(&ground.work);
        ground.give(&ground.at("home"));
        ground.give(&ground.at("out"));
        ground
    }

    /// A path below the directory.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    /// A path below vbuild's working directory.
    pub(crate) fn out(&self, name: &str) -> PathBuf {
        self.work.join("out").join(name)
    }

    /// Path of the user's cache.
    pub(crate) fn cache(&self) -> PathBuf {
        self.at("home/.cache/vbuild")
    }

    /// Copies a file or directory of the repository's tests to a path that the user can read.
    pub(crate) fn copy(&self, from: &str, to: &Path) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(from);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        done(Command::new("cp").args(["-R", "-T"]).args([&from, to]));
        self.readable(to);
        self.give(to);
    }

    /// Changes the owner of a file or tree to the user.
    pub(crate) fn give(&self, path: &Path) {
        if is_root() {
            done(Command::new("chown").args(["-R", &USER.to_string()]).arg(path));
        }
    }

    fn readable(&self, path: &Path) {
        done(Command::new("chmod").args(["-R", "a+rX"]).arg(path));
    }

    /// A command that the user runs in the working directory, with an environment that
    /// inherits nothing from the caller.
    pub(crate) fn command(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = if is_root() {
            let mut command = Command::new(DROP[0]);
            command.args(&DROP[1..]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command
            .args(words)
            .current_dir(self.at("out"))
            .env_clear()
            .env("HOME", self.at("home"))
            .env("TERM", "dumb")
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .stdin(Stdio::null());
        for name in ["VBUILD_AGENT", "PIP_INDEX_URL"] {
            if let Some(value) = env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }

    /// Runs vbuild, which may succeed or fail.
    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        step(&format!("vbuild {}", words.join(" ")));
        let log = self.at("said");
        let file = File::create(&log).unwrap();
        let status = self
            .command(&self.at("bin/vbuild"), words)
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .status()
            .unwrap();
        Ran { status, said: String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned() }
    }

    /// Runs vbuild, which must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, words: &[&str]) -> Ran {
        let ran = self.run(words);
        let lines: Vec<_> = ran.said.lines().collect();
        let last = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
        assert!(ran.status.success(), "vbuild {words:?}: {}\n{last}", ran.status);
        ran
    }

    /// Builds with a verb and options, to which the options of all builds of these tests are
    /// added.
    #[track_caller]
    pub(crate) fn build(&self, words: &[&str]) -> Ran {
        let more = env::var("VBUILD_ARGS").unwrap_or_default();
        let accel = accelerator();
        let mut all = words.to_vec();
        all.extend(["--accel", accel.as_str()]);
        all.extend(more.split_whitespace());
        self.ok(&all)
    }

    /// Boots an image; each pair is an expected text and the input that is then typed.
    #[track_caller]
    pub(crate) fn boot(&self, image: &str, options: &[&str], talk: &[(&str, Option<&str>)]) -> Ran {
        let (wait, accel) =
            (env::var("VBUILD_TEST_WAIT").unwrap_or_else(|_| "900".into()), accelerator());
        let mut words = vec!["boot", image, "--timeout", wait.as_str(), "--accel", accel.as_str()];
        words.extend(options);
        for (text, answer) in talk {
            words.extend(["--expect", text]);
            words.extend(answer.iter().flat_map(|answer| ["--answer", answer]));
        }
        self.ok(&words)
    }

    /// A helper drive for downloads, created by the first call.
    pub(crate) fn drive(&self) -> &'static str {
        if !self.out("cache.img").exists() {
            self.ok(&["cache", "create", "cache.img", "--size", "10G"]);
        }
        "cache.img"
    }
}

/// Reports the next step on standard error, bypassing the capture of the test harness.
pub(crate) fn step(what: &str) {
    let _ = writeln!(std::io::stderr(), "=== {what}");
}

/// Runs a tool of the host, which must succeed, and returns its standard output.
#[track_caller]
pub(crate) fn done(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a tool of the host with arguments, which must succeed.
#[track_caller]
pub(crate) fn tool(words: &[&str]) -> String {
    done(Command::new(words[0]).args(&words[1..]))
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The Debian mirror that the host's apt uses, or `VBUILD_TEST_MIRROR`.
///
/// # Panics
/// Panics if there is none.
pub(crate) fn debian_mirror() -> Mirror {
    match env::var("VBUILD_TEST_MIRROR") {
        Ok(url) => Mirror::from_url(&url),
        Err(_) => Mirror::from_host(),
    }
    .expect("no source of apt is a mirror of Debian: set VBUILD_TEST_MIRROR")
}
