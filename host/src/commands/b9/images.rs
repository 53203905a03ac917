//! Artifacts with images: the images from which they start, their plans, and the delivery of
//! finished images.

use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
};

use b9::{
    Images, LogLevel, Output, Request, Share,
    share_index::Revision,
    types::{
        FileSystem, Image, ImageDestination, ImageSource, ImageType, Partition, SharedDirectory,
        VmScript,
    },
};
use base_image::{AllowedBacking, BaseImage, Format};
use plan::{DiskBase, Plan};

use super::{
    configuration::Configuration,
    host_files::HostFiles,
    outputs,
    place::RunPlace,
    recipe::{self, Artifact, Recipe},
    repository::Cache,
    turns::Voice,
};
use crate::{
    build::bases,
    error::{CommandError, Kind},
    run_context::RunContext,
    settings::Settings,
};

/// The context that all artifacts of a run share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) configuration: &'a Configuration<'a>,
    pub(super) place: &'a RunPlace,
    pub(super) host: &'a HostFiles,
    pub(super) cache: &'a Cache,
    pub(super) settings: &'a Settings,
    /// The backing files that images may have.
    pub(super) allowed: &'a AllowedBacking,
    /// Whether missing directories are created.
    pub(super) makes: bool,
}

/// The state from which an image starts.
pub(super) struct Beginning {
    /// The base of the disk; `None` for a new one.
    pub(super) base: Option<DiskBase>,
    /// The filesystem on the disk.
    pub(super) filesystem: FileSystem,
    /// The lock of a shared image, which must not be removed during the build.
    pub(super) held: Option<File>,
}

/// The plan of an artifact, and what its build needs.
pub(super) struct Planned {
    /// The plan of the artifact.
    pub(super) plan: Plan,
    /// The filesystem on each of its images.
    pub(super) filesystems: Vec<FileSystem>,
    /// The locks of shared images, which must not be removed until the build is done.
    pub(super) held: Vec<File>,
}

/// Lowers an artifact to a plan.
///
/// # Errors
/// Fails if an image, a directory or an output cannot be used.
pub(super) fn plan(
    artifact: &Artifact,
    recipe: &Recipe,
    around: Surroundings<'_>,
    ctx: &RunContext,
) -> Result<Planned, CommandError> {
    let Some(images) = Images::of(&artifact.instance.assembly) else {
        return Err(CommandError::usage("a seed has no images"));
    };
    let id = &artifact.instance.id;
    let mut beginnings = Vec::new();
    for target in images.targets {
        beginnings.push(begin(&target.source, around, ctx)?);
    }
    let filesystems: Vec<FileSystem> = beginnings.iter().map(|one| one.filesystem).collect();
    let left_out = around.left_out(recipe);
    let script_shares = match images.script {
        VmScript::Run(_, shares, _) => shares.as_slice(),
        VmScript::None => &[],
    };
    let shares = script_shares.iter().map(|share| around.share(share, &left_out, ctx));
    let shares = shares.collect::<Result<Vec<_>, _>>()?;
    let current = match images.fixup {
        None => None,
        Some(fixup) => {
            let text = b9::to_bash(fixup);
            let (share, warnings) = around.host.named_by(&text, &left_out)?;
            warnings.into_iter().for_each(|warning| ctx.warn(warning));
            Some(share)
        }
    };
    let mut places = Vec::new();
    for (number, target) in images.targets.iter().enumerate() {
        places.push(around.output(&target.destination, number)?);
    }
    let config = &around.configuration.config;
    let limit =
        |seconds: Option<u32>| seconds.map(|seconds| seconds.saturating_mul(config.timeout_factor));
    let (bases, held): (Vec<_>, Vec<_>) =
        beginnings.into_iter().map(|one| (one.base, one.held)).unzip();
    let request = Request {
        id,
        images,
        bases,
        filesystems: filesystems.clone(),
        sources: artifact.uploads()?,
        shares,
        current,
        outputs: places,
        attributes: config.ext4_attributes.as_deref(),
        script_timeout_s: limit(config.max_lifetime_seconds.or(config.default_timeout_seconds)),
        step_timeout_s: limit(config.default_timeout_seconds),
    };
    let plan = b9::lower(&request).map_err(|fault| recipe::fault(&recipe.files, &fault))?;
    Ok(Planned { plan, filesystems, held: held.into_iter().flatten().collect() })
}

