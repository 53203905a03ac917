# Fails unless a directory holds nothing but lost+found.
set -eu
found=$(find "$1" -mindepth 1 -maxdepth 1 ! -name lost+found -printf '%f ')
if [ -n "$found" ]; then
    echo "the target of debootstrap is not empty, it holds: $found" >&2
    exit 1
fi
