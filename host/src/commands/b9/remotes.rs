//! Repositories of shared images on other machines, in B9's own layout: lists them, and pushes and
//! pulls images.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use b9::{
    Repository,
    share_index::{FOLDER, Revision, SUFFIX},
};
use remote::{Listed, Options, Place, Shelf};

use super::{
    outputs,
    repository::{self, Cache, DESCRIPTION_MAX_BYTES, DIGEST_MAX_BYTES},
};
use crate::{
    error::{CommandError, Kind},
    run_context::RunContext,
};

/// The maximum size of an image that is pulled, in bytes: ten times the largest that a distribution
/// offers.
const IMAGE_MAX_BYTES: u64 = 256 << 30;
/// The maximum number of files that are listed in a repository; a revision has two or three.
const FILES_MAX: usize = 10_000;

/// A remote repository of shared images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    /// The id of the repository.
    pub(super) id: String,
    place: Place,
    /// The path of the SSH key, if the repository is one of the configuration.
    key: Option<PathBuf>,
}

impl Remote {
    /// Returns a repository of the configuration.
    pub(super) fn of(repository: &Repository) -> Self {
        let place = Place::Ssh {
            host: format!("{}@{}", repository.ssh_remote_user, repository.ssh_remote_host),
            port: Some(repository.ssh_remote_port),
            folder: repository.remote_path.trim_end_matches('/').to_owned(),
        };
        let key = Some(PathBuf::from(&repository.ssh_priv_key_file));
        Self { id: repository.id.clone(), place, key }
    }

    /// Returns the repository at a place: a directory, s3:// or ssh://.
    ///
    /// # Errors
    /// Fails if the text is not a place.
    pub(super) fn at(place: &str) -> Result<Self, CommandError> {
        let parsed = place.parse().map_err(|error| CommandError::new(Kind::Usage, error))?;
        Ok(Self { id: place.to_owned(), place: parsed, key: None })
    }

    /// The name of the repository's directory in the cache.
    pub(super) fn folder(&self) -> String {
        let name = self.id.replace(['/', ':'], "_");
        match name.as_str() {
            "." | ".." => "_".to_owned(),
            _ => name,
        }
    }
}

/// Checks that a repository can be used, as far as that is possible without connecting to it.
///
/// # Errors
/// Fails if the SSH key is missing, or if the place cannot be used.
pub(super) fn check(repository: &Remote) -> Result<(), CommandError> {
    open(repository).map(drop)
}

fn open(repository: &Remote) -> Result<Shelf, CommandError> {
    if let Some(key) = repository.key.as_ref().filter(|key| !key.is_file()) {
        return Err(CommandError::usage(format!(
            "SSH Key file '{}' for repository '{}' is missing.",
            key.display(),
            repository.id
        )));
    }
    let options = Options { ssh_key: repository.key.clone(), ..Options::default() };
    Shelf::open(repository.place.clone(), &options)
        .map_err(|error| CommandError::new(Kind::Usage, error))
}

fn failed(repository: &Remote) -> impl Fn(remote::RemoteError) -> CommandError {
    let id = repository.id.clone();
    let ssh = matches!(repository.place, Place::Ssh { .. });
    let hint = "the host's key must be known: `ssh HOST` as the same user asks about it once";
    move |error| {
        CommandError::new(Kind::Build, error)
            .context(format!("the repository `{id}` cannot be used"))
            .maybe_hint(ssh.then_some(hint))
    }
}

fn host(error: io::Error) -> CommandError {
    CommandError::new(Kind::Host, error).context("cannot keep what a repository sends")
}

/// Pushes a revision, its image first. An image that the repository already has is not sent again.
///
/// # Errors
/// Fails if the local image is damaged, or if the repository cannot be read or written.
pub(super) async fn push(
    repository: &Remote,
    cache: &Cache,
    revision: &Revision,
    ctx: &RunContext,
) -> Result<(), CommandError> {
    cache.verify(revision)?;
    let shelf = open(repository)?;
    let there = shelf.list(FOLDER, FILES_MAX).await.map_err(failed(repository))?;
    // The description is pushed last, so whoever reads it finds the other files.
    let files = [cache.image(revision), cache.digest_file(revision), cache.description(revision)];
    for (number, path) in files.iter().enumerate() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let unreadable = |error: io::Error| {
            CommandError::new(Kind::Host, error)
                .context(format!("cannot read the shared image `{}`", path.display()))
        };
        let mut file = File::open(path).map_err(unreadable)?;
        let bytes = file.metadata().map_err(unreadable)?.len();
        // Small files are always written. An image with the same name may be another one, if all
        // builds have the same number.
        let listed = number == 0 && there.contains(&Listed { name: name.clone(), bytes });
        if listed && is_same_there(repository, &shelf, &there, cache, revision).await? {
            continue;
        }
        shelf
            .put(&format!("{FOLDER}/{name}"), &mut file, bytes)
            .await
            .map_err(failed(repository))?;
    }
    ctx.say(format!("pushed {} to {}", revision.image_file(), repository.id));
    Ok(())
}

/// Whether an image in the repository, with the right name and size, also has the right digest. If
/// the repository has no digest file for it, the name and the size are enough.
async fn is_same_there(
    repository: &Remote,
    shelf: &Shelf,
    there: &[Listed],
    cache: &Cache,
    revision: &Revision,
) -> Result<bool, CommandError> {
    let name = repository::digest_file(revision);
    if !there.iter().any(|listed| listed.name == name) {
        return Ok(true);
    }
    let told = digest_text(repository, shelf, &name).await?;
    let own = fs::read_to_string(cache.digest_file(revision)).map_err(host)?;
    Ok(told == own)
}

