//! Kernel, initramfs and tool root, made from Debian packages without root.

pub mod apt_conf;
pub mod archive;
pub mod date;
pub mod deb;
pub mod deb822;
pub mod fetch;
pub mod http;
pub mod image;
pub mod index;
pub mod initramfs;
pub mod kernel;
pub mod keys;
pub mod mirror;
pub mod modules;
pub mod packages;
pub mod release;
pub mod solve;
pub mod tree;
pub mod version;
