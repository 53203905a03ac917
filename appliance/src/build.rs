//! Builds an appliance, from a request to a directory of the cache:
//!
//! ```text
//! request ─► mirror ─► Release files ─► indices ─► packages chosen ─► digest
//!                                                                      │ known? done
//!        image ◄─ tree ◄─ packages unpacked ◄─ packages fetched ◄──────┘
//!          │
//!          └─► first stage configures it ─► published under its digest
//! ```

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use architecture::MachineArchitecture;
use download::Client;

use crate::{
    apt_conf::AptConf,
    archive::{Archive, ArchiveError, Source},
    cache::{self, Appliance, Cache},
    configure,
    deb::{self, Deb, DebError, Spool},
    error::Error,
    events::{Event, Events, Phase},
    fetch::{self, Item},
    first_stage::{self, FirstStage, FirstStageSpec},
    image::{self, ImageOptions},
    index::Package,
    kernel, kernel_image,
    keys::Trust,
    manifest::{self, FORMAT, KernelEntry, Manifest, PackageEntry, SuiteEntry},
    mirror::Mirror,
    packages,
    release::Expiry,
    root::{self, Unpacked},
    solve::{self, SolveError},
};

/// The supported releases, for which there are keys.
pub const RELEASES: &[&str] = &["bookworm", "trixie"];
/// The default release.
pub const DEFAULT_RELEASE: &str = "bookworm";
/// Free space of the tools root. The file is sparse; the configuration needs a few megabytes, and
/// packages installed by a hook go to its layer instead.
const FREE_BYTES: u64 = 1 << 30;
/// Maximum unpacking threads. Each decompresses one package; more would wait for the disk.
const UNPACKERS_MAX: usize = 8;
/// Memory of the first-stage machine in MiB: twice the observed usage of scripts and page cache.
const FIRST_STAGE_MIB: u32 = 1024;
/// Time limit of the configuration. It takes a minute under TCG on a desktop CPU; a loaded CI
/// machine is ten times slower.
const FIRST_STAGE_TIMEOUT: Duration = Duration::from_secs(1800);

/// The requested appliance, and how it may be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The architecture of the machine for which the appliance is made.
    pub architecture: MachineArchitecture,
    /// The release's code name, one of [`RELEASES`].
    pub release: String,
    /// Packages in addition to the standard tools.
    pub extra_packages: Vec<String>,
    /// The URL of the mirror to use instead of that of the host's apt.
    pub mirror: Option<String>,
    /// Additional trusted certificates, as a PEM file.
    pub ca_file: Option<PathBuf>,
    /// The path of vbuild's cache directory.
    pub cache_dir: PathBuf,
    /// The path of the agent that runs as `/init` in the first stage.
    pub agent: PathBuf,
    /// Whether to check for newer packages although an appliance exists.
    pub refresh: bool,
}

impl Request {
    /// Creates a request for the default release and tools.
    #[must_use]
    pub fn new(cache_dir: PathBuf, agent: PathBuf) -> Self {
        Self {
            architecture: MachineArchitecture::default(),
            release: DEFAULT_RELEASE.to_owned(),
            extra_packages: Vec::new(),
            mirror: None,
            ca_file: None,
            cache_dir,
            agent,
            refresh: false,
        }
    }

    /// Returns the extra packages that are not standard tools, sorted and without duplicates, so
    /// that their order does not affect the appliance.
    fn extras(&self) -> Vec<String> {
        let mut extras: Vec<String> = self
            .extra_packages
            .iter()
            .filter(|name| packages::tools(self.architecture).all(|tool| tool != name.as_str()))
            .cloned()
            .collect();
        extras.sort();
        extras.dedup();
        extras
    }

    fn key(&self) -> Result<String, Error> {
        if !RELEASES.contains(&self.release.as_str()) {
            return Err(Error::UnknownRelease { release: self.release.clone() });
        }
        Ok(manifest::request_key(self.architecture, &self.release, &self.extras()))
    }
}

/// Returns the appliance of an earlier build for this request, if there is one. Does not use the
/// network.
///
/// # Errors
/// Fails if the request is invalid or the cache cannot be read.
pub fn find(request: &Request) -> Result<Option<Appliance>, Error> {
    Cache::new(&request.cache_dir).answer(&request.key()?)
}

