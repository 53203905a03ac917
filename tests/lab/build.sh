#!/bin/sh
# One whole build through all phases, for tests/lab.sh: an operating system of a
# few megabytes with scripts in all ten phases, as a disk image and as an archive.
#
# usage: build.sh VBUILD ACCEL CACHE ELEMENTS DIRECTORY
set -eu
vbuild=$1 accel=$2 cache=$3 elements=$4
cd "$5"
# With a seed, identifiers are the same in every build.
SOURCE_DATE_EPOCH=1700000000 "$vbuild" -p "$elements" --skip-base --accel "$accel" --cache-dir "$cache" \
    --smp 2 -m 1024 --no-network --no-cache --mkfs-journal-size 8 --quiet \
    --formats raw,tar --name image tiny-os keepsakes || {
    status=$?
    tail -n 60 "$cache"/logs/*.log
    exit $status
}
