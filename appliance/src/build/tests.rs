//! Complete builds with a mirror on a local port, and a first stage that only reports success.

use std::sync::atomic::{AtomicUsize, Ordering as AtomicOrdering};

use super::*;
use crate::{
    error::ErrorKind,
    events::Silent,
    test_mirror::{TestMirror, signing_key},
};

#[derive(Default)]
struct Fake {
    runs: AtomicUsize,
    fails: bool,
}

impl FirstStage for Fake {
    fn run(
        &self,
        spec: &FirstStageSpec,
        output: &mut dyn FnMut(&[u8]),
    ) -> Result<i32, Box<dyn std::error::Error + Send + Sync>> {
        assert!(spec.kernel.exists() && spec.initrd.exists() && spec.root_image.exists());
        self.runs.fetch_add(1, AtomicOrdering::SeqCst);
        if self.fails {
            output(b"oh no\nvbuild-failed extra 7\n");
            return Ok(1);
        }
        output(b"vbuild-step 1 1 extra\nvbuild-done\n");
        Ok(0)
    }
}

/// Records warnings, and whether the build had to wait.
#[derive(Default)]
struct Log {
    warnings: Vec<String>,
    waited: bool,
}

impl Events for Log {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Warning(text) => self.warnings.push(text.to_owned()),
            Event::Waiting { .. } => self.waited = true,
            _ => {}
        }
    }
}

struct Scene {
    mirror: TestMirror,
    trust: Trust,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let mirror = TestMirror::start();
        let trust = Trust::only(mirror.public_key());
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("agent"), "agent").unwrap();
        Self { mirror, trust, dir }
    }

    fn request(&self, extra: &[&str]) -> Request {
        let mut request =
            Request::new(self.dir.path().join("cache"), self.dir.path().join("agent"));
        request.mirror = Some(self.mirror.server.url());
        request.extra_packages = extra.iter().map(|name| (*name).to_owned()).collect();
        request
    }

    fn build(&self, request: &Request) -> Result<Appliance, Error> {
        build_trusting(&self.trust, request, &Fake::default(), &mut Silent)
    }

    fn leftovers(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("cache/appliance"))
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("new-"))
            .count()
    }
}

#[test]
fn an_appliance_is_made_and_found_again_without_the_network() {
    let scene = Scene::new();
    let request = scene.request(&["extra"]);
    assert!(find(&request).unwrap().is_none());
    let mut log = Log::default();
    let made = build_trusting(&scene.trust, &request, &Fake::default(), &mut log).unwrap();
    assert!(log.warnings.iter().any(|text| text.contains("without `git`")), "{:?}", log.warnings);
    scene.mirror.server.stop();
    let found = find(&request).unwrap().expect("it was made");
    assert_eq!(found.digest(), made.digest());
    assert_eq!(found.kernel_version(), "6.1-cloud");
    assert_eq!(std::fs::read(found.kernel()).unwrap(), b"bzImage");
    let names: Vec<&str> = found.manifest().packages.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["base-files", "extra", "linux-image-6.1-cloud-amd64"]);
    let fs = mkext4::reader::Fs::open(File::open(found.root_image()).unwrap()).unwrap();
    let extra = fs.inode(fs.resolve("/usr/bin/extra").unwrap()).unwrap();
    assert_eq!(extra.mode & 0o7777, 0o4755);
    assert!(fs.resolve("/usr/bin/sh").is_ok(), "/bin is merged");
    assert!(fs.resolve("/usr/lib/modules/6.1-cloud/kernel/fs/overlay.ko").is_ok());
    assert!(fs.resolve("/usr/lib/modules/6.1-cloud/kernel/drivers/usb/usb.ko").is_err());
    assert!(fs.verify().unwrap().is_empty());
    assert_eq!(scene.leftovers(), 0);
}

#[test]
fn the_initramfs_is_the_agents_and_made_once() {
    let scene = Scene::new();
    let request = scene.request(&[]);
    let appliance = scene.build(&request).unwrap();
    let first = appliance.initrd_for(&request.agent).unwrap();
    assert_eq!(first, appliance.initrd_for(&request.agent).unwrap());
    let bytes = std::fs::read(&first).unwrap();
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    // The list is in loading order: dependencies first.
    assert!(holds("/lib/modules/virtio.ko\n/lib/modules/virtio_mmio.ko\n"));
    assert!(!holds("ext4.ko"), "what is built in is not loaded");
    std::fs::write(&request.agent, "another").unwrap();
    assert_ne!(first, appliance.initrd_for(&request.agent).unwrap());
}

