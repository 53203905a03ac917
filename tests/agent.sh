#!/bin/sh
# Builds the guest agent for another architecture than this machine's, as
# target/TRIPLE/release/vbuild-agent, where vbuild finds it. `tests/build.sh` puts it into
# the program, when VBUILD_EMBED_AGENT_ARM64 names it.
#
# usage: tests/agent.sh arm64
#   With `rustup target add aarch64-unknown-linux-gnu`, rustup's compiler is used; without,
#   Debian's (rustc-web) with the library of its package for arm64, which is downloaded by
#   apt, whose signatures count, and unpacked below target/. Both need
#   gcc-aarch64-linux-gnu and libc6-dev-arm64-cross: `sh tests/setup.sh arm64` installs all.
set -eu
[ "${1:-}" = arm64 ] || {
    echo "usage: tests/agent.sh arm64" >&2
    exit 2
}
cd "$(dirname "$0")/.."
triple=aarch64-unknown-linux-gnu
target=${CARGO_TARGET_DIR:-$PWD/target}
command -v aarch64-linux-gnu-gcc >/dev/null || {
    echo "agent: aarch64-linux-gnu-gcc is missing: sh tests/setup.sh arm64" >&2
    exit 1
}

if ! rustup target list --installed 2>/dev/null | grep -qx "$triple"; then
    # The compiler of one version takes the libraries of that version only.
    package=$(dpkg-query -S /usr/bin/rustc 2>/dev/null | cut -d: -f1) || true
    [ -n "$package" ] || {
        echo "agent: no compiler has a library for arm64: sh tests/setup.sh arm64" >&2
        exit 1
    }
    version=$(dpkg-query -W -f '${Version}' "$package")
    library=libstd-rust${package#rustc}-dev
    sysroot=$target/cross/$version
    if [ ! -e "$sysroot/usr/lib/rustlib/$triple" ]; then
        rm -rf "$sysroot" "$target/cross/debs"
        mkdir -p "$sysroot" "$target/cross/debs"
        # A private state of apt that knows arm64; the system's is not changed.
        state=$target/cross/apt
        mkdir -p "$state/lists/partial" "$state/archives/partial"
        set -- -o "Dir::State::Lists=$state/lists" -o "Dir::Cache::Archives=$state/archives" \
            -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
            -o APT::Architectures::=amd64 -o APT::Architectures::=arm64 -o APT::Sandbox::User=
        apt-get "$@" update -q
        (
            cd "$target/cross/debs"
            apt-get "$@" download -q "$library:arm64=$version"
        )
        for deb in "$target"/cross/debs/*.deb; do dpkg-deb -x "$deb" "$sysroot"; done
        rm -rf "$target/cross/debs" "$state"
    fi
    RUSTC=/usr/bin/rustc
    export RUSTC
    library_flags=",'--sysroot=$sysroot/usr'"
fi
CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    cargo build --release --locked --package guest-agent --target "$triple" \
    --config "target.$triple.rustflags=['-C','target-feature=+crt-static','-C','relocation-model=static'${library_flags:-}]"
file=$target/$triple/release/vbuild-agent
ls -l "$file"
