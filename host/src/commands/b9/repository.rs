//! The local cache of shared images, in B9's own layout, so that both programs can use one
//! directory:
//!
//! ```text
//! CACHE/local-repo/b9_shared_images/NAME_BUILDID.qcow2         the image, a link to its object
//!                                   NAME_BUILDID.qcow2.sha256  its digest
//!                                   NAME_BUILDID.b9si          its description
//!                  objects/ab/cdef…                            images, named by their digests
//! CACHE/remote-repos/ID/b9_shared_images/*.b9si                what a repository was seen to have
//! ```
//!
//! An image is added before its description and removed after it, and both appear under their names
//! atomically. So every reader of a description finds a complete image, and builds that share
//! images in the same directory need no lock. A build locks the image from which it starts while it
//! reads it; the revision is not removed meanwhile.
//!
//! Revisions with the same content are hard links to one object. On a filesystem without hard
//! links, each is a file of its own.

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use b9::{
    share_index::{self, FOLDER, Revision, SUFFIX},
    types::ImageType,
};
use checked::Digest;

use super::{outputs, text::read_text};
use crate::{
    error::{CommandError, Kind},
    run_context::RunContext,
};

/// The suffix of digest files.
const DIGEST_SUFFIX: &str = ".sha256";
/// The maximum size of a digest file in bytes; it contains a digest and a name.
pub(super) const DIGEST_MAX_BYTES: u64 = 4 << 10;
/// The age from which a file without a description is removed: it was left behind by a process that
/// was killed, and no running process still works on it.
const LEFT_BEHIND: Duration = Duration::from_secs(24 * 60 * 60);
/// The maximum size of a description in bytes; it has two names, a date and a few words.
pub(super) const DESCRIPTION_MAX_BYTES: u64 = 64 << 10;

/// The local cache of shared images.
#[derive(Debug, Clone)]
pub(super) struct Cache(PathBuf);

impl Cache {
    /// Returns the cache at a path.
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The directory of the local shared images.
    fn local(&self) -> PathBuf {
        self.0.join("local-repo").join(FOLDER)
    }

    /// The directory with the descriptions of a repository's revisions.
    pub(super) fn of_repository(&self, id: &str) -> PathBuf {
        self.0.join("remote-repos").join(id).join(FOLDER)
    }

    /// Returns the local revisions whose images exist.
    ///
    /// # Errors
    /// Fails if the directory cannot be read.
    pub(super) fn local_revisions(&self, ctx: &RunContext) -> Result<Vec<Revision>, CommandError> {
        let folder = self.local();
        let mut revisions = read_descriptions(&folder, ctx)?;
        revisions.retain(|revision| folder.join(revision.image_file()).is_file());
        Ok(revisions)
    }

    /// Returns the revisions that a repository had when it was last read.
    ///
    /// # Errors
    /// Fails if the directory cannot be read.
    pub(super) fn known_revisions(
        &self,
        id: &str,
        ctx: &RunContext,
    ) -> Result<Vec<Revision>, CommandError> {
        read_descriptions(&self.of_repository(id), ctx)
    }

    /// Returns the newest local revision of a name.
    ///
    /// # Errors
    /// Fails if the name has no local revision.
    pub(super) fn newest(&self, name: &str, ctx: &RunContext) -> Result<Revision, CommandError> {
        let revisions = self.local_revisions(ctx)?;
        share_index::newest(&revisions, name).cloned().ok_or_else(|| {
            CommandError::usage(format!("Nothing found for SharedImageName {name:?}."))
                .hint("`vbuild b9 list` shows what is here; `vbuild b9 pull NAME` gets an image")
        })
    }

    /// Returns the newest local revision of a name, and its locked image, which is not removed as
    /// long as the file is open.
    ///
    /// # Errors
    /// Fails if the name has no local revision, or if the image cannot be opened.
    pub(super) fn hold_newest(
        &self,
        name: &str,
        ctx: &RunContext,
    ) -> Result<(Revision, File), CommandError> {
        loop {
            let revision = self.newest(name, ctx)?;
            let path = self.image(&revision);
            let failed = |error: io::Error| {
                CommandError::new(Kind::Host, error)
                    .context(format!("cannot use the shared image `{}`", path.display()))
            };
            let file = match File::open(&path) {
                // The image was removed meanwhile, after a newer one was added.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(failed)?,
            };
            file.lock_shared().map_err(failed)?;
            // An image that was removed before it was locked is of no use: others do not see it any
            // more.
            let links = file.metadata().map_err(failed)?.nlink();
            if links > 0 && path.is_file() {
                return Ok((revision, file));
            }
        }
    }

