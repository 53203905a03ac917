//! Kernel, initramfs and tool root, made from Debian packages without root.
