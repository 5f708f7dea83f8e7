#!/usr/bin/env bash
# check.sh BUILD [MODEL [ADAPTER ADAPTER]]: installs BUILD into a fresh prefix, and builds and runs a separate project against it.
set -euo pipefail
build=$(realpath "$1")
shift
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/prefix" >/dev/null
cmake -S "$here" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$work/prefix" >/dev/null
cmake --build "$work/build" >/dev/null
"$work/build/consumer" "$@"
"$work/prefix/bin/cambium" version
test -s "$work/prefix/share/man/man1/cambium.1"
echo "install: a separate project builds and runs against the installed package"