    /// The path of a local revision's image.
    pub(super) fn image(&self, revision: &Revision) -> PathBuf {
        self.local().join(revision.image_file())
    }

    /// The path of a local revision's description.
    pub(super) fn description(&self, revision: &Revision) -> PathBuf {
        self.local().join(revision.description_file())
    }

    /// Creates the directory of the local shared images. An image that is about to be added is
    /// written there, so that it is on the right filesystem.
    ///
    /// # Errors
    /// Fails if the directory cannot be created.
    pub(super) fn make(&self) -> Result<PathBuf, CommandError> {
        let folder = self.local();
        rooted::make_user_directories(&folder).map_err(|error| {
            CommandError::new(Kind::Host, error)
                .context(format!("cannot make the folder of shared images {}", folder.display()))
                .hint("`--repo-cache DIR` names another one")
        })?;
        Ok(folder)
    }

    /// Moves a finished image into the cache, and removes revisions of its name beyond the `keep`
    /// newest ones.
    ///
    /// # Errors
    /// Fails if the image cannot be moved, or if a file cannot be written or removed.
    pub(super) fn add(
        &self,
        revision: &Revision,
        image: &Path,
        keep: Option<u32>,
        ctx: &RunContext,
    ) -> Result<(), CommandError> {
        let place = self.make()?.join(revision.image_file());
        let failed = |error: io::Error| {
            CommandError::new(Kind::Host, error)
                .context(format!("cannot share the image as `{}`", place.display()))
        };
        let digest = digest_of(image).map_err(failed)?;
        self.take(image, &place, &digest).map_err(failed)?;
        self.write_digest(revision, &digest).map_err(failed)?;
        let text = revision.text();
        let description = self.description(revision);
        outputs::write(&description, text.as_bytes()).map_err(failed)?;
        match keep {
            Some(keep) => self.retain(&revision.name, keep, ctx).map(drop),
            None => Ok(()),
        }
    }

    /// Moves an image to its name: as a link to its object, if there is one already.
    fn take(&self, image: &Path, place: &Path, digest: &Digest) -> io::Result<()> {
        let object = self.object(digest);
        // A damaged object is not used, and the image takes its place.
        if digest_of(&object).is_ok_and(|found| found == *digest) {
            if link_over(&object, place).is_ok() {
                return fs::remove_file(image);
            }
        } else {
            let _ = fs::remove_file(&object);
        }
        take(image, place)?;
        // Without an object, the next image of this content only takes space of its own.
        let _ = rooted::make_user_directories(outputs::folder_of(&object));
        let _ = fs::hard_link(place, &object);
        Ok(())
    }

    fn objects(&self) -> PathBuf {
        self.0.join("local-repo/objects")
    }

    fn object(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        let (folder, rest) = name.split_at(2);
        self.objects().join(folder).join(rest)
    }

    /// The path of a local revision's digest file.
    pub(super) fn digest_file(&self, revision: &Revision) -> PathBuf {
        self.local().join(digest_file(revision))
    }

    fn write_digest(&self, revision: &Revision, digest: &Digest) -> io::Result<()> {
        let text = format!("{digest}  {}\n", revision.image_file());
        outputs::write(&self.digest_file(revision), text.as_bytes())
    }

