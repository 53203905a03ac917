# Runs a step of the spec outside of the image, as vmdb2 does on its host. The
# image has there the path that the spec calls it by.
# Arguments: the step's text, then paths and devices by turns.
set -eu
text=$1
shift
while [ $# -gt 0 ]; do
    case $1 in
        /dev/*) ;;
        *)
            # A shared directory of the host cannot be written to.
            mkdir -p -- "$(dirname -- "$1")" && ln -sfn -- "$2" "$1" ||
                echo "the image is not known as $1 here, but as $2" >&2
            ;;
    esac
    shift 2
done
exec sh -ec "$text"
