# Gives a tree what vmdb2 leaves in it between steps, and takes it away again: what is noted
# as given and is still the same.
# Arguments: give, hide, show or take, root of the image, directory of the notes, and with
# give the files below /etc, which the image gets from this machine.
set -eu
what=$1 etc=$2/etc notes=$3
shift 3
mkdir -p -- "$notes"
# Below a link, a file of another tree would be changed.
if [ -L "$etc" ] || [ ! -d "$etc" ]; then
    exit 0
fi
is_same() { [ -f "$etc/$1" ] && [ ! -L "$etc/$1" ] && cmp -s -- "$2" "$etc/$1"; }
case $what in
    give)
        for name; do
            if [ ! -e "$etc/$name" ] && [ ! -L "$etc/$name" ] && [ -e "/etc/$name" ]; then
                cat "/etc/$name" >"$notes/$name"
                cat "$notes/$name" >"$etc/$name"
            fi
        done
        ;;
    hide)
        for note in "$notes"/*; do
            name=${note##*/}
            if [ -f "$note" ] && is_same "$name" "$note"; then
                rm -- "$etc/$name"
                mkdir -p -- "$notes/.hidden"
                mv -- "$note" "$notes/.hidden/$name"
            fi
        done
        ;;
    show)
        for note in "$notes"/.hidden/*; do
            if [ -f "$note" ]; then
                cat "$note" >"$etc/${note##*/}"
                mv -- "$note" "$notes/"
            fi
        done
        ;;
    take)
        for note in "$notes"/*; do
            name=${note##*/}
            if [ -f "$note" ] && is_same "$name" "$note"; then
                rm -- "$etc/$name"
            fi
        done
        rm -rf -- "$notes"
        ;;
esac
