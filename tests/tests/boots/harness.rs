//! The common environment of all tests that boot a guest.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use engine::events::{Event, Observer, SharedObserver};
use machine::accel::Accel;
use session::{BootOptions, Session, SessionError};
use tests::{command, vbuild_binary};
use tokio::sync::watch;
use vbuild::{BuildDir, RunContext, Settings, StageCache, choose_backend, find_or_build_appliance};
use wire::ExitStatus;

/// A function of the shell that prints the path of the disk with a serial.
pub(crate) const DEV: &str = r#"dev() {
    for disk in /sys/block/vd*; do
        if [ "$(cat "$disk/serial")" = "$1" ]; then echo "/dev/${disk##*/}"; return; fi
    done
    echo "no disk $1" >&2; exit 9
}
"#;

/// Records all events for a test.
#[derive(Default)]
pub struct Recorder(Mutex<Vec<Event>>);

impl Observer for Recorder {
    fn event(&self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

impl Recorder {
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    /// The output lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.events()
            .into_iter()
            .filter_map(|event| match event {
                Event::OutputLine { line, .. } => Some(line),
                _ => None,
            })
            .collect()
    }
}

/// The environment of a test.
pub struct Ground {
    pub settings: Settings,
    pub ctx: RunContext,
    pub recorder: Arc<Recorder>,
    pub stop: watch::Sender<bool>,
    pub dir: tempfile::TempDir,
}

/// The environment; `None` after printing the reason why it is unavailable.
pub fn ground(test: &str) -> Option<Ground> {
    let Some(cache) = std::env::var_os("VBUILD_TEST_CACHE") else {
        println!("skipped {test}: VBUILD_TEST_CACHE names no cache with an appliance");
        return None;
    };
    let accel: Accel = std::env::var("VBUILD_TEST_ACCEL")
        .ok()
        .map_or(Accel::Auto, |word| word.parse().expect("VBUILD_TEST_ACCEL"));
    let settings = Settings {
        cache_dir: PathBuf::from(cache),
        accel,
        vcpus: 2,
        memory_mib: 1024,
        network: false,
        script_timeout: Some(Duration::from_secs(300)),
        program: Some(vbuild_binary()),
        // Tests of the cache enable it, in their own directory.
        stage_cache: StageCache { enabled: false, ..StageCache::default() },
        ..Settings::default()
    };
    let recorder = Arc::new(Recorder::default());
    let (stop, cancel) = watch::channel(false);
    let observer: SharedObserver = recorder.clone();
    let dir = tempfile::tempdir().expect("a temporary directory");
    Some(Ground { settings, ctx: RunContext { observer, cancel }, recorder, stop, dir })
}

impl Ground {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A session with only the appliance, and the directory that must outlive it.
    pub async fn boot(&self) -> (Session, BuildDir) {
        self.boot_drives(Vec::new()).await
    }

    /// The same with a raw image, whose serial is `image`.
    pub async fn boot_with(&self, image: &Path) -> (Session, BuildDir) {
        self.boot_drives(vec![drive("image", image.to_owned())]).await
    }

    async fn boot_drives(&self, more: Vec<machine::Drive>) -> (Session, BuildDir) {
        let prepared = self.prepare("test", more).await;
        let session = prepared.boot(&BootOptions::default()).await;
        let session = session.unwrap_or_else(|e| panic!("{e}\n{}", e.console_tail().unwrap_or("")));
        (session, prepared.dir)
    }

    /// A machine with the appliance and additional drives, which a test can modify before booting.
    pub async fn prepare(&self, name: &str, more: Vec<machine::Drive>) -> Prepared {
        let dir = BuildDir::of(&self.settings).unwrap();
        let backend = choose_backend(&self.settings, &self.ctx).await.unwrap();
        let files =
            find_or_build_appliance(&self.settings, &backend, &dir, &self.ctx).await.unwrap();
        let root =
            machine::Drive { read_only: true, ..drive(engine::ROOT_SERIAL, files.root.clone()) };
        let spec = machine::MachineSpec {
            architecture: self.settings.architecture,
            name: name.into(),
            vcpus: self.settings.vcpus,
            memory_mib: self.settings.memory_mib,
            kernel: files.kernel,
            initrd: files.initrd,
            cmdline: vec![format!("vbuild.root={}", engine::ROOT_SERIAL)],
            drives: std::iter::once(root).chain(more).collect(),
            on_guest_connect: Arc::new(|_| machine::ConnectDecision::Refuse),
            verbose_console: false,
            start: machine::Start::Boot,
            run_dir: dir.path().to_owned(),
        };
        Prepared { backend: backend.backend, spec, dir }
    }
}

/// A machine that is ready to boot.
pub struct Prepared {
    pub backend: Arc<dyn machine::Backend>,
    pub spec: machine::MachineSpec,
    pub dir: BuildDir,
}

impl Prepared {
    pub async fn boot(&self, options: &BootOptions) -> Result<Session, SessionError> {
        session::boot(self.backend.as_ref(), self.spec.clone(), options).await
    }

    /// Boots the machine; fails if it does not boot.
    pub async fn must_boot(&self) -> Session {
        let session = self.boot(&BootOptions::default()).await;
        session.unwrap_or_else(|e| panic!("{e}\n{}", e.console_tail().unwrap_or("")))
    }

    /// The process of the machine, a child of this test.
    pub fn process(&self) -> u32 {
        children(&self.spec.name).pop().expect("the machine has a process")
    }

    /// The other processes that handle guest data: that of the vsock device under QEMU.
    pub fn device_processes(&self) -> Vec<u32> {
        children("vhost-vsock")
    }

    /// Whether vbuild's own VMM runs it.
    pub fn is_own(&self) -> bool {
        self.backend.name() == "microvm"
    }
}

/// Children of this process whose command lines contain this text.
fn children(text: &str) -> Vec<u32> {
    let me = format!("PPid:\t{}\n", std::process::id());
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let found = entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse::<u32>().ok()?;
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        (line.contains(text) && status.contains(&me)).then_some(pid)
    });
    found.collect()
}

/// A writable raw drive that is discarded on a crash.
pub fn drive(serial: &str, path: PathBuf) -> machine::Drive {
    machine::Drive {
        serial: machine::DriveSerial::new(serial).unwrap(),
        path,
        format: machine::DriveFormat::Raw,
        below: Vec::new(),
        read_only: false,
        durable: false,
        block_size: machine::BlockSize::B512,
    }
}

/// Runs a shell script in the guest, which must succeed, and returns its output.
pub async fn shell(session: &Session, script: &str) -> String {
    let output = command(session, &["bash", "-euc", script]).output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status, ExitStatus::Code(0), "{script}\n{out}\n{err}");
    out
}

/// The value of a line in a `status` file.
pub fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}:\n{status}")).trim().to_owned()
}
