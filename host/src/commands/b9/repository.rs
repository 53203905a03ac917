//! Shared images that are here, in B9's own layout, so that both programs can use one folder:
//!
//! ```text
//! CACHE/local-repo/b9_shared_images/NAME_BUILDID.qcow2    the image
//!                                   NAME_BUILDID.b9si     what it is
//! CACHE/remote-repos/ID/b9_shared_images/*.b9si           what a repository was seen to have
//! ```
//!
//! An image comes before its description and goes after it, and both take their names at
//! once. So whoever reads a description finds a whole image, and builds that share into one
//! folder need no lock.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use b9::share_index::{self, FOLDER, Revision, SUFFIX};

use super::outputs;
use crate::{
    error::{CommandError, Kind},
    pipeline::Ctx,
};

/// The largest description: it has two names, a date and a few words.
pub(super) const DESCRIPTION_MAX_BYTES: u64 = 64 << 10;

/// The folder of shared images.
#[derive(Debug, Clone)]
pub(super) struct Cache(PathBuf);

impl Cache {
    /// At a path.
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where shared images are.
    fn local(&self) -> PathBuf {
        self.0.join("local-repo").join(FOLDER)
    }

    /// Where it is kept what a repository has.
    pub(super) fn of_repository(&self, id: &str) -> PathBuf {
        self.0.join("remote-repos").join(id).join(FOLDER)
    }

    /// The revisions that are here, with their images.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(super) fn local_revisions(&self, ctx: &Ctx) -> Result<Vec<Revision>, CommandError> {
        let folder = self.local();
        let mut revisions = read_descriptions(&folder, ctx)?;
        revisions.retain(|revision| folder.join(revision.image_file()).is_file());
        Ok(revisions)
    }

    /// The revisions that a repository was seen to have.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(super) fn known_revisions(
        &self,
        id: &str,
        ctx: &Ctx,
    ) -> Result<Vec<Revision>, CommandError> {
        read_descriptions(&self.of_repository(id), ctx)
    }

    /// The newest revision of a name that is here.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn newest(&self, name: &str, ctx: &Ctx) -> Result<Revision, CommandError> {
        let revisions = self.local_revisions(ctx)?;
        share_index::newest(&revisions, name).cloned().ok_or_else(|| {
            CommandError::usage(format!("Nothing found for SharedImageName {name:?}."))
                .hint("`vbuild b9 list` shows what is here; `vbuild b9 pull NAME` gets an image")
        })
    }

    /// The image of a revision that is here.
    pub(super) fn image(&self, revision: &Revision) -> PathBuf {
        self.local().join(revision.image_file())
    }

    /// Its description.
    pub(super) fn description(&self, revision: &Revision) -> PathBuf {
        self.local().join(revision.description_file())
    }

    /// The folder for an image that is about to be added, on the filesystem of its place.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn make(&self) -> Result<PathBuf, CommandError> {
        let folder = self.local();
        rooted::make_user_directories(&folder).map_err(|error| {
            CommandError::new(Kind::Host, error)
                .context(format!("cannot make the folder of shared images {}", folder.display()))
                .hint("`--repo-cache DIR` names another one")
        })?;
        Ok(folder)
    }

    /// Takes a finished image over, and removes revisions of its name beyond those that are
    /// kept.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn add(
        &self,
        revision: &Revision,
        image: &Path,
        keep: Option<u32>,
        ctx: &Ctx,
    ) -> Result<(), CommandError> {
        let folder = self.make()?;
        let place = folder.join(revision.image_file());
        let failed = |error: io::Error| {
            CommandError::new(Kind::Host, error)
                .context(format!("cannot share the image as `{}`", place.display()))
        };
        take(image, &place).map_err(failed)?;
        let text = revision.text();
        let description = self.description(revision);
        outputs::write(&description, text.as_bytes()).map_err(failed)?;
        match keep {
            Some(keep) => self.retain(&revision.name, keep, ctx).map(drop),
            None => Ok(()),
        }
    }

    /// Removes the older revisions of a name; gives how many.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub(super) fn retain(&self, name: &str, keep: u32, ctx: &Ctx) -> Result<usize, CommandError> {
        let revisions = self.local_revisions(ctx)?;
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        let old = share_index::superfluous(&revisions, name, keep);
        for revision in &old {
            for path in [self.description(revision), self.image(revision)] {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(CommandError::new(Kind::Host, error)
                            .context(format!("cannot remove `{}`", path.display())));
                    }
                    _ => {}
                }
            }
        }
        Ok(old.len())
    }
}

/// Moves a file, to another filesystem too, where it appears whole.
fn take(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
        done => return done,
    }
    let folder = outputs::folder_of(to);
    let mut copy = tempfile::NamedTempFile::new_in(folder)?;
    io::copy(&mut fs::File::open(from)?, copy.as_file_mut())?;
    copy.as_file().set_permissions(fs::metadata(from)?.permissions())?;
    copy.as_file().sync_all()?;
    copy.persist(to)?;
    fs::remove_file(from)
}

/// The descriptions in a folder. One that cannot be understood is told, and stays.
fn read_descriptions(folder: &Path, ctx: &Ctx) -> Result<Vec<Revision>, CommandError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(CommandError::new(Kind::Host, error)
                .context(format!("cannot list the shared images in {}", folder.display())));
        }
    };
    let mut revisions = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != SUFFIX) {
            continue;
        }
        let read = super::read_text(&path, DESCRIPTION_MAX_BYTES).map_err(|e| e.to_string());
        match read.and_then(|text| Revision::read(&text).map_err(|fault| fault.to_string())) {
            Ok(revision) => revisions.push(revision),
            Err(reason) => {
                ctx.warn(format!("`{}` describes no shared image: {reason}", path.display()));
            }
        }
    }
    revisions.sort();
    Ok(revisions)
}

#[cfg(test)]
mod tests {
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

    fn ctx() -> (Ctx, Arc<Warnings>) {
        let warnings = Arc::new(Warnings::default());
        let observer = warnings.clone();
        (Ctx { observer, cancel: tokio::sync::watch::channel(false).1 }, warnings)
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
        assert_eq!(fs::read_dir(&local).unwrap().count(), 4);
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
}