impl Surroundings<'_> {
    /// Returns the paths that shared directories do not bring into the guest: the run's own
    /// directory, and the images that the recipe reads and writes.
    fn left_out(&self, recipe: &Recipe) -> BTreeSet<PathBuf> {
        let assemblies = recipe.artifacts.iter().map(|artifact| &artifact.instance.assembly);
        let targets = assemblies.filter_map(Images::of).flat_map(|images| images.targets);
        let mut paths: Vec<PathBuf> = Vec::new();
        for target in targets {
            if let ImageSource::SourceImage(image, ..) | ImageSource::CopyOnWrite(image) =
                &target.source
            {
                paths.push(self.host.here.join(&image.path.text));
            }
            if let ImageDestination::LocalFile(image, _) = &target.destination {
                paths.push(self.host.here.join(&image.path.text));
            }
        }
        paths.push(self.place.directory.clone());
        paths.iter().filter_map(|path| std::fs::canonicalize(path).ok()).collect()
    }

    fn share(
        &self,
        share: &SharedDirectory,
        left_out: &BTreeSet<PathBuf>,
        ctx: &RunContext,
    ) -> Result<Share, CommandError> {
        let (path, written) = match share {
            SharedDirectory::ReadWrite(path, _) => (path, true),
            SharedDirectory::ReadOnly(path, _) => (path, false),
            SharedDirectory::Sources(_) => return Ok(Share::default()),
        };
        let (share, warnings) = self.host.shared_directory(path, written, self.makes, left_out)?;
        warnings.into_iter().for_each(|warning| ctx.warn(warning));
        Ok(share)
    }

    /// Returns the file to which an image is written; `None` for a transient image.
    ///
    /// # Errors
    /// Fails if the file may not be written.
    pub(super) fn output(
        &self,
        destination: &ImageDestination,
        number: usize,
    ) -> Result<Option<Output>, CommandError> {
        let (path, format) = match destination {
            ImageDestination::LocalFile(image, _) => {
                (self.host.output("the image", Path::new(&image.path.text))?, image.image_type)
            }
            ImageDestination::Share(_, format, _) => {
                let name = format!("{number}.{}", format.name());
                (self.place.shared_images().join(name), *format)
            }
            ImageDestination::LiveInstallerImage(name, directory, _) => {
                let below = format!("{}/machines/{}/disks/raw/0.raw", directory.text, name.text);
                (self.host.output("the image", Path::new(&below))?, ImageType::Raw)
            }
            ImageDestination::Transient => return Ok(None),
        };
        Ok(Some(Output { path, format }))
    }
}

pub(super) fn begin(
    source: &ImageSource,
    around: Surroundings<'_>,
    ctx: &RunContext,
) -> Result<Beginning, CommandError> {
    let (image, partition) = match source {
        ImageSource::EmptyImage(_, filesystem, ..) => {
            return Ok(Beginning { base: None, filesystem: *filesystem, held: None });
        }
        ImageSource::From(name, _) => return begin_shared(name, around, ctx),
        ImageSource::CopyOnWrite(image) => (image, Partition::NoPt),
        ImageSource::SourceImage(image, partition, _) => (image, *partition),
    };
    let file = around.host.image(&image.path)?;
    let opened = open(&file, image.image_type, around.allowed, around)?;
    let mut base = disk_base(&opened);
    if let Partition::Number(number) = partition {
        let number = u32::try_from(number).unwrap_or(0);
        let found = base_image::partition(&opened.raw, number).map_err(|error| {
            CommandError::from(error)
                .context(format!("cannot take partition {number} of `{}`", image.path.text))
        })?;
        (base.offset, base.bytes) = (found.offset, found.bytes);
    }
    Ok(Beginning { base: Some(base), filesystem: image.filesystem, held: None })
}

fn begin_shared(
    name: &str,
    around: Surroundings<'_>,
    ctx: &RunContext,
) -> Result<Beginning, CommandError> {
    let (revision, held) = around.cache.hold_newest(name, ctx)?;
    let (file, format) = (around.cache.image(&revision), revision.image_type());
    // A pulled image comes from others, so it may not have a backing file.
    let opened = open(&file, format, &AllowedBacking::default(), around)?;
    Ok(Beginning {
        base: Some(disk_base(&opened)),
        filesystem: revision.filesystem(),
        held: Some(held),
    })
}

