# Makes the links that udev would make: GRUB's scripts name the root by its UUID
# only where the link by it exists. Arguments: UUIDs and devices by turns.
set -eu
mkdir -p /dev/disk/by-uuid
while [ $# -gt 0 ]; do
    ln -sfn -- "$2" "/dev/disk/by-uuid/$1"
    shift 2
done
