//! Paths in the guest, relative to the tools root.

/// `TMP_BUILD_DIR`: the build directory, on the scratch disk. The original's is
/// `/tmp/dib_build.XXXXXXXX`; source-repositories uses the part behind the dot as a name.
pub(crate) const BUILD: &str = "/build/dib_build.0";
/// The parent directory of hooks and elements, for uploads that contain both.
pub(crate) const UPLOADS: &str = "/build/";
/// `TMP_HOOKS_PATH`: the merged hooks.
pub(crate) const HOOKS: &str = "/build/hooks";
/// `TMP_MOUNT_PATH`: the tree during the build, later the mounted image.
pub(crate) const MNT: &str = "/build/dib_build.0/mnt";
/// The finished tree before it is copied to the image.
pub(crate) const BUILT: &str = "/build/dib_build.0/built";
/// `TMP_IMAGE_DIR`: the directory of images and intermediate files.
pub(crate) const IMAGE_DIR: &str = "/build/image";
/// The elements, by index of their search path entry: `/build/elements/0/base`.
pub(crate) const ELEMENTS: &str = "/build/elements";
/// Files for the host beside the image: `/build/out/NAME.d`.
pub(crate) const OUT: &str = "/build/out";
/// Configuration and parameters of the block-device layer, for scripts that read them.
pub(crate) const BLOCK_DEVICE: &str = "/build/block-device";
/// The hooks as mounted in the image, read-only.
pub(crate) const IN_TARGET: &str = "/tmp/in_target.d";
/// The Python package, in the path of Debian's python3.
pub(crate) const PACKAGE: &str = "/usr/lib/python3/dist-packages/diskimage_builder";
/// `_LIB`: the library directory of diskimage-builder.
pub(crate) const LIB: &str = "/usr/lib/python3/dist-packages/diskimage_builder/lib";
/// Mount point of the helper drive.
pub(crate) const HELPER: &str = "/helper";
/// The home directory of scripts outside, on the helper drive, as in virt-dib.
pub(crate) const HOME: &str = "/helper/home";
/// The download caches of elements.
pub(crate) const IMAGE_CACHE: &str = "/helper/home/.cache/image-create";
/// Lock files between builds that share a helper drive.
pub(crate) const LOCKFILES: &str = "/helper/home/.cache/dib/lockfiles";
/// A directory in PATH for tools that scripts expect.
pub(crate) const TOOLS_BIN: &str = "/usr/local/bin";
