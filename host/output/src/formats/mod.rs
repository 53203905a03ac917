//! The formats, one file each: a descriptor and a function that writes.

pub(crate) mod docker;
pub(crate) mod qcow2;
pub(crate) mod raw;
pub(crate) mod squashfs;
pub(crate) mod tar;
pub(crate) mod tar_zst;
pub(crate) mod tgz;
pub(crate) mod vdi;
pub(crate) mod vhd;
pub(crate) mod vhdx;
pub(crate) mod vmdk;
