#!/bin/sh
# The real builds of `vbuild vmdb`: Debian 12 from the specs in tests/vmdb, as an
# ordinary user, each booted to a shell of root on its serial console.
#
#   bios   one partition, GRUB for a PC BIOS; makes the tarball
#   uefi   GPT and an EFI system partition; from the tarball, without debootstrap
#   lvm    root and /home on a volume group over two partitions
#   luks   root in a LUKS2 container; the console asks for the password
#   ansible  a playbook on an image that does not boot; makes an appliance of its own
#
# usage: tests/vmdb.sh [bios|uefi|lvm|luks|ansible]...      (default: the first four)
# VBUILD names the program (default: the release build), VBUILD_TEST_DIR a folder
# that is kept, with tarball, images and logs (default: a new one, removed at the
# end), VBUILD_TEST_TARBALL a tarball of an earlier run, with which no build runs
# debootstrap, VBUILD_ARGS further options for each build. Without KVM the build
# that makes the tarball takes about half an hour, the others some minutes.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
[ $# -gt 0 ] || set -- bios uefi lvm luks
program=${VBUILD:-${CARGO_TARGET_DIR:-$here/target}/release/vbuild}
. "$here/tests/ground.sh"
ground vmdb "$program"
mkdir -p "$work/specs"
cp -R "$here"/tests/vmdb/. "$work/specs/"
chmod -R a+rX "$work/specs"
# Emulated, the slowest wait is for systemd's first boot.
wait=${VBUILD_TEST_WAIT:-900}

mirror=$(debian_mirror)
[ -z "${VBUILD_TEST_TARBALL:-}" ] || cp "$VBUILD_TEST_TARBALL" "$work/out/root.tar.gz"

# Builds a spec. That it was made from the tarball, if that was there, is looked
# up in what -v says.
build() {
    step "$1: build"
    had_tarball=no
    [ ! -e "$work/out/root.tar.gz" ] || had_tarball=yes
    rm -f "$work/out/$1.img"
    vbuild vmdb -v "$work/specs/$1.vmdb" --variable "mirror=$mirror" --output "$1.img" \
        --rootfs-tarball root.tar.gz --log "$1.log" ${VBUILD_ARGS:-} | tee "$work/$1.out"
    ran_debootstrap=yes
    grep -q "^Exec: \['debootstrap'" "$work/$1.out" || ran_debootstrap=no
    # Without the tarball it may have come from the cache of an earlier build.
    [ "$had_tarball $ran_debootstrap" != "yes yes" ] || fail "$1: debootstrap ran beside a tarball"
    [ -e "$work/out/root.tar.gz" ] || fail "$1: no tarball was made"
    ls -ls "$work/out/$1.img" | tee "$work/$1.size"
    # Sparse: what is empty takes no room.
    blocks=$(($(stat -c %b "$work/out/$1.img") / 2048)) size=$(($(stat -c %s "$work/out/$1.img") >> 20))
    [ "$blocks" -lt "$((size / 2))" ] || fail "$1: $blocks MiB of $size MiB are taken"
}

# Boots an image, logs in as root without a password, and looks around.
boot() {
    image=$1
    shift
    step "$image: boot"
    vbuild boot "$image.img" --timeout "$wait" "$@" \
        --expect 'pc-vmdb2 login:' --answer root \
        --expect 'root@pc-vmdb2:~#' --answer 'echo user $(id -u) on $(findmnt -no SOURCE,FSTYPE / | tr -s " ")' \
        --expect 'user 0 on /dev/' --answer poweroff --expect 'reboot: Power down'
}

# Runs a script in a fresh guest that has a copy of an image as $D.
look() {
    image=$1
    step "$image: its layers in another machine"
    cp --sparse=always "$work/out/$image.img" "$work/out/copy.img"
    [ "$(id -u)" -ne 0 ] || chown 65534 "$work/out/copy.img"
    vbuild exec --no-network --drive copy.img -- sh -euc "
        for D in /sys/block/vd*; do
            [ \"\$(cat \$D/size)\" -ne $(($(stat -c %s "$work/out/$image.img") / 512)) ] || break
        done
        D=/dev/\${D##*/}
        mkdir -p /run/at
        $2"
    rm -f "$work/out/copy.img"
}

for name in "$@"; do
    case $name in
    bios)
        [ -n "${VBUILD_TEST_TARBALL:-}" ] || rm -f "$work/out/root.tar.gz"
        build bios
        boot bios
        ;;
    uefi)
        build uefi
        boot uefi --uefi
        ;;
    lvm)
        build lvm
        look lvm '
            vgchange -ay vg0; lvs vg0
            mount -o ro /dev/vg0/rootfs /run/at; mount -o ro /dev/vg0/home /run/at/home
            grep there /run/at/home/note; cat /run/at/etc/fstab
            umount -R /run/at; vgchange -an vg0'
        boot lvm
        ;;
    luks)
        build luks
        look luks '
            cryptsetup luksDump ${D}2 | grep -E "Version|PBKDF"
            printf asdf | cryptsetup open --key-file - ${D}2 root_crypt
            mount -o ro /dev/mapper/root_crypt /run/at
            cat /run/at/etc/crypttab /run/at/etc/fstab; grep 12 /run/at/etc/debian_version
            umount /run/at; cryptsetup close root_crypt'
        boot luks --expect 'lease unlock disk' --answer asdf
        ;;
    ansible)
        build ansible
        # Its one partition is what exec mounts as the drive.
        look ansible '
            grep "hello from the playbook" /helper/etc/motd; grep bookworm /helper/etc/asked'
        ;;
    *) fail "there is no spec $name" ;;
    esac
done
step "done"
