#!/usr/bin/env bash
# tests/python.sh [BUILD]: builds the Python package on the engine that BUILD (build/release) holds, installs the wheel into a
# bare virtual environment, and runs tests/python there. Skipped where the packages cannot be had (no network).
# CAMBIUM_TEST_PYTHON: another interpreter, whose site packages (torch, transformers, peft) the tests then compare with.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=$(realpath "${1:-build/release}")
work=build/python-test
tools="scikit-build-core nanobind"
tests="numpy pytest bottleneck pandas"
python=${CAMBIUM_TEST_PYTHON:-python3}

make_venv() {  # NAME PACKAGE...
  local venv=$work/$1
  shift
  [ -e "$venv/.complete" ] && return
  rm -rf "$venv"
  "$python" -m venv "$venv"
  timeout 600 "$venv/bin/pip" install --quiet --disable-pip-version-check "$@" || return 1
  touch "$venv/.complete"
}

mkdir -p "$work"
if ! make_venv tools $tools || ! make_venv bare $tests; then
  echo "python: skipped, the packages cannot be installed" >&2
  exit 0
fi
cmake --install "$build" --prefix "$work/prefix" >/dev/null
rm -rf "$work/wheel"
PATH="$PWD/$work/tools/bin:$PATH" "$work/tools/bin/pip" wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
  --wheel-dir "$work/wheel" --config-settings="cmake.define.cambium_ROOT=$PWD/$work/prefix" \
  --config-settings="build-dir=$work/build" .
bytes=$(stat -c %s "$work"/wheel/*.whl)
echo "python: $(basename "$work"/wheel/*.whl), $((bytes >> 10)) KiB"
[ "$bytes" -le $((15 << 20)) ] || { echo "python: the wheel has $bytes bytes, more than 15 MiB" >&2; exit 1; }
"$work/bare/bin/pip" install --quiet --disable-pip-version-check --no-deps --force-reinstall "$work"/wheel/*.whl
"$work/bare/bin/cambium" version
PATH="$PWD/$work/bare/bin:$PATH" "$work/bare/bin/python" -m pytest -q -p no:cacheprovider tests/python
