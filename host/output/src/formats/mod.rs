//! One file for each format; they all have a `FORMAT` and a `write`.

pub(crate) mod qcow2;
pub(crate) mod raw;
pub(crate) mod tar;
pub(crate) mod tar_zst;
pub(crate) mod tgz;
