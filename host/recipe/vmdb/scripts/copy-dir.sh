# Merges a tree into the image: directories that exist keep what they are,
# links stay links. Arguments: root of the image, directory below it, the tree,
# mode of directories that lead there, user or uid, group or gid.
set -eu
root=$1 path=$2 tree=$3 mode=$4

# The number that a name has in the image, not here.
number() {
    case $1 in
        *[!0-9]*)
            id=$(awk -F: -v name="$1" '$1 == name { print $3; exit }' "$root/etc/$2")
            if [ -z "$id" ]; then
                echo "there is no $1 in /etc/$2 of the image" >&2
                exit 1
            fi
            echo "$id"
            ;;
        *) echo "$1" ;;
    esac
}

# A link in the image may lead into the root of this machine.
inside() {
    real=$(realpath -m -- "$1")
    case $real in
        "$root" | "$root"/*) ;;
        *)
            echo "${1#"$root"} leads out of the image, to $real" >&2
            exit 1
            ;;
    esac
}

uid=$(number "$5" passwd)
gid=$(number "$6" group)
at=$root
inside "$root$path"
old_ifs=$IFS
IFS=/
set -f
for part in $path; do
    [ -n "$part" ] || continue
    at=$at/$part
    if [ ! -d "$at" ]; then
        mkdir -- "$at"
        chown -- "$uid:$gid" "$at"
        chmod -- "$mode" "$at"
    fi
done
IFS=$old_ifs
set +f
cd "$tree"
find . -type d -print | while IFS= read -r directory; do
    if [ -L "$at/$directory" ]; then
        inside "$at/$directory"
    fi
done
find . -mindepth 1 -print0 |
    tar --create --numeric-owner --owner="$uid" --group="$gid" --no-recursion \
        --null --files-from=- --file=- |
    tar --extract --file=- --directory "$at" --preserve-permissions --numeric-owner \
        --same-owner --no-overwrite-dir --keep-directory-symlink