    /// Checks that an image has the digest that it had when it was shared. An image that B9 has
    /// shared has no digest file; it is written now.
    ///
    /// # Errors
    /// Fails if the image is damaged or cannot be read.
    pub(super) fn verify(&self, revision: &Revision) -> Result<(), CommandError> {
        let image = self.image(revision);
        let failed = |error: io::Error| {
            CommandError::new(Kind::Host, error)
                .context(format!("cannot read the shared image `{}`", image.display()))
        };
        let found = digest_of(&image).map_err(failed)?;
        let told = match read_text(&self.digest_file(revision), DIGEST_MAX_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.write_digest(revision, &found).map_err(failed);
            }
            read => read.map_err(failed)?,
        };
        check_digest(&found, &told).map_err(|reason| {
            CommandError::message(Kind::Host, reason)
                .context(format!("the shared image `{}` is damaged", image.display()))
                .hint("build it again, or pull it from a repository")
        })
    }

    /// Removes revisions of a name beyond the `keep` newest ones, except for those that builds have
    /// locked. Returns the number of removed revisions.
    ///
    /// # Errors
    /// Fails if the revisions cannot be read or removed.
    pub(super) fn retain(
        &self,
        name: &str,
        keep: u32,
        ctx: &RunContext,
    ) -> Result<usize, CommandError> {
        let revisions = self.local_revisions(ctx)?;
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        let mut count = 0;
        for revision in share_index::superfluous(&revisions, name, keep) {
            let image = self.image(revision);
            // The lock is held during the removal. Builds that start from the image hold it too:
            // see `hold_newest`.
            let held = File::open(&image);
            if held
                .as_ref()
                .is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
            {
                continue;
            }
            for path in [self.description(revision), self.digest_file(revision), image] {
                remove(&path)?;
            }
            count += 1;
        }
        self.remove_unused_objects();
        Ok(count)
    }

    /// Removes objects that no revision links to.
    fn remove_unused_objects(&self) {
        let folders = fs::read_dir(self.objects()).into_iter().flatten().flatten();
        let objects = folders.filter_map(|folder| fs::read_dir(folder.path()).ok()).flatten();
        for object in objects.flatten() {
            if object.metadata().is_ok_and(|metadata| metadata.nlink() == 1) {
                let _ = fs::remove_file(object.path());
            }
        }
    }

    /// Removes what a killed build, pull or push has left behind: images and digest files without a
    /// description, and temporary files.
    ///
    /// # Errors
    /// Fails if the descriptions cannot be read, or if a file cannot be removed.
    pub(super) fn sweep(&self, ctx: &RunContext) -> Result<(), CommandError> {
        let told: BTreeSet<String> = read_descriptions(&self.local(), ctx)?
            .iter()
            .flat_map(|revision| [revision.image_file(), digest_file(revision)])
            .collect();
        let entries = fs::read_dir(self.local()).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            let of_image = name.strip_suffix(DIGEST_SUFFIX).unwrap_or(&name);
            let is_image = [ImageType::Raw, ImageType::QCow2, ImageType::Vmdk].iter().any(|kind| {
                of_image.contains('_') && of_image.ends_with(&format!(".{}", kind.name()))
            });
            // An unreadable description may belong to an image, so files beside it are kept.
            let described = of_image
                .rsplit_once('.')
                .is_some_and(|(stem, _)| self.local().join(format!("{stem}.{SUFFIX}")).exists());
            let is_old = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > LEFT_BEHIND));
            let is_ours = name.starts_with(TEMPORARY) || is_image && !told.contains(&name);
            if is_ours && is_old && !described {
                remove(&entry.path())?;
            }
        }
        self.remove_unused_objects();
        Ok(())
    }
}

/// The prefix of the names of files that are being written.
const TEMPORARY: &str = ".tmp";

/// The name of a revision's digest file.
pub(super) fn digest_file(revision: &Revision) -> String {
    format!("{}{DIGEST_SUFFIX}", revision.image_file())
}

/// Computes the digest of a file.
pub(super) fn digest_of(path: &Path) -> io::Result<Digest> {
    Digest::of_reader(&mut File::open(path)?)
}

/// Checks that the text of a digest file contains the digest that was found.
///
/// # Errors
/// Returns the reason, if the text contains another digest or none.
pub(super) fn check_digest(found: &Digest, text: &str) -> Result<(), String> {
    match text.split_whitespace().next().map(str::parse::<Digest>) {
        Some(Ok(told)) if told == *found => Ok(()),
        Some(Ok(told)) => Err(format!("its SHA-256 is {found}, and not {told} as was noted")),
        _ => Err("the file with its SHA-256 holds none".to_owned()),
    }
}

fn remove(path: &Path) -> Result<(), CommandError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CommandError::new(Kind::Host, error)
                .context(format!("cannot remove `{}`", path.display())))
        }
        _ => Ok(()),
    }
}

/// Creates a hard link, which replaces an existing file of that name.
fn link_over(from: &Path, to: &Path) -> io::Result<()> {
    let folder = tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(outputs::folder_of(to))?;
    let link = folder.path().join("link");
    fs::hard_link(from, &link)?;
    fs::rename(&link, to)
}

/// Moves a file, also to another filesystem. It appears there complete or not at all.
fn take(from: &Path, to: &Path) -> io::Result<()> {
    // The image must be complete on the disk before its description appears, even after a power
    // failure.
    File::open(from)?.sync_all()?;
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
        done => return done,
    }
    let folder = outputs::folder_of(to);
    let mut copy = tempfile::NamedTempFile::new_in(folder)?;
    io::copy(&mut File::open(from)?, copy.as_file_mut())?;
    copy.as_file().set_permissions(fs::metadata(from)?.permissions())?;
    copy.as_file().sync_all()?;
    copy.persist(to)?;
    fs::remove_file(from)
}

/// Reads the descriptions in a directory. One that cannot be parsed causes a warning, and is kept.
fn read_descriptions(folder: &Path, ctx: &RunContext) -> Result<Vec<Revision>, CommandError> {
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
        let read = read_text(&path, DESCRIPTION_MAX_BYTES).map_err(|e| e.to_string());
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
mod tests;
