#!/usr/bin/env bash
# tests/page/page.sh CAMBIUM [MODEL]: the page in Debian's Chromium, driven by selenium and looked at by axe, which are
# installed by name into build/page; skipped where that fails (no network). CAMBIUM_PAGE_SHOTS=DIR keeps a picture of each
# view.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cambium=$(realpath "$1")
model=${2:-smollm2}
venv=build/page
if [ ! -e "$venv/.complete" ]; then
  python3 -m venv "$venv"
  if ! timeout 600 "$venv/bin/pip" install --quiet --disable-pip-version-check selenium axe-core-python; then
    echo "page: skipped, selenium and axe cannot be installed" >&2
    exit 0
  fi
  touch "$venv/.complete"
fi
exec "$venv/bin/python" tests/page/page.py "$cambium" "$model"
