export PROBE_COUNT=$((${PROBE_COUNT:-0} + 1))
export PROBE_SOURCED="${PROBE_SOURCED:-}10-first.bash "
