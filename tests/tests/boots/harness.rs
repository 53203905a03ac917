//! What every test that boots a guest starts from.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use engine::events::{Event, Observer, SharedObserver};
use machine::accel::Accel;
use session::{BootOptions, Session};
use tokio::sync::watch;
use vbuild::{
    appliance, backend,
    build_dir::BuildDir,
    pipeline::{self, Ctx},
    settings::{Settings, StageCache},
};

/// Keeps every event for a test to look at.
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

    /// The lines of output so far.
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

/// The ground that a test stands on.
pub struct Ground {
    pub settings: Settings,
    pub ctx: Ctx,
    pub recorder: Arc<Recorder>,
    pub stop: watch::Sender<bool>,
    pub dir: tempfile::TempDir,
}

/// The ground, or `None` with the reason printed.
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
        // Tests of the cache turn it on, in a directory of their own.
        stage_cache: StageCache { enabled: false, ..StageCache::default() },
        ..Settings::default()
    };
    let recorder = Arc::new(Recorder::default());
    let (stop, cancel) = watch::channel(false);
    let observer: SharedObserver = recorder.clone();
    let dir = tempfile::tempdir().expect("a temporary directory");
    Some(Ground { settings, ctx: Ctx { observer, cancel }, recorder, stop, dir })
}

/// The binary that cargo built beside this test.
pub fn vbuild_binary() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let binary = test.ancestors().nth(2).expect("target/debug/deps/boots").join("vbuild");
    assert!(binary.is_file(), "{} is missing: run `cargo build`", binary.display());
    binary
}

impl Ground {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A session with a bare appliance, and what must live as long.
    pub async fn boot(&self) -> (Session, BuildDir) {
        self.boot_drives(Vec::new()).await
    }

    /// The same with a raw image, whose serial is `image`.
    pub async fn boot_with(&self, image: &Path) -> (Session, BuildDir) {
        let drive = machine::Drive {
            serial: machine::DriveSerial::new("image").unwrap(),
            path: image.to_owned(),
            format: machine::DriveFormat::Raw,
            read_only: false,
            durable: false,
            block_size: machine::BlockSize::B512,
        };
        self.boot_drives(vec![drive]).await
    }

    async fn boot_drives(&self, more: Vec<machine::Drive>) -> (Session, BuildDir) {
        let build_dir = pipeline::make_build_dir(&self.settings).unwrap();
        let backend = backend::choose(&self.settings, &self.ctx).await.unwrap();
        let files = appliance::find_or_build(&self.settings, &backend, &build_dir, &self.ctx)
            .await
            .unwrap();
        let root = machine::Drive {
            serial: machine::DriveSerial::new(engine::ROOT_SERIAL).unwrap(),
            path: files.root,
            format: machine::DriveFormat::Raw,
            read_only: true,
            durable: false,
            block_size: machine::BlockSize::B512,
        };
        let drives = std::iter::once(root).chain(more).collect();
        let spec = machine::MachineSpec {
            name: "test".into(),
            vcpus: self.settings.vcpus,
            memory_mib: self.settings.memory_mib,
            kernel: files.kernel,
            initrd: files.initrd,
            cmdline: vec![format!("vbuild.root={}", engine::ROOT_SERIAL)],
            drives,
            on_guest_connect: Arc::new(|_| machine::ConnectDecision::Refuse),
            verbose_console: false,
            run_dir: build_dir.path().to_owned(),
        };
        let session = session::boot(backend.backend.as_ref(), spec, &BootOptions::default()).await;
        (session.unwrap_or_else(|e| panic!("{e}\n{}", e.console_tail().unwrap_or(""))), build_dir)
    }
}

/// Whether any process of this user has a word in its command line.
pub fn process_with(word: &str) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else { return false };
    entries.flatten().any(|entry| {
        entry.file_name().to_str().is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()))
            && std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| line.windows(word.len()).any(|part| part == word.as_bytes()))
    })
}

/// The names in a directory, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .map(|entries| {
            entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        })
        .unwrap_or_default();
    names.sort();
    names
}
