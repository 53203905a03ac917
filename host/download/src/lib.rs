//! vbuild's own downloads: packages of the appliance, base images, diskimage-builder.
//!
//! ```text
//!  URL ─► proxy? ─► request ─► redirect? checked, at most 10 ─► bytes ─► digest
//!           │          ▲                                          │
//!  environment, apt    └── broken off: again from there, in turn ◄┘
//! ```
//!
//! A server is hostile until the digest of what it sent is right, and that comes last:
//! until then it can send too much, stall, break off, and redirect. So a download has a
//! size, a number of requests, and a budget of bytes over all of them; and a redirect
//! never leads from https to http, nor to a more protected network than the URL that the
//! user or the recipe wrote.
//!
//! Everything here blocks. Nothing is printed.

mod client;
mod digest;
mod error;
mod fetch;
mod redirect;

pub use client::{Client, Options};
pub use digest::{Digest, InvalidDigest};
pub use error::DownloadError;
pub use fetch::{Part, Size, Step, Wanted, Watch};
