# Unmounts whatever is mounted below a directory, deepest first, except for some
# places. Arguments: the directory, the places to keep.
set -eu
root=$1
shift
awk -v root="$root" 'index($5, root "/") == 1 { print $5 }' /proc/self/mountinfo | sort -r |
while read -r target; do
    target=$(printf '%b' "$target")
    keep=
    for place in "$@"; do
        [ "$target" = "$place" ] && keep=yes
    done
    if [ -z "$keep" ]; then
        echo "Unmount $target"
        umount "$target" 2>/dev/null || umount -l "$target"
    fi
done
