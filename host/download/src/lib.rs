//! vbuild's own downloads: packages of the appliance, base images, diskimage-builder.
//!
//! ```text
//!  URL ─► proxy? ─► request ─► redirect? checked, at most 10 ─► bytes ─► digest
//!           │          ▲                                          │
//!  environment, apt    └── broken off: again from there, in turn ◄┘
//! ```
//!
//! A server is untrusted until the digest of its data is verified, which happens last: until then
//! it can send too much, stall, break off, and redirect. So a download has a maximum size, a
//! maximum number of requests, and a limit on the bytes of all requests; and a redirect never leads
//! from https to http, nor to a more protected network than the original URL.
//!
//! All calls block. Nothing is printed.

mod client;
mod digest;
mod error;
mod fetch;
mod redirect;

pub use client::{Client, Options};
pub use digest::{Digest, InvalidDigest};
pub use error::DownloadError;
pub use fetch::{Part, Size, Step, Wanted, Watch};
