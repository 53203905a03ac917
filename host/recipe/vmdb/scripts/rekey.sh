# Replaces the key that a container had while it was built by the first line
# that a command prints. Arguments: device, the build's key, the command.
set -eu
keys=$(mktemp -d -p /dev)
trap 'rm -rf -- "$keys"' EXIT
umask 077
printf '%s' "$2" >"$keys/old"
sh -ec "$3" | head -n 1 | tr -d '\n' >"$keys/new"
if [ ! -s "$keys/new" ]; then
    echo "the command for the key printed nothing" >&2
    exit 1
fi
cryptsetup luksChangeKey --batch-mode --key-file "$keys/old" "$1" "$keys/new"
