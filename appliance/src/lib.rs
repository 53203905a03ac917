//! Builds kernel, initramfs and tools root from Debian packages, without root.
//!
//! The host needs no Debian tools: this crate verifies signatures with the archive keys in `keys/`,
//! resolves dependencies, unpacks packages, and writes them as an ext4 image. The packages' own
//! scripts run in a first-stage microVM, which the caller provides as a [`FirstStage`].
//!
//! ```no_run
//! # fn machine() -> Box<dyn appliance::FirstStage> { unimplemented!() }
//! let request = appliance::Request::new("/home/me/.cache/vbuild".into(), "agent".into());
//! let appliance = match appliance::find(&request)? {
//!     Some(appliance) => appliance,
//!     None => appliance::build(&request, &*machine(), &mut appliance::Silent)?,
//! };
//! let initrd = appliance.initrd_for(&request.agent)?;
//! # drop((appliance.kernel(), initrd, appliance.root_image()));
//! # Ok::<(), appliance::Error>(())
//! ```
//!
//! Architecture invariant: this crate starts no process, and uses nothing from the network that is
//! not authenticated by a signature.

mod apt_conf;
mod archive;
mod build;
mod cache;
mod configure;
mod date;
mod deb;
mod deb822;
mod dpkg_db;
mod error;
mod events;
mod fetch;
mod first_stage;
pub mod fuzzing;
mod image;
mod index;
mod initramfs;
mod kernel;
mod kernel_image;
mod keys;
mod manifest;
mod mirror;
mod modules;
mod packages;
mod packed;
mod parts_digest;
mod release;
mod root;
mod seen;
mod solve;
#[cfg(test)]
mod test_mirror;
mod tree;
mod version;

pub use archive::ArchiveError;
pub use build::{DEFAULT_RELEASE, RELEASES, Request, build, find};
pub use cache::{Appliance, Cache, Freed};
pub use deb::DebError;
pub use download::DownloadError;
pub use error::{Error, ErrorKind};
pub use events::{Event, Events, Phase, Silent};
pub use fetch::Progress;
pub use first_stage::{FirstStage, FirstStageSpec};
pub use image::ImageError;
pub use initramfs::MODULE_LIST;
pub use kernel::KernelError;
pub use keys::SignatureError;
pub use manifest::{KernelEntry, Manifest, PackageEntry, SuiteEntry};
pub use mirror::{Mirror, MirrorError};
pub use modules::ModuleError;
pub use release::ReleaseError;
pub use root::RootError;
pub use solve::SolveError;
pub use tree::TreeError;
