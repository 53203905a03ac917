#!/bin/sh
# The slow images: real Debian systems from diskimage-builder's elements, built as
# an ordinary user, looked into, and booted to a shell on their serial console.
#
# usage: tests/images.sh [NAME]...      (default: all, in this order)
#   minimal    debian-minimal alone, as an archive: what is in it and what is not
#   vm-mbr     bootable from a partition table of DOS
#   vm-gpt     bootable from GPT by BIOS
#   vm-efi     bootable by BIOS and by UEFI
#   boot       /boot, swap and root of their own
#   debian     the element `debian`, with a user, DHCP, SSH, on a /home, swap and
#              root of their own; kernel and initrd beside it; the root grows
#   efi-lvm    logical volumes with xfs, by UEFI
#   data       a second disk
#   xfs btrfs  other roots
#   ramdisk    kernel and initrd of a ramdisk
#   offline    once more from the caches of the drive, without a network
#
# VBUILD names the program (default: the release build), VBUILD_TEST_DIR a folder
# that is kept, with caches, images and logs (default: a new one, removed at the
# end), VBUILD_TEST_HOME a home whose caches are used, VBUILD_ARGS further options
# for each build. Without KVM an image takes ten minutes to half an hour. What
# worked is noted in tests/conformance/results; tests/conformance.sh tables shows it.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
[ $# -gt 0 ] || set -- minimal vm-mbr vm-gpt vm-efi boot debian efi-lvm data xfs btrfs ramdisk offline
program=${VBUILD:-${CARGO_TARGET_DIR:-$here/target}/release/vbuild}
. "$here/tests/ground.sh"
ground images "$program"
wait=${VBUILD_TEST_WAIT:-900}

mirror=$(debian_mirror)
# The bare system is bootstrapped once and kept on the helper drive, as the element
# debootstrap documents: it is the same for all of these images.
bootstrap="--envvar DIB_DEBOOTSTRAP_CACHE=1 --envvar DIB_DEBIAN_USE_DEBOOTSTRAP_CACHE=1"

# An element of the tests makes the initrds small: see there.
cp -R "$here/tests/elements" "$work/"
chmod -R a+rX "$work/elements"

# build NAME OPTION...: an image of that name.
build() {
    name=$1
    shift
    step "$name: build"
    [ -e "$work/out/cache.img" ] || vbuild cache create cache.img --size 10G
    vbuild -v -p "$work/elements" --drive cache.img --name "$name" --logfile "$name.log" \
        --envvar DIB_RELEASE=bookworm --envvar "DIB_DISTRIBUTION_MIRROR=$mirror" \
        --envvar "DIB_DEBIAN_SECURITY_MIRROR=$mirror-security" $bootstrap ${VBUILD_ARGS:-} "$@" \
        >"$work/out/$name.out" || {
        tail -n 30 "$work/out/$name.out"
        fail "$name: build"
    }
    ls -ls "$work/out/$name".* | grep -v '\.log$\|\.out$'
}

# What the element `bootloader` tells the kernel.
parameters='console=tty0 console=ttyS0,115200 no_timer_check nofb nomodeset gfxpayload=text'

# A user who may become root, for looking around on the console.
with_user="--envvar DIB_DEV_USER_USERNAME=looker --envvar DIB_DEV_USER_PASSWORD=looker
    --envvar DIB_DEV_USER_PWDLESS_SUDO=yes --envvar DIB_DEV_USER_SHELL=/bin/bash"

# boot IMAGE TEXTS OPTION...: logs in, looks around, and finds each of the TEXTS, which
# `|` separates, in this order in what it saw.
boot() {
    image=$1 texts=$2
    shift 2
    step "$image: boot $*"
    look='cat /proc/cmdline; findmnt -rno TARGET,FSTYPE,SOURCE; lsblk -rno NAME,FSTYPE,LABEL,SIZE; /sbin/swapon --show; systemctl is-active ssh; echo looked-around'
    set -- "$@" --expect 'login:' --answer looker --expect 'Password:' --answer looker \
        --expect '$' --answer "$look"
    while [ -n "$texts" ]; do
        set -- "$@" --expect "${texts%%|*}"
        case $texts in *'|'*) texts=${texts#*|} ;; *) texts= ;; esac
    done
    vbuild boot "$image" --timeout "$wait" "$@" --expect 'looked-around' >"$work/out/$image.console" 2>&1 || {
        tail -n 40 "$work/out/$image.console"
        fail "$image: boot"
    }
}

# The archive of an image, and whether something is or is not in it.
has() { tar -tf "$work/out/$name.tar" | sed 's,^\./,,' | grep -qx "$1" || fail "$name has no $1"; }
lacks() { ! tar -tf "$work/out/$name.tar" | sed 's,^\./,,' | grep -q "^$1" || fail "$name has $1"; }
says() {
    tar -xOf "$work/out/$name.tar" "./$1" 2>/dev/null | grep -q "$2" ||
        tar -xOf "$work/out/$name.tar" "$1" | grep -q "$2" || fail "$1 of $name does not say $2"
}

partitions='
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: mbr
    partitions:
      - {name: home, flags: [primary], size: 512MiB, mkfs: {type: ext4, label: HOME, mount: {mount_point: /home, fstab: {options: defaults, fsck-passno: 2}}}}
      - {name: swap, flags: [primary], type: "0x82", size: 256MiB, mkfs: {type: swap, label: SWAP, mount: {mount_point: swap, fstab: {}}}}
      - {name: root, flags: [boot, primary], size: 100%, mkfs: {name: mkfs_root, mount: {mount_point: /, fstab: {options: defaults, fsck-passno: 1}}}}'
with_boot='
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: mbr
    partitions:
      - {name: boot, flags: [boot, primary], size: 384MiB, mkfs: {type: ext4, label: BOOT, mount: {mount_point: /boot, fstab: {options: defaults, fsck-passno: 2}}}}
      - {name: swap, flags: [primary], type: "0x82", size: 128MiB, mkfs: {type: swap, label: SWAP, mount: {mount_point: swap, fstab: {}}}}
      - {name: root, flags: [primary], size: 100%, mkfs: {name: mkfs_root, mount: {mount_point: /, fstab: {options: defaults, fsck-passno: 1}}}}'
two_disks='
- local_loop: {name: image0}
- local_loop: {name: data0, size: 512MiB, directory: .}
- partitioning:
    base: image0
    label: mbr
    partitions:
      - {name: root, flags: [boot, primary], size: 100%, mkfs: {name: mkfs_root, mount: {mount_point: /, fstab: {options: defaults, fsck-passno: 1}}}}
- mkfs: {name: data, base: data0, type: ext4, mount: {mount_point: /srv, fstab: {options: "defaults,nofail", fsck-passno: 2}}}'

run() {
    case $1 in
        minimal)
            build minimal --formats tar,tgz debian-minimal element-manifest
            has etc/apt/apt.conf.d/95disable-recommends
            has etc/apt/apt.conf.d/95no-translations
            lacks etc/apt/apt.conf.d/60img-build-proxy
            lacks etc/apt/apt.conf.d/02apt-speedup
            lacks var/lib/apt/lists/.
            lacks 'var/cache/apt/archives/.*deb'
            lacks usr/sbin/policy-rc.d
            lacks proc/.
            lacks 'dev/\(kvm\|vd\|loop\|vsock\|mapper\|ttyS\|hvc\|rtc\)'
            lacks sbin/start-stop-daemon.REAL
            lacks usr/sbin/start-stop-daemon.REAL
            says etc/hostname debian
            says etc/machine-id uninitialized
            says etc/network/interfaces.d/eth0 dhcp
            says etc/apt/sources.list.d/default.list "$mirror bookworm main"
            says etc/apt/sources.list.d/updates.list "$mirror bookworm-updates main"
            says etc/apt/sources.list.d/security.list "$mirror-security bookworm-security main"
            test -s "$work/out/minimal.d/dib-manifests/dib-element-manifest"
            test -s "$work/out/minimal.d/dib-manifests/dib-manifest-dpkg-minimal"
            says etc/dib-manifests/dib-manifest-dpkg-minimal base-files
            ;;
        vm-mbr)
            build vm-mbr $with_user debian-minimal vm devuser small-initrd
            boot vm-mbr.qcow2 "$parameters"
            ;;
        vm-gpt)
            build vm-gpt $with_user debian-minimal vm block-device-gpt devuser small-initrd
            boot vm-gpt.qcow2 'cloudimg-rootfs'
            ;;
        vm-efi)
            build vm-efi $with_user debian-minimal vm block-device-efi devuser small-initrd
            boot vm-efi.qcow2 '/boot/efi'
            boot vm-efi.qcow2 '/boot/efi' --uefi
            ;;
        boot)
            build boot $with_user --size 4G --envvar "DIB_BLOCK_DEVICE_CONFIG=$with_boot" \
                debian-minimal vm devuser small-initrd
            boot boot.qcow2 'boot=LABEL=BOOT|/boot ext4|partition 128M'
            ;;
        debian)
            # The computed size is that of the files, without /home and swap beside them.
            build debian $with_user --size 6G --formats qcow2,tar --envvar DIB_CLOUD_INIT_DATASOURCES=None \
                --envvar "DIB_BLOCK_DEVICE_CONFIG=$partitions" \
                debian vm devuser dhcp-all-interfaces growroot openssh-server runtime-ssh-host-keys \
                cloud-init-datasources baremetal small-initrd
            lacks 'etc/ssh/ssh_host_.*key'
            has etc/systemd/system/multi-user.target.wants/ssh-keygen.service
            has etc/udev/rules.d/99-dhcp-all-interfaces.rules
            test -r "$work/out/debian.d/debian.vmlinuz"
            test -r "$work/out/debian.d/debian.initrd"
            (cd "$work/out" && qemu-img create -q -f qcow2 -b debian.qcow2 -F qcow2 larger.qcow2 20G)
            chmod a+rw "$work/out/larger.qcow2"
            # What remains of 20 GiB beside /home and swap.
            boot larger.qcow2 "$parameters|/home ext4|cloudimg-rootfs 19|partition 256M" --with-network
            ;;
        efi-lvm)
            build efi-lvm $with_user --size 45G --extra-packages lvm2,xfsprogs \
                debian-minimal vm block-device-efi-lvm devuser small-initrd
            boot efi-lvm.qcow2 'vg-lv_var' --uefi
            ;;
        data)
            build data $with_user --envvar "DIB_BLOCK_DEVICE_CONFIG=$two_disks" debian-minimal vm devuser small-initrd
            test -s "$work/out/data0.raw"
            boot data.qcow2 'cloudimg-rootfs'
            ;;
        xfs)
            build xfs $with_user --fs-type xfs --extra-packages xfsprogs debian-minimal vm devuser small-initrd
            boot xfs.qcow2 '/ xfs'
            ;;
        btrfs)
            build btrfs $with_user --fs-type btrfs --extra-packages btrfs-progs debian-minimal vm devuser small-initrd
            boot btrfs.qcow2 '/ btrfs'
            ;;
        ramdisk)
            build ramdisk --ramdisk --envvar DIB_PYTHON_VERSION=3 \
                --extra-packages wget,tgt,kmod,iproute2,busybox debian-minimal small-initrd
            ls "$work/out/ramdisk.d" | grep -q kernel
            ls "$work/out/ramdisk.d" | grep -q init
            ;;
        offline)
            build first --no-cache --formats tar debian-minimal small-initrd
            build second --no-cache --formats tar --envvar DIB_AVOID_PACKAGES_UPDATE=1 --no-network \
                debian-minimal small-initrd
            ;;
        *) fail "no image is called $1" ;;
    esac
}

for wanted in "$@"; do
    run "$wanted"
    results=$here/tests/conformance/results
    if [ -w "$results" ]; then
        { grep -v " images.sh $wanted\$" "$results" || true; echo "ok images.sh $wanted"; } |
            sort -k 2 >"$results.new"
        mv "$results.new" "$results"
    fi
done
step "done"
