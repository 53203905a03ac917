//! Tests of revisions in temporary directories.

use std::sync::{Arc, Mutex};

use b9::types::{FileSystem, ImageType};
use engine::events::{Event, Observer};

use super::*;

#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Observer for Warnings {
    fn event(&self, event: &Event) {
        if let Event::Warning { text } = event {
            self.0.lock().unwrap().push(text.clone());
        }
    }
}

fn ctx() -> (RunContext, Arc<Warnings>) {
    let warnings = Arc::new(Warnings::default());
    let observer = warnings.clone();
    (RunContext { observer, cancel: tokio::sync::watch::channel(false).1 }, warnings)
}

/// Rows 140 to 142, 144 and 147.
#[test]
fn revisions_are_added_and_retained() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path().join("cache"));
    let (ctx, warnings) = ctx();
    assert_eq!(cache.local_revisions(&ctx).unwrap(), []);
    for second in 1..=3 {
        let image = folder.path().join("made.raw");
        fs::write(&image, format!("image {second}")).unwrap();
        let date = format!("2030-01-02-03:04:0{second}");
        let id = format!("0A-0{second}");
        let revision = Revision::new("base", &date, &id, ImageType::Raw, FileSystem::Ext4);
        cache.add(&revision, &image, Some(2), &ctx).unwrap();
        assert!(!image.exists());
    }
    let ids = |all: &[Revision]| all.iter().map(|r| r.build_id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&cache.local_revisions(&ctx).unwrap()), ["0A-02", "0A-03"]);
    let newest = cache.newest("base", &ctx).unwrap();
    assert_eq!(fs::read_to_string(cache.image(&newest)).unwrap(), "image 3");
    let local = folder.path().join("cache/local-repo/b9_shared_images");
    assert_eq!(fs::read_dir(&local).unwrap().count(), 6);
    // A description without an image, and one that is none.
    fs::remove_file(local.join("base_0A-02.raw")).unwrap();
    fs::write(local.join("odd.b9si"), "SharedImage").unwrap();
    assert_eq!(ids(&cache.local_revisions(&ctx).unwrap()), ["0A-03"]);
    assert!(local.join("odd.b9si").exists());
    let told = warnings.0.lock().unwrap().clone();
    assert!(told[0].contains("odd.b9si` describes no shared image"), "{told:?}");
    let error = cache.newest("other", &ctx).unwrap_err().to_string();
    assert_eq!(error, "Nothing found for SharedImageName \"other\".");
}

fn revision(number: u64) -> Revision {
    let (date, id) = (format!("2030-01-02-03:04:{number:06}"), format!("{number:06}"));
    Revision::new("base", &date, &id, ImageType::Raw, FileSystem::Ext4)
}

/// Revisions of one content take its room once, and go one by one.
#[test]
fn one_content_is_one_object() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path().join("cache"));
    let (ctx, _) = ctx();
    for number in 1..=3 {
        let image = folder.path().join("made.raw");
        fs::write(&image, "the same").unwrap();
        cache.add(&revision(number), &image, None, &ctx).unwrap();
    }
    let inode = |number| fs::metadata(cache.image(&revision(number))).unwrap().ino();
    assert!(inode(1) == inode(2) && inode(2) == inode(3));
    let object = cache.object(&Digest::of(b"the same"));
    assert_eq!(fs::metadata(&object).unwrap().nlink(), 4);
    // An object that is damaged is not used again.
    fs::remove_file(&object).unwrap();
    fs::write(&object, "damaged!").unwrap();
    let image = folder.path().join("made.raw");
    fs::write(&image, "the same").unwrap();
    cache.add(&revision(4), &image, Some(1), &ctx).unwrap();
    assert_eq!(fs::read_to_string(cache.image(&revision(4))).unwrap(), "the same");
    assert_eq!(fs::metadata(&object).unwrap().nlink(), 2);
    cache.verify(&revision(4)).unwrap();
    let last = folder.path().join("last.raw");
    fs::write(&last, "another").unwrap();
    cache.add(&revision(5), &last, Some(1), &ctx).unwrap();
    assert!(!object.exists(), "nobody has it any more");
}

/// A build that begins with a revision keeps it, whatever is shared meanwhile.
#[test]
fn what_a_build_holds_stays() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path().join("cache"));
    let (ctx, _) = ctx();
    let add = |number: u64| {
        let image = folder.path().join("made.raw");
        fs::write(&image, number.to_string()).unwrap();
        cache.add(&revision(number), &image, Some(1), &ctx).unwrap();
    };
    add(1);
    let (held, file) = cache.hold_newest("base", &ctx).unwrap();
    add(2);
    assert_eq!(held, revision(1));
    assert!(cache.image(&held).is_file() && cache.description(&held).is_file());
    drop(file);
    add(3);
    assert_eq!(cache.local_revisions(&ctx).unwrap(), [revision(3)]);
}

/// Processes that share into one folder at once, and are killed at any moment.
#[test]
fn builds_share_at_once_and_are_killed() {
    const INNER: &str = "VBUILD_TEST_B9_SHARES";
    const NAME: &str = "commands::b9::repository::tests::builds_share_at_once_and_are_killed";
    const BYTES: usize = 1 << 20;
    let (ctx, _) = ctx();
    if let Some(folder) = std::env::var_os(INNER).map(PathBuf::from) {
        let cache = Cache::new(folder.join("cache"));
        let own = u64::from(std::process::id()) * 1000;
        for number in own..own + 1000 {
            let image = folder.join(format!("made-{number}"));
            let fill = u8::try_from(number / 3 % 251).unwrap();
            fs::write(&image, vec![fill; BYTES]).unwrap();
            cache.add(&revision(number), &image, Some(3), &ctx).unwrap();
            cache.hold_newest("base", &ctx).unwrap();
        }
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path().join("cache"));
    let start = || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME])
            .env(INNER, folder.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut children = [start(), start()];
    for round in 0..16_u64 {
        std::thread::sleep(Duration::from_millis(60 + 17 * (round % 7)));
        let number = usize::try_from(round % 2).unwrap();
        let mut killed = std::mem::replace(&mut children[number], start());
        assert!(killed.try_wait().unwrap().is_none(), "it has failed by itself");
        killed.kill().unwrap();
        killed.wait().unwrap();
        // Each that is told, and stays while it is looked at, is whole.
        if let Ok((revision, file)) = cache.hold_newest("base", &ctx) {
            assert_eq!(file.metadata().unwrap().len(), BYTES as u64);
            cache.verify(&revision).unwrap();
        }
    }
    for mut child in children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let revisions = cache.local_revisions(&ctx).unwrap();
    assert!(!revisions.is_empty());
    for revision in &revisions {
        cache.verify(revision).unwrap();
    }
    cache.retain("base", 1, &ctx).unwrap();
    assert_eq!(cache.local_revisions(&ctx).unwrap().len(), 1);
}
