# Gives something in the image its mode and owner.
# Arguments: root of the image, path below it, mode in octal or -, uid:gid.
set -eu
real=$(realpath -- "$1/$2")
case $real in
    "$1" | "$1"/*) ;;
    *)
        echo "$2 leads out of the image, to $real" >&2
        exit 1
        ;;
esac
chown -- "$4" "$real"
[ "$3" = - ] || chmod -- "$3" "$real"
