#!/usr/bin/env bash
# tests/clients.sh CAMBIUM [MODEL]: programs that others made for OpenAI's API against `cambium serve`. They are installed by
# name into build/clients, and skipped where that fails (no network).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cambium=$(realpath "$1")
model=${2:-smollm2}
venv=build/clients
packages="openai litellm langchain-openai instructor llm"
if [ ! -e "$venv/.complete" ]; then
  python3 -m venv "$venv"
  if ! timeout 600 "$venv/bin/pip" install --quiet --disable-pip-version-check $packages; then
    echo "clients: skipped, the packages cannot be installed" >&2
    exit 0
  fi
  touch "$venv/.complete"
fi
PYTHONWARNINGS=ignore exec "$venv/bin/python" tests/clients.py "$cambium" "$model"
