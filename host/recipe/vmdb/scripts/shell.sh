# Runs a step of the spec outside of the image, as vmdb2 does on its host. The
# image has there the path that the spec calls it by.
# Arguments: the step's text, where its working directory can be written, then paths and
# devices by turns.
set -eu
text=$1 writable=$2
shift 2
while [ $# -gt 0 ]; do
    case $1 in
        /dev/*) at= ;;
        /* | ../* | */../*) at=$1 ;;
        *) at=$writable/$1 ;;
    esac
    if [ -n "$at" ]; then
        # A shared directory of the host cannot be written to.
        mkdir -p -- "$(dirname -- "$at")" && ln -sfn -- "$2" "$at" ||
            echo "the image is not known as $1 here, but as $2" >&2
    fi
    shift 2
done
exec sh -ec "$text"
