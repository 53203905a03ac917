#!/bin/sh
# Makes an ext filesystem again from its own files, so that the same files always
# give the same bytes: where a block lies otherwise depends on when the kernel
# happened to write it.
#
# usage: remake-ext.sh EPOCH DEVICE WORK MKFS...
#   EPOCH   all times but those of change, in seconds since 1970
#   DEVICE  where the filesystem is; not mounted
#   WORK    a directory to make and remove, with room for the files
#   MKFS... the command that made the filesystem, without the device
set -eu
epoch=$1 device=$2 work=$3
shift 3
tree=$work/tree image=$work/image
rm -rf "$work"
mkdir -p "$tree"
mount -o noatime "$device" "$tree"
trap 'umount "$tree"' EXIT
# Mount points of other filesystems could not be seen before.
find "$tree" -newermt "@$epoch" -print0 | xargs -0r touch -h -m -d "@$epoch"
mount -o remount,ro "$tree"
truncate -s "$(blockdev --getsize64 "$device")" "$image"
E2FSPROGS_FAKE_TIME=$epoch "$@" -b "$(stat -f -c %S "$tree")" -d "$tree" "$image"
# mke2fs copies the files, but not what the top directory is.
top=$(stat -c 'sif <2> mode 0x%f
sif <2> uid %u
sif <2> gid %g
sif <2> mtime @%Y' "$tree")
umount "$tree"
trap - EXIT

# It takes over the times of access and of change of the status, too. Inodes are
# handed out from number 11 on without a gap.
number() { dumpe2fs -h "$image" 2>/dev/null | sed -n "s/^$1: *//p"; }
used=$(($(number 'Inode count') - $(number 'Free inodes')))
{
    echo "set_current_time @$epoch"
    echo "$top"
    seq 11 "$used" | sed "s/.*/sif <&> atime @$epoch\nsif <&> ctime @$epoch/"
} >"$work/commands"
# debugfs ends well whatever it is told; what it did not like it says.
said=$(debugfs -w -f "$work/commands" "$image" 2>&1 >/dev/null | grep -v '^debugfs [0-9]' || :)
[ -z "$said" ] || {
    echo "$said" >&2
    exit 1
}
e2fsck -fn "$image" >"$work/check" 2>&1 || {
    tail -n 20 "$work/check" >&2
    exit 1
}

# What the old filesystem left goes first. Discarded blocks read as zeros here;
# where they do not, everything is written.
blkdiscard -f "$device" || :
dd if="$image" of="$device" bs=64K conv=sparse,notrunc,fsync status=none
cmp -s "$image" "$device" || dd if="$image" of="$device" bs=1M conv=notrunc,fsync status=none
rm -rf "$work"
