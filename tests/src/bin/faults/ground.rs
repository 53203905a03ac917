//! The environment of the rounds: a folder, and if the kernel permits it, user and mount namespaces
//! in which an ordinary user can mount small filesystems.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::{prctl, statvfs::statvfs},
    unistd::{getgid, getuid},
};

/// The host name of the harness's mirror, which command lines map to this machine.
pub(crate) const MIRROR_NAME: &str = "mirror.test";

/// The size of a filesystem that is not full; no space is reserved.
const ROOMY: &str = "1g";

/// Maximum number of attempts to fill a filesystem while a build writes to it.
const FILL_ATTEMPTS: u32 = 100;

/// The name of the folder for saved machines in a cache.
const SAVED_MACHINES: &str = "warm";

/// The environment of all rounds.
#[derive(Debug)]
pub(crate) struct Ground {
    /// The tested program.
    vbuild: PathBuf,
    /// A cache with an appliance.
    cache: PathBuf,
    /// The recipes of this harness and the elements of the tests.
    pub(crate) recipes: PathBuf,
    pub(crate) elements: PathBuf,
    /// The parent folder of the rounds.
    work: PathBuf,
    /// The reason why namespaces are unavailable; `None` if they are available.
    pub(crate) without_namespaces: Option<String>,
    /// A part of a name: only faults whose names contain it are injected.
    pub(crate) only: Option<String>,
    accel: String,
}

impl Ground {
    /// Sets up the environment from environment variables, and enters the namespaces.
    pub(crate) fn enter() -> Result<Self> {
        let path = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let needed = |name: &str| {
            let value = path(name).with_context(|| format!("{name} is not set"))?;
            fs::canonicalize(&value).with_context(|| format!("{name}={}", value.display()))
        };
        let work = needed("VBUILD_FAULTS_DIR")?;
        let mut ground = Self {
            vbuild: needed("VBUILD")?,
            cache: needed("VBUILD_TEST_CACHE")?,
            recipes: needed("VBUILD_FAULTS_RECIPES")?,
            elements: needed("VBUILD_FAULTS_ELEMENTS")?,
            work,
            without_namespaces: None,
            only: env::var("VBUILD_FAULTS_ONLY").ok(),
            accel: tests::accelerator(),
        };
        // The first build saves its machines here; later builds restore them.
        fs::create_dir_all(ground.work.join(SAVED_MACHINES))?;
        // Orphaned processes become children of this process.
        prctl::set_child_subreaper(true)?;
        if let Err(error) = enter_namespaces() {
            let why = format!("no user and mount namespace: {error:#}");
            println!("faults: {why}");
            ground.without_namespaces = Some(why);
        }
        Ok(ground)
    }

    /// Returns the folder of a round.
    pub(crate) fn round(&self, seed: u64) -> PathBuf {
        self.work.join(seed.to_string())
    }

    /// Returns a folder for data shared by several rounds.
    pub(crate) fn common(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    /// Creates the cache of a round. It contains only the shared appliance, and if `restored`, the
    /// saved machines.
    pub(crate) fn furnish_cache(&self, cache: &Path, restored: bool) -> Result<()> {
        fs::create_dir_all(cache)?;
        let shared = ["appliance", "agent", "diskimage-builder"];
        for name in shared.into_iter().chain(restored.then_some(SAVED_MACHINES)) {
            // Rounds kill saved machines, which must not be those of the user.
            let above = if name == SAVED_MACHINES { &self.work } else { &self.cache };
            let (from, to) = (above.join(name), cache.join(name));
            if !from.is_dir() || to.exists() {
                continue;
            }
            if self.without_namespaces.is_some() {
                let linked = Command::new("cp").arg("-al").args([&from, &to]).status()?;
                ensure!(linked.success(), "cannot link {} to {}", to.display(), from.display());
                continue;
            }
            fs::create_dir(&to)?;
            mount(Some(&from), &to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .with_context(|| format!("show {} in {}", from.display(), to.display()))?;
        }
        Ok(())
    }

    /// Unmounts everything in a round's folder, and removes the folder.
    pub(crate) fn clear(&self, folder: &Path) -> Result<()> {
        self.unmount(folder)?;
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))
    }

    /// Unmounts everything in a folder.
    pub(crate) fn unmount(&self, folder: &Path) -> Result<()> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let mut places: Vec<&str> =
            places.filter(|place| Path::new(place).starts_with(folder)).collect();
        places.reverse();
        for place in places {
            umount2(place, MntFlags::MNT_DETACH).with_context(|| format!("unmount {place}"))?;
        }
        Ok(())
    }

    /// Returns a vbuild command with a fresh environment, whose home is the folder.
    pub(crate) fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.vbuild);
        command
            .env_clear()
            .env("HOME", folder)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("TERM", "dumb")
            .current_dir(folder);
        if let Some(agent) = env::var_os("VBUILD_AGENT") {
            command.env("VBUILD_AGENT", agent);
        }
        command
    }

    /// Returns the options for the accelerator and the size of machines.
    pub(crate) fn machine(&self) -> [&str; 6] {
        ["--accel", &self.accel, "--smp", "1", "--memsize", "512"]
    }
}

/// Enters new user and mount namespaces with the same user and group ids; executed programs have no
/// privileges in them.
fn enter_namespaces() -> Result<()> {
    let (uid, gid) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).context("unshare")?;
    fs::write("/proc/self/setgroups", "deny").context("setgroups")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")).context("uid_map")?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")).context("gid_map")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("make / private")
}

/// Mounts a small filesystem on a folder, so that it can be filled.
pub(crate) fn mount_small(folder: &Path) -> Result<()> {
    let options = format!("size={ROOMY},mode=0755");
    mount(Some("faults"), folder, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("mount a small filesystem on {}", folder.display()))
}

/// Fills a filesystem of [`mount_small`] up to a remaining space.
pub(crate) fn make_full(folder: &Path, room_kib: u64) -> Result<()> {
    for _ in 0..FILL_ATTEMPTS {
        let room = statvfs(folder)?;
        let used = (room.blocks() - room.blocks_free()) * room.fragment_size();
        // A tmpfs of size 0 has no limit.
        let size_kib = (used.div_ceil(1024) + room_kib).max(1);
        if resize(folder, &format!("{size_kib}k")).is_ok() {
            return Ok(());
        }
    }
    bail!("{} could not be made full: somebody writes faster", folder.display())
}

/// Gives a filesystem of [`mount_small`] its space back.
pub(crate) fn make_room(folder: &Path) -> Result<()> {
    resize(folder, ROOMY)
}

fn resize(folder: &Path, size: &str) -> Result<()> {
    let options = format!("size={size}");
    mount(None::<&str>, folder, None::<&str>, MsFlags::MS_REMOUNT, Some(options.as_str()))
        .with_context(|| format!("resize {} to {size}", folder.display()))
}