#[test]
fn a_changed_package_is_refused() {
    let scene = Scene::new();
    scene
        .mirror
        .server
        .change(&TestMirror::path_of("extra"), |bytes| *bytes.last_mut().unwrap() ^= 1);
    let error = scene.build(&scene.request(&["extra"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HashWrong, "{error:?}");
    assert!(find(&scene.request(&["extra"])).unwrap().is_none());
    // Files that are correct by then are used.
    scene.mirror.publish();
    scene.build(&scene.request(&["extra"])).unwrap();
}

#[test]
fn a_changed_release_file_and_an_unknown_key_are_refused() {
    let mut scene = Scene::new();
    scene.trust = Trust::only(signing_key().into());
    let error = scene.build(&scene.request(&[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SignatureWrong, "{error:?}");
    scene.trust = Trust::only(scene.mirror.public_key());
    scene.mirror.server.change("/debian/dists/bookworm/InRelease", |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text.replacen("Debian", "Debiam", 1).into_bytes();
    });
    let error = scene.build(&scene.request(&[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SignatureWrong, "{error:?}");
}

#[test]
fn without_a_mirror_there_is_an_error_or_what_was_made_before() {
    let scene = Scene::new();
    let mut request = scene.request(&[]);
    let made = scene.build(&request).unwrap();
    scene.mirror.server.stop();
    let error = scene.build(&scene.request(&["extra"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MirrorUnreachable, "{error:?}");
    request.refresh = true;
    let mut log = Log::default();
    let known = build_trusting(&scene.trust, &request, &Fake::default(), &mut log).unwrap();
    assert_eq!(known.digest(), made.digest());
    assert!(log.warnings[0].contains("is used"), "{:?}", log.warnings);
}

#[test]
fn a_refresh_takes_newer_packages_and_gc_removes_the_old_ones() {
    let mut scene = Scene::new();
    let mut request = scene.request(&["extra"]);
    let old = scene.build(&request).unwrap();
    let (old_digest, old_dir) = (old.digest().to_owned(), old.dir().to_owned());
    scene.mirror.add("extra", "2", "Depends: base-files\n", &[("./usr/bin/extra", 0o755, b"new")]);
    scene.mirror.publish();
    assert_eq!(scene.build(&request).unwrap().digest(), old_digest, "nobody asked for news");
    request.refresh = true;
    let new = scene.build(&request).unwrap();
    assert_ne!(new.digest(), old_digest);
    let cache = Cache::new(&request.cache_dir);
    assert_eq!(cache.list().unwrap().len(), 2);
    // An appliance in use is not removed.
    assert_eq!(cache.gc(false, &mut |_| {}).unwrap().appliances, 0);
    drop(old);
    let freed = cache.gc(false, &mut |_| {}).unwrap();
    assert_eq!(freed.appliances, 1);
    assert!(freed.files >= 1, "the old package goes too: {freed:?}");
    assert!(!old_dir.exists());
    request.refresh = false;
    assert_eq!(find(&request).unwrap().unwrap().digest(), new.digest());
    drop(new);
    assert_eq!(cache.gc(true, &mut |_| {}).unwrap().appliances, 1);
    assert!(find(&request).unwrap().is_none());
}

#[test]
fn a_mirror_that_goes_back_to_an_older_state_is_refused() {
    let scene = Scene::new();
    let cache = Cache::new(&scene.dir.path().join("cache"));
    cache.create().unwrap();
    let load = |expiry| {
        let mirror = Mirror::from_url(&scene.mirror.server.url()).unwrap();
        let (mirror, trust, seen) = (&mirror, &scene.trust, &cache.seen_dates());
        let source = Source {
            architecture: architecture::MachineArchitecture::Amd64,
            mirror,
            release: "bookworm",
            trust,
            expiry,
            now: now(),
            seen,
        };
        let client = fetch::client(None, &AptConf::default()).unwrap();
        Archive::load(&client, source, &cache.files_dir(), &mut |_| {})
    };
    load(Expiry::Refuse).unwrap();
    // Genuine and signed, without `Valid-Until`, but older than the previous state.
    scene.mirror.publish_dated("Thu, 01 Jan 2015 00:00:00 UTC");
    let error = Error::Archive(load(Expiry::Refuse).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::SignatureWrong, "{error:?}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains(cache.seen_dates().to_str().unwrap()), "{cause}");
    assert!(cause.contains("01 Jan 2015"), "{cause}");
    // The host's apt accepts old states: this gives a warning, and the newest date is kept.
    assert!(load(Expiry::Warn).unwrap().warnings[0].contains("01 Jan 2015"));
    assert!(load(Expiry::Refuse).is_err());
    // The user confirms the rollback.
    std::fs::remove_file(cache.seen_dates()).unwrap();
    load(Expiry::Refuse).unwrap();
}

#[test]
fn two_builders_make_one_appliance() {
    let scene = Scene::new();
    let request = scene.request(&[]);
    let cache = Cache::new(&request.cache_dir);
    cache.create().unwrap();
    let lock = cache.lock(&mut |_| {}).unwrap();
    let stage = Fake::default();
    let started = std::sync::Barrier::new(3);
    thread::scope(|scope| {
        let builder = || {
            let mut log = Log::default();
            started.wait();
            let made = build_trusting(&scene.trust, &request, &stage, &mut log).unwrap();
            (made.digest().to_owned(), log.waited)
        };
        let (first, second) = (scope.spawn(builder), scope.spawn(builder));
        started.wait();
        drop(lock);
        let (first, second) = (first.join().unwrap(), second.join().unwrap());
        assert_eq!(first.0, second.0);
    });
    assert_eq!(stage.runs.load(AtomicOrdering::SeqCst), 1);
}

#[test]
fn a_held_lock_is_told() {
    let scene = Scene::new();
    let request = scene.request(&[]);
    let cache = Cache::new(&request.cache_dir);
    cache.create().unwrap();
    let mut lock = Some(cache.lock(&mut |_| {}).unwrap());
    let mut waited = false;
    let _second = cache
        .lock(&mut |path| {
            waited = path.ends_with("lock");
            lock = None;
        })
        .unwrap();
    assert!(waited);
}

#[test]
fn a_failing_first_stage_publishes_nothing_and_loses_no_download() {
    let scene = Scene::new();
    let request = scene.request(&["extra"]);
    let failing = Fake { fails: true, ..Fake::default() };
    let error = build_trusting(&scene.trust, &request, &failing, &mut Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FirstStage);
    assert!(error.to_string().ends_with("its last words:\noh no"), "{error}");
    assert!(find(&request).unwrap().is_none());
    assert_eq!(scene.leftovers(), 0);
    let packages = |scene: &Scene| {
        scene.mirror.server.requests().iter().filter(|(path, _)| path.ends_with(".deb")).count()
    };
    let before = packages(&scene);
    // The remnant of a killed build.
    std::fs::create_dir(request.cache_dir.join("appliance/new-1")).unwrap();
    scene.build(&request).unwrap();
    assert_eq!(packages(&scene), before, "everything was there already");
    assert_eq!(scene.leftovers(), 0);
}

#[test]
fn a_broken_transfer_is_resumed() {
    let scene = Scene::new();
    let path = TestMirror::path_of("extra");
    scene.mirror.server.cut(&path, 100);
    scene.build(&scene.request(&["extra"])).unwrap();
    let offsets: Vec<u64> = scene
        .mirror
        .server
        .requests()
        .into_iter()
        .filter(|(requested, _)| *requested == path)
        .map(|(_, offset)| offset)
        .collect();
    assert_eq!(offsets, [0, 100]);
}

#[test]
fn an_appliance_that_cannot_be_read_is_made_again() {
    let scene = Scene::new();
    let request = scene.request(&[]);
    let made = scene.build(&request).unwrap();
    let (dir, initrd) = (made.dir().to_owned(), made.initrd_for(&request.agent).unwrap());
    drop(made);
    let records = std::fs::read_dir(request.cache_dir.join("appliance/requests")).unwrap();
    let record = records.map(|entry| entry.unwrap().path()).next().unwrap();
    let damage = |path: &Path| {
        std::fs::remove_file(path).unwrap();
        std::fs::create_dir(path).unwrap();
    };
    let files = ["manifest.json", "kernel", "modules.cpio", "root.img"];
    for path in files.iter().map(|file| dir.join(file)).chain([record]) {
        damage(&path);
        assert!(find(&request).unwrap().is_none(), "{}", path.display());
        let mut log = Log::default();
        build_trusting(&scene.trust, &request, &Fake::default(), &mut log).unwrap();
        assert!(log.warnings.iter().any(|text| text.contains("made again")), "{:?}", log.warnings);
        assert!(path.is_file() && find(&request).unwrap().is_some(), "{}", path.display());
    }
    damage(&initrd);
    let found = find(&request).unwrap().unwrap();
    assert_eq!(found.initrd_for(&request.agent).unwrap(), initrd);
    assert!(initrd.is_file());
}

#[test]
fn a_damaged_file_of_the_cache_is_fetched_again() {
    let scene = Scene::new();
    let request = scene.request(&["extra"]);
    let failing = Fake { fails: true, ..Fake::default() };
    build_trusting(&scene.trust, &request, &failing, &mut Silent).unwrap_err();
    let files = Cache::new(&request.cache_dir).files_dir();
    for entry in std::fs::read_dir(&files).unwrap() {
        std::fs::write(entry.unwrap().path(), "rubbish").unwrap();
    }
    build_trusting(&scene.trust, &request, &failing, &mut Silent).unwrap_err();
    let paths: Vec<PathBuf> =
        std::fs::read_dir(&files).unwrap().map(|entry| entry.unwrap().path()).collect();
    for path in paths {
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir_all(path.join("below")).unwrap();
        std::fs::create_dir_all(path.with_extension("part")).unwrap();
    }
    scene.build(&request).unwrap();
}

#[test]
fn wrong_requests() {
    let scene = Scene::new();
    let mut request = scene.request(&[]);
    request.release = "buster".to_owned();
    assert_eq!(find(&request).unwrap_err().kind(), ErrorKind::Request);
    let error = scene.build(&scene.request(&["no-such-package"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Request);
    let mut request = scene.request(&[]);
    request.mirror = Some("ftp://x".to_owned());
    assert_eq!(scene.build(&request).unwrap_err().kind(), ErrorKind::Request);
}
