//! Opens files below a directory without following symbolic links.
//!
//! vbuild reads trees of third parties (elements, specs, layers) and works in directories that
//! other users can write (`/tmp`). A name in such a place may be a link to any file of the user, a
//! pipe without a writer, or a file of another user. All access to them goes through this crate:
//!
//! - [`Dir`] is an open directory. Paths below it are looked up without following any link, by
//!   `openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`, or component by component with
//!   `O_NOFOLLOW` if the kernel or a container's seccomp profile lacks `openat2`.
//! - [`Dir::resolve`] follows links that stay below the directory, for files that a tool must read
//!   through a link, and refuses links that lead out.
//! - [`private`] creates or opens a directory that only the user can access.
//! - [`walk()`] visits a tree; links are reported as links.
//! - [`create_private`] and [`read_secret`] open files that the user named, and check whether other
//!   users could have written to them.
//! - [`open_file`] opens a file by an absolute path without links.
//! - [`plain`] and [`real_place`] normalize paths for comparisons.
//! - [`make_umask_private`] and [`user_mode`] keep files other than outputs private, and give
//!   outputs the mode that the user's umask permits.
//!
//! Only regular files are opened for their content. Pipes, sockets and devices are refused, so that
//! no path can make vbuild block.
//!
//! Architecture invariant: this crate imports no other crate of the workspace.

mod dir;
mod error;
mod lookup;
mod named;
mod place;
mod private;
mod umask;
mod walk;

pub use dir::{Dir, open_file};
pub use error::Error;
pub use named::{RECIPE_MAX_BYTES, create_private, read_recipe, read_secret};
pub use place::{plain, real_place};
pub use private::{private, private_existing};
pub use umask::{
    allow_user_mode, allow_user_mode_at, make_umask_private, make_user_directories, user_mode,
};
pub use walk::{DEPTH_MAX, Descend, ENTRIES_MAX, Entry, Kind, walk};

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests;