/// Opens an image, which must be of the format that the recipe names: what a guest wrote to a raw
/// disk must not make it an image of another format.
fn open(
    file: &Path,
    format: ImageType,
    allowed: &AllowedBacking,
    around: Surroundings<'_>,
) -> Result<BaseImage, CommandError> {
    let folder = bases::folder(&around.settings.cache_dir);
    let opened = base_image::open(file, None, allowed, &folder)?;
    let found = match opened.format {
        Some(Format::Raw) => Ok(ImageType::Raw),
        Some(Format::Qcow2) => Ok(ImageType::QCow2),
        Some(Format::Vmdk) => Ok(ImageType::Vmdk),
        Some(Format::Blocks) => Err("a disk of VirtualBox or Hyper-V"),
        None => Err("a compressed file"),
    };
    if found != Ok(format) {
        let found = found.map_or_else(|other| other, ImageType::name);
        let text = format!("`{}` is {found}, and not {} as is said", file.display(), format.name());
        return Err(CommandError::usage(text).hint("the type of an Image tells what the file is"));
    }
    Ok(opened)
}

fn disk_base(base: &BaseImage) -> DiskBase {
    DiskBase { path: base.raw.clone(), offset: 0, bytes: base.bytes, sha256: base.digest }
}

/// Returns the directories that a build creates if they are missing: those of its images, and those
/// to which scripts write.
pub(super) fn folders(plan: &Plan) -> Vec<PathBuf> {
    let images = plan.outputs.images.iter().map(|image| outputs::folder_of(&image.path));
    images.chain(plan.fetched()).map(Path::to_owned).collect()
}

/// Creates the directories to which a plan writes.
///
/// # Errors
/// Fails if one of them cannot be created.
pub(super) fn make_folders(plan: &Plan) -> Result<(), CommandError> {
    for folder in folders(plan) {
        rooted::make_user_directories(&folder).map_err(|error| {
            CommandError::new(Kind::Host, error)
                .context(format!("cannot make the folder `{}`", folder.display()))
        })?;
    }
    Ok(())
}

/// Delivers finished images: adds shared ones to the cache, and writes the files that live
/// installers need. Returns the revisions that were shared.
pub(super) fn deliver(
    artifact: &Artifact,
    filesystems: &[FileSystem],
    around: Surroundings<'_>,
    voice: &Voice,
    ctx: &RunContext,
) -> Result<Vec<Revision>, CommandError> {
    let Some(images) = Images::of(&artifact.instance.assembly) else { return Ok(Vec::new()) };
    let mut shared = Vec::new();
    for (number, (target, filesystem)) in images.targets.iter().zip(filesystems).enumerate() {
        let Some(output) = around.output(&target.destination, number)? else { continue };
        match &target.destination {
            ImageDestination::Share(name, format, _) => {
                let RunPlace { build_id, build_date, .. } = around.place;
                let revision = Revision::new(name, build_date, build_id, *format, *filesystem);
                let keep = around.configuration.config.max_cached_shared_images;
                around.cache.add(&revision, &output.path, keep, ctx)?;
                voice.say(LogLevel::Info, &format!("SHARED '{}'", name.text));
                shared.push(revision);
            }
            ImageDestination::LiveInstallerImage(..) => live_installer(&output.path, around.place)?,
            ImageDestination::LocalFile(Image { path, .. }, _) => {
                voice.say(LogLevel::Debug, &format!("WROTE '{}'", path.text));
            }
            ImageDestination::Transient => {}
        }
    }
    Ok(shared)
}

/// Writes the size and the version of an image to files beside it, for live installers.
fn live_installer(image: &Path, place: &RunPlace) -> Result<(), CommandError> {
    let write = || -> std::io::Result<()> {
        let bytes = std::fs::metadata(image)?.len();
        outputs::write(&image.with_file_name("0.size"), bytes.to_string().as_bytes())?;
        let version = format!("{}-{}", place.build_id, place.build_date);
        outputs::write(&image.with_file_name("VERSION"), version.as_bytes())
    };
    write().map_err(|error| {
        CommandError::new(Kind::Host, error)
            .context(format!("cannot write what a live installer reads of `{}`", image.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row 88.
    #[test]
    fn a_live_installer_reads_two_files() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("0.raw");
        std::fs::write(&image, [0; 2048]).unwrap();
        let place = RunPlace::named("0A-0B", "2030-01-02-03:04:05");
        live_installer(&image, &place).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("0.size"), "2048");
        assert_eq!(read("VERSION"), "0A-0B-2030-01-02-03:04:05");
    }
}
