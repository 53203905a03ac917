# Writes fstab, and crypttab when there are containers.
# Arguments: root of the image, then by fives: fs UUID place type -, or
# crypt UUID name - -.
set -eu
etc=$1/etc
shift
mkdir -p -- "$etc"
: >"$etc/fstab"
crypts=
while [ $# -gt 0 ]; do
    case $1 in
        fs) printf 'UUID=%s %s %s defaults 0 1\n' "$2" "$3" "$4" >>"$etc/fstab" ;;
        crypt) crypts="$crypts$3 UUID=$2 none luks,discard
" ;;
    esac
    shift 5
done
if [ -n "$crypts" ]; then
    printf '%s' "$crypts" >"$etc/crypttab"
fi
