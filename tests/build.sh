#!/bin/sh
# Builds vbuild with its agent inside: first the static agent, then the host
# binary that carries it. Prints nothing but cargo's own words.
set -eu
cd "$(dirname "$0")/.."
cargo agent --locked
VBUILD_EMBED_AGENT="${CARGO_TARGET_DIR:-$PWD/target}/x86_64-unknown-linux-gnu/release/vbuild-agent"
export VBUILD_EMBED_AGENT
cargo build --release --locked --package vbuild