/// Reads which revisions a repository has, and updates the descriptions of them in the cache.
///
/// # Errors
/// Fails if the repository cannot be reached, or if the cache cannot be written.
pub(super) async fn learn(
    repository: &Remote,
    cache: &Cache,
    ctx: &RunContext,
) -> Result<Vec<Revision>, CommandError> {
    let shelf = open(repository)?;
    let there = shelf.list(FOLDER, FILES_MAX).await.map_err(failed(repository))?;
    let suffix = format!(".{SUFFIX}");
    let mut found = Vec::new();
    for listed in there.iter().filter(|listed| listed.name.ends_with(&suffix)) {
        let mut file = tempfile::tempfile().map_err(host)?;
        let path = format!("{FOLDER}/{}", listed.name);
        let came =
            shelf.get(&path, &mut file, DESCRIPTION_MAX_BYTES).await.map_err(failed(repository))?;
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).map_err(host)?;
        let read = match came {
            None => Err("it is not there any more, or larger than it can be".to_owned()),
            Some(_) => file.read_to_string(&mut text).map_err(|error| error.to_string()),
        };
        let revision = read.and_then(|_| Revision::read(&text).map_err(|fault| fault.to_string()));
        match revision {
            // A revision counts only if the repository also has its image.
            Ok(revision) if there.iter().any(|one| one.name == revision.image_file()) => {
                found.push(revision);
            }
            Ok(revision) => {
                ctx.warn(format!("{}: `{}` is missing", repository.id, revision.image_file()));
            }
            Err(reason) => {
                let name = &listed.name;
                ctx.warn(format!(
                    "{}: `{name}` describes no shared image: {reason}",
                    repository.id
                ));
            }
        }
    }
    keep(&cache.of_repository(&repository.folder()), &found).map_err(host)?;
    found.sort();
    Ok(found)
}

/// Writes the descriptions of a repository's revisions to its directory in the cache, and removes
/// those of revisions that the repository no longer has.
fn keep(folder: &Path, revisions: &[Revision]) -> io::Result<()> {
    rooted::make_user_directories(folder)?;
    let known: BTreeSet<String> = revisions.iter().map(Revision::description_file).collect();
    revisions.iter().try_for_each(|revision| {
        outputs::write(&folder.join(revision.description_file()), revision.text().as_bytes())
    })?;
    let suffix = format!(".{SUFFIX}");
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Other processes may be writing here, to files without this suffix.
        let is_old = |name: &str| name.ends_with(&suffix) && !known.contains(name);
        if entry.file_name().to_str().is_some_and(is_old) {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Returns the text of an image's digest file, or an empty text if the file does not exist or is
/// too large. Images that B9 itself has pushed have no such file.
async fn digest_text(
    repository: &Remote,
    shelf: &Shelf,
    name: &str,
) -> Result<String, CommandError> {
    let mut file = tempfile::tempfile().map_err(host)?;
    let path = format!("{FOLDER}/{name}");
    let came = shelf.get(&path, &mut file, DIGEST_MAX_BYTES).await.map_err(failed(repository))?;
    if came.is_none() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).map_err(host)?;
    file.read_to_end(&mut bytes).map_err(host)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Pulls a revision, unless it is in the cache.
///
/// # Errors
/// Fails if the image cannot be read, is incomplete or does not have the digest that the repository
/// names.
pub(super) async fn pull(
    repository: &Remote,
    cache: &Cache,
    revision: &Revision,
    keep: Option<u32>,
    ctx: &RunContext,
) -> Result<(), CommandError> {
    if cache.local_revisions(ctx)?.contains(revision) {
        return Ok(());
    }
    let shelf = open(repository)?;
    let there = shelf.list(FOLDER, FILES_MAX).await.map_err(failed(repository))?;
    let name = revision.image_file();
    let told = there.iter().find(|listed| listed.name == name).map(|listed| listed.bytes);
    let mut file = tempfile::NamedTempFile::new_in(cache.make()?).map_err(host)?;
    let path = format!("{FOLDER}/{name}");
    let came = shelf
        .get(&path, file.as_file_mut(), told.unwrap_or(0).min(IMAGE_MAX_BYTES))
        .await
        .map_err(failed(repository))?;
    if told.is_none() || came != told {
        let text = format!("failed to pull: SharedImageName {:?}", revision.name);
        let reason = match (told, came) {
            (Some(told), Some(came)) => format!("{came} of the {told} bytes of `{name}` came"),
            (Some(told), None) if told > IMAGE_MAX_BYTES => {
                let limit = IMAGE_MAX_BYTES >> 30;
                format!("`{name}` has {told} bytes, more than the {limit} GiB that are pulled")
            }
            (Some(_), None) => format!("`{name}` is larger than it was, or gone"),
            (None, _) => format!("`{name}` is not there"),
        };
        return Err(CommandError::message(Kind::Build, reason).context(text));
    }
    let name = repository::digest_file(revision);
    if there.iter().any(|listed| listed.name == name) {
        let told = digest_text(repository, &shelf, &name).await?;
        let found = repository::digest_of(file.path()).map_err(host)?;
        repository::check_digest(&found, &told).map_err(|reason| {
            CommandError::message(Kind::Build, reason)
                .context(format!("failed to pull: SharedImageName {:?}", revision.name))
                .hint("whoever has the image pushes it again, or removes what is damaged there")
        })?;
    }
    rooted::allow_user_mode(file.as_file(), 0o666).map_err(host)?;
    file.as_file().sync_all().map_err(host)?;
    let (_, path) = file.keep().map_err(|error| host(error.error))?;
    let added = cache.add(revision, &path, keep, ctx);
    if added.is_err() {
        // Under its temporary name the file is of no use.
        let _ = fs::remove_file(&path);
    }
    added
}
