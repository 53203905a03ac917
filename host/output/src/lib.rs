//! Image formats, one file each, written atomically on the host.