/// Finds or builds the appliance for a request.
///
/// Without `refresh`, an existing appliance is used as it is. With it, the mirror is checked for
/// newer packages; if it is unreachable, an existing appliance is used with a warning.
///
/// # Errors
/// Fails if the appliance cannot be built. Downloads are kept for the next attempt.
pub fn build(
    request: &Request,
    first_stage: &dyn FirstStage,
    events: &mut dyn Events,
) -> Result<Appliance, Error> {
    if !request.refresh
        && let Some(appliance) = find(request)?
    {
        return Ok(appliance);
    }
    build_trusting(&Trust::debian()?, request, first_stage, events)
}

/// Builds the appliance, trusting only the given keys.
fn build_trusting(
    trust: &Trust,
    request: &Request,
    first_stage: &dyn FirstStage,
    events: &mut dyn Events,
) -> Result<Appliance, Error> {
    let key = request.key()?;
    let cache = Cache::new(&request.cache_dir);
    cache.create()?;
    let lock = cache.lock(&mut |lock| events.event(Event::Waiting { lock }))?;
    cache.remove_leftovers(&lock)?;
    // The previous holder of the lock may have built the same appliance.
    let known = cache.answer(&key)?;
    match known {
        Some(appliance) if !request.refresh => return Ok(appliance),
        None if cache.has_record(&key) => {
            let text = "the appliance that was made before cannot be read: it is made again";
            events.event(Event::Warning(text));
        }
        _ => {}
    }
    let plan = match Plan::make(trust, request, &cache, &key, events) {
        Ok(plan) => plan,
        Err(Error::Archive(ArchiveError::Fetch(error))) if known.is_some() => {
            let text = format!("{error}; the appliance that is there is used");
            events.event(Event::Warning(&text));
            return known.ok_or(Error::Archive(ArchiveError::Fetch(error)));
        }
        Err(error) => return Err(error),
    };
    if let Some(appliance) = cache.open(&plan.digest)? {
        cache.record(&key, &plan.digest)?;
        return Ok(appliance);
    }
    let folder = cache.new_folder(&lock)?;
    if let Err(error) = plan.make_in(&folder, request, &cache, first_stage, events) {
        // If this fails too, the next build removes the directory.
        drop(cache.remove_leftovers(&lock));
        return Err(error);
    }
    cache.publish(&lock, &folder, &plan.digest)?;
    cache.record(&key, &plan.digest)?;
    cache.open(&plan.digest)?.ok_or_else(|| {
        Error::file("cannot find the new appliance in", &request.cache_dir)(
            std::io::ErrorKind::NotFound.into(),
        )
    })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// The appliance to build: its digest and its packages.
struct Plan {
    digest: String,
    client: Client,
    items: Vec<Item>,
    /// Names, versions and digests of the packages; the kernel's package is last.
    packages: Vec<PackageEntry>,
    suites: Vec<SuiteEntry>,
}

impl Plan {
    /// Reads the mirror's indices and selects packages.
    fn make(
        trust: &Trust,
        request: &Request,
        cache: &Cache,
        key: &str,
        events: &mut dyn Events,
    ) -> Result<Self, Error> {
        events.event(Event::Begin(Phase::Indices));
        let apt = AptConf::of_host();
        let mirror = match &request.mirror {
            Some(url) => Mirror::from_url(url)?,
            None => Mirror::from_host()?,
        };
        let client = fetch::client(request.ca_file.as_deref(), &apt)?;
        let expiry = if apt.takes_expired() { Expiry::Warn } else { Expiry::Refuse };
        let (mirror, release) = (&mirror, request.release.as_str());
        let seen = &cache.seen_dates();
        let architecture = request.architecture;
        let source = Source { mirror, release, architecture, trust, expiry, now: now(), seen };
        let archive = Archive::load(&client, source, &cache.files_dir(), &mut |progress| {
            events.event(Event::Download(Phase::Indices, progress));
        })?;
        for warning in &archive.warnings {
            events.event(Event::Warning(warning));
        }
        let mut chosen = choose(&archive, request, events)?;
        chosen.push(kernel::find(&archive.index, packages::kernel(architecture))?);
        let entry = |package: &Package| PackageEntry {
            name: package.name.clone(),
            version: package.version.clone(),
            sha256: package.sha256.clone(),
        };
        let packages: Vec<PackageEntry> = chosen.iter().map(entry).collect();
        let suites = archive
            .suites
            .iter()
            .zip(&archive.dates)
            .map(|(suite, date)| SuiteEntry { name: suite.name.clone(), date: date.clone() })
            .collect();
        Ok(Self {
            digest: manifest::appliance_digest(key, &packages),
            items: chosen.iter().map(|package| archive.item(package)).collect(),
            client,
            packages,
            suites,
        })
    }

    /// Builds the appliance in an empty directory.
    fn make_in(
        &self,
        folder: &Path,
        request: &Request,
        cache: &Cache,
        first_stage: &dyn FirstStage,
        events: &mut dyn Events,
    ) -> Result<(), Error> {
        events.event(Event::Begin(Phase::Packages));
        let files = cache.files_dir();
        fetch::fetch_all(&self.client, &files, &self.items, &mut |progress| {
            events.event(Event::Download(Phase::Packages, progress));
        })?;
        let kernel_release = self.prepare(folder, &files, events)?;
        events.event(Event::Begin(Phase::Configure));
        let modules = folder.join(cache::MODULES_FILE);
        let initrd = cache::initrd(&cache.initrd_dir(), &modules, &self.digest, &request.agent)?;
        let image = folder.join(cache::ROOT_FILE);
        let spec = FirstStageSpec {
            kernel: folder.join(cache::KERNEL_FILE),
            initrd,
            root_image: image.clone(),
            script: configure::SCRIPT,
            memory_mib: FIRST_STAGE_MIB,
            timeout: FIRST_STAGE_TIMEOUT,
        };
        first_stage::run(first_stage, &spec, events)?;
        self.manifest(request, &kernel_release, cache::disk_bytes(&image))
            .write(&folder.join(cache::MANIFEST_FILE))
    }

    /// Unpacks the packages, and writes kernel, modules and the unconfigured tools root. Returns
    /// the kernel's release.
    fn prepare(
        &self,
        folder: &Path,
        files: &Path,
        events: &mut dyn Events,
    ) -> Result<String, Error> {
        events.event(Event::Begin(Phase::Unpack));
        let paths: Vec<PathBuf> =
            self.items.iter().map(|item| fetch::path_of(files, &item.sha256)).collect();
        let (mut debs, spools) = unpack(&paths, folder, events)?;
        let kernel_deb = debs.pop().unwrap_or_default();
        let kernel_entry = &self.packages[self.packages.len() - 1];
        let kernel = kernel::take(&kernel_entry.name, &kernel_deb, &spools)?;
        events.event(Event::Begin(Phase::Image));
        let unpacked: Vec<Unpacked> = self
            .packages
            .iter()
            .zip(debs)
            .map(|(entry, deb)| Unpacked { name: entry.name.clone(), deb })
            .collect();
        let tree = root::assemble(&unpacked, &kernel_deb, &kernel, &spools)?;
        let image = folder.join(cache::ROOT_FILE);
        image::write(&tree, &spools, &image, &self.image_options())?;
        let path = folder.join(cache::KERNEL_FILE);
        let mut bzimage = Vec::new();
        kernel
            .image
            .open(&spools)
            .and_then(|mut image| image.read_to_end(&mut bzimage))
            .map_err(Error::file("cannot read", &path))?;
        std::fs::write(&path, kernel_image::unpacked(&bzimage).unwrap_or(bzimage))
            .map_err(Error::file("cannot write", &path))?;
        let path = folder.join(cache::MODULES_FILE);
        std::fs::write(&path, &kernel.modules_archive)
            .map_err(Error::file("cannot write", &path))?;
        Ok(kernel.version)
    }

    fn image_options(&self) -> ImageOptions {
        let mut uuid = [0; 16];
        // The digest has 64 hexadecimal digits; half of them are the UUID.
        if let Ok(bytes) = hex::decode(&self.digest[..32]) {
            uuid.copy_from_slice(&bytes);
        }
        let time = u32::try_from(now()).unwrap_or(u32::MAX);
        ImageOptions { label: "vbuild-tools".to_owned(), uuid, free_bytes: FREE_BYTES, time }
    }

    fn manifest(&self, request: &Request, kernel_release: &str, root_bytes: u64) -> Manifest {
        let kernel = &self.packages[self.packages.len() - 1];
        Manifest {
            format: FORMAT,
            digest: self.digest.clone(),
            release: request.release.clone(),
            architecture: request.architecture.to_string(),
            extra_packages: request.extras(),
            kernel: KernelEntry {
                package: kernel.name.clone(),
                version: kernel.version.clone(),
                release: kernel_release.to_owned(),
            },
            packages: self.packages.clone(),
            suites: self.suites.clone(),
            configure: configure::VERSION,
            created: now(),
            download_bytes: self.items.iter().map(|item| item.size).sum(),
            root_bytes,
        }
    }
}

/// Selects the packages. A standard tool is dropped with a warning if the release lacks it, or if
/// it conflicts with a requested package.
fn choose(
    archive: &Archive,
    request: &Request,
    events: &mut dyn Events,
) -> Result<Vec<Package>, Error> {
    let extras = request.extras();
    let mut tools: Vec<String> = packages::tools(request.architecture).map(str::to_owned).collect();
    loop {
        let wanted: Vec<String> = extras.iter().chain(&tools).cloned().collect();
        let error = match solve::resolve(&archive.index, &wanted) {
            Ok(packages) => return Ok(packages),
            Err(error) => error,
        };
        let in_the_way = |name: &String| tools.contains(name) && !extras.contains(name);
        let given_up = match &error {
            SolveError::Unknown { name } => Some(name).filter(|name| in_the_way(name)),
            SolveError::Conflict { package, other } => {
                [package, other].into_iter().find(|name| in_the_way(name))
            }
            _ => None,
        };
        let Some(name) = given_up.cloned() else { return Err(error.into()) };
        events.event(Event::Warning(&format!("the appliance is made without `{name}`: {error}")));
        tools.retain(|tool| *tool != name);
    }
}

/// Unpacks all packages in parallel. Results are in the order of the paths, with one spool file per
/// thread. The last path is the kernel's package.
fn unpack(
    paths: &[PathBuf],
    folder: &Path,
    events: &mut dyn Events,
) -> Result<(Vec<Deb>, Vec<File>), Error> {
    let threads = thread::available_parallelism().map_or(2, usize::from).min(UNPACKERS_MAX);
    let mut spools = Vec::with_capacity(threads);
    for number in 0..threads {
        let file = tempfile::tempfile_in(folder)
            .map_err(Error::file("cannot make a temporary file in", folder))?;
        spools.push(Spool::new(number, file));
    }
    // Largest first, to balance the load of the threads.
    let mut order: Vec<usize> = (0..paths.len()).collect();
    let size = |path: &PathBuf| path.metadata().map_or(0, |meta| meta.len());
    order.sort_by_key(|index| std::cmp::Reverse(size(&paths[*index])));
    let results: Mutex<Vec<Option<Deb>>> = Mutex::new(vec![None; paths.len()]);
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel::<Result<(), DebError>>();
    let mut failure = None;
    thread::scope(|scope| {
        for spool in &mut spools {
            let sender = sender.clone();
            let (order, results, next) = (&order, &results, &next);
            scope.spawn(move || {
                while let Some(&index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let keep: &dyn Fn(&str) -> bool =
                        if index + 1 == paths.len() { &kernel::wanted } else { &root::wanted };
                    let told = match deb::read(&paths[index], spool, keep) {
                        Ok(deb) => {
                            let mut results =
                                results.lock().unwrap_or_else(PoisonError::into_inner);
                            results[index] = Some(deb);
                            sender.send(Ok(()))
                        }
                        Err(error) => {
                            next.store(order.len(), Ordering::Relaxed);
                            sender.send(Err(error))
                        }
                    };
                    if told.is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut done = 0;
        for told in receiver {
            match told {
                Ok(()) => {
                    done += 1;
                    events.event(Event::Unpacked { done, total: paths.len() });
                }
                Err(error) => failure = failure.take().or(Some(error)),
            }
        }
    });
    if let Some(error) = failure {
        return Err(error.into());
    }
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut files = Vec::with_capacity(threads);
    for spool in spools {
        files
            .push(spool.finish().map_err(Error::file("cannot write a temporary file in", folder))?);
    }
    Ok((results.into_iter().flatten().collect(), files))
}

#[cfg(test)]
mod tests;
