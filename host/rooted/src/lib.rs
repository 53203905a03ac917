//! Files beneath a directory, opened without following symbolic links.
//!
//! vbuild reads trees that other people wrote (elements, specs, layers) and works
//! in directories that other users can write (`/tmp`). A name in such a place may
//! be a link to any file of the user, a pipe that nobody writes to, or a file of
//! somebody else. This crate is the one door to them:
//!
//! - [`Dir`] is an open directory. What is opened beneath it is looked up without
//!   following any link, by `openat2` with `RESOLVE_BENEATH` and
//!   `RESOLVE_NO_SYMLINKS`, or component by component with `O_NOFOLLOW` where the
//!   kernel or a container's seccomp profile has no `openat2`.
//! - [`Dir::resolve`] follows links that stay beneath the directory, for files that
//!   a tool must read through a link, and refuses those that lead out.
//! - [`private`] makes or opens a directory that belongs to the user alone.
//! - [`walk()`] visits a tree, each entry as it is: links as links.
//! - [`create_private`] and [`read_secret`] open files that the user named, by the same
//!   doubts about who else could have put something there.
//! - [`open_file`] opens a file by an absolute path that holds no link.
//! - [`plain`] and [`real_place`] say where a path leads, for comparisons.
//! - [`make_umask_private`] and [`user_mode`] keep what is not an output from other
//!   users, and give outputs the permissions that the user's umask allows.
//!
//! Only regular files are opened for their content. Pipes, sockets and devices are
//! refused by name, so that no name can make vbuild wait.
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
