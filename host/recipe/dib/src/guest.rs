//! Where things are in the guest, seen from the tools root.

/// The build directory, on the scratch disk: `TMP_BUILD_DIR`. The original's is
/// `/tmp/dib_build.XXXXXXXX`, and source-repositories takes what follows the dot
/// for a name.
pub(crate) const BUILD: &str = "/build/dib_build.0";
/// The directory that holds both hooks and elements, for uploads of both.
pub(crate) const UPLOADS: &str = "/build/";
/// The merged hooks: `TMP_HOOKS_PATH`.
pub(crate) const HOOKS: &str = "/build/hooks";
/// The tree while it is built, later the mounted image: `TMP_MOUNT_PATH`.
pub(crate) const MNT: &str = "/build/dib_build.0/mnt";
/// The finished tree, on its way from the directory to the image.
pub(crate) const BUILT: &str = "/build/dib_build.0/built";
/// `TMP_IMAGE_DIR`.
pub(crate) const IMAGE_DIR: &str = "/build/image";
/// The elements, by search path: `/build/elements/0/base`.
pub(crate) const ELEMENTS: &str = "/build/elements";
/// What goes to the host beside the image: `/build/out/NAME.d`.
pub(crate) const OUT: &str = "/build/out";
/// Configuration and parameters of the block-device layer, for scripts that look.
pub(crate) const BLOCK_DEVICE: &str = "/build/block-device";
/// The hooks as the image sees them, read-only.
pub(crate) const IN_TARGET: &str = "/tmp/in_target.d";
/// The Python package, where Debian's python3 finds it.
pub(crate) const PACKAGE: &str = "/usr/lib/python3/dist-packages/diskimage_builder";
/// `_LIB`.
pub(crate) const LIB: &str = "/usr/lib/python3/dist-packages/diskimage_builder/lib";
/// The helper drive.
pub(crate) const HELPER: &str = "/helper";
/// The home of scripts outside, on the helper drive, as virt-dib has it.
pub(crate) const HOME: &str = "/helper/home";
/// Caches of elements.
pub(crate) const IMAGE_CACHE: &str = "/helper/home/.cache/image-create";
/// Locks between builds that share a helper drive.
pub(crate) const LOCKFILES: &str = "/helper/home/.cache/dib/lockfiles";
/// A directory of PATH for tools that scripts expect.
pub(crate) const TOOLS_BIN: &str = "/usr/local/bin";
