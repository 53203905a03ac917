//! Names of architectures.

/// Debian's name of an architecture that Rust names.
#[must_use]
pub fn debian_architecture(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "x86" => "i386",
        "aarch64" => "arm64",
        "arm" => "armhf",
        "powerpc64" => "ppc64el",
        other => other,
    }
}
