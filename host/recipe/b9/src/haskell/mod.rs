//! Haskell terms as GHC's `read` parses and its `show` prints them: the syntax of `.b9` and `.b9si`
//! files, and of most values in B9's configuration.
//!
//! ```text
//! text ── lexer ── tree ── Term::read ──► typed value ── Term::shown ──► Shown ── show, layout
//! ```
//!
//! The tree has only brackets, lists, records and rows of words; the types define the constructors
//! and their arguments, see [`terms!`].

mod lexer;
mod literal;
mod read;
mod shown;
mod term;
mod tree;

pub(crate) use read::{Application, Value, read};
pub use read::{FILE_BYTES_MAX, NESTING_MAX};
pub(crate) use shown::Shown;
pub use term::Bytes;
pub(crate) use term::{Term, terms};
pub(crate) use tree::Kind;

#[cfg(test)]
mod tests;
