//! The harness, and the repository's tests of itself.
