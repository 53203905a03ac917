#!/bin/sh
# Makes a Debian machine ready to build vbuild, or names what is missing.
#
# As root (or with sudo that asks for no password) it installs; as anybody else
# it prints the one command that somebody with rights must run. It changes no
# configuration: QEMU 10 comes from backports through a source list that exists
# only while this script runs, because under emulation QEMU 10 starts processes
# four times faster than the 7.2 of Debian 12.
#
# usage: tests/setup.sh [build|test|arm64]
#   build  what builds and runs vbuild      test   and its tests
#   arm64  and builds for arm64 on another machine: QEMU, firmware, a compiler of the agent
set -eu
. "$(dirname "$0")/ground.sh"

what=${1:-build}
packages=""
want() { # command package
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || packages="$packages $2"
}

want cc gcc
want qemu-system-x86_64 qemu-system-x86
if [ "$what" = test ]; then
    # The tests compare with other people's tools wherever they are installed.
    want qemu-img qemu-utils
    want setpriv util-linux
    want strace strace
    want e2fsck e2fsprogs
    want sgdisk gdisk
    want sfdisk fdisk
    want partx util-linux
    want unshare util-linux
    want iasl acpica-tools
    want unsquashfs squashfs-tools
    want mandoc mandoc
    want zsh zsh
    want fish fish
    [ -e /usr/share/OVMF/OVMF_CODE.fd ] || [ -e /usr/share/OVMF/OVMF_CODE_4M.fd ] || packages="$packages ovmf"
fi

if [ "$what" = arm64 ]; then
    want qemu-system-aarch64 qemu-system-arm
    want aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
    [ -e /usr/aarch64-linux-gnu/lib/libc.a ] || packages="$packages libc6-dev-arm64-cross"
    [ -e /usr/share/AAVMF/AAVMF_CODE.fd ] || packages="$packages qemu-efi-aarch64"
    # Debian's compiler, whose library exists for arm64; that of rustup serves as well.
    rustup target list --installed 2>/dev/null | grep -q '^aarch64-unknown-linux-gnu$' ||
        [ -x /usr/bin/rustc ] || packages="$packages rustc-web"
fi

if [ -n "$packages" ]; then
    sudo=""
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
            sudo="sudo"
        else
            echo "setup: missing packages; somebody with rights must run:" >&2
            echo "    apt-get install$packages" >&2
            case "$packages" in
            *qemu-system*) echo "setup: on Debian 12, QEMU from bookworm-backports is much faster without KVM" >&2 ;;
            esac
            exit 1
        fi
    fi
    export DEBIAN_FRONTEND=noninteractive
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    $sudo apt-get update -q
    case "$packages" in
    *qemu-system*)
        if [ "$release" = bookworm ]; then
            mirror=$(debian_mirror)
            if [ -n "$mirror" ]; then
                list=$(mktemp -d)
                trap 'rm -rf "$list"' EXIT
                chmod 755 "$list"
                cat /etc/apt/sources.list >"$list/sources.list" 2>/dev/null || :
                cp /etc/apt/sources.list.d/* "$list/" 2>/dev/null || :
                echo "deb $mirror bookworm-backports main" >"$list/vbuild-backports.list"
                if $sudo apt-get update -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$list" &&
                    $sudo apt-get install -q -y --no-install-recommends -t bookworm-backports \
                        -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$list" \
                        $(echo "$packages" | tr ' ' '\n' | grep '^qemu-system-'); then
                    packages=$(echo "$packages" | sed 's/ qemu-system-[a-z0-9]*//g')
                fi
                $sudo apt-get update -q
            fi
        fi
        ;;
    esac
    [ -z "$packages" ] || $sudo apt-get install -q -y --no-install-recommends $packages
fi

if ! command -v cargo >/dev/null 2>&1; then
    echo "setup: Rust 1.90 or newer is needed (Debian 12's is older); install it with rustup" >&2
    exit 1
fi
version=$(rustc --version | sed 's/^rustc \([0-9]*\)\.\([0-9]*\).*/\1 \2/')
set -- $version
if [ "$1" -eq 1 ] && [ "$2" -lt 90 ]; then
    echo "setup: $(rustc --version) is too old: Rust 1.90 or newer is needed; run \`rustup update\`" >&2
    exit 1
fi
