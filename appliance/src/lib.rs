//! Kernel, initramfs and tool root, made from Debian packages without root.

pub mod apt_conf;
pub mod date;
pub mod deb822;
pub mod fetch;
pub mod http;
pub mod index;
pub mod keys;
pub mod mirror;
pub mod release;
pub mod solve;
pub mod version;
