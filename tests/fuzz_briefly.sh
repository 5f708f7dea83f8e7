#!/usr/bin/env bash
# fuzz_briefly.sh SECONDS: builds the libFuzzer targets with clang and runs each from its corpus, SECONDS in all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=$1
shopt -s nullglob
sources=(tests/fuzz/*_fuzz.cc)
if [ ${#sources[@]} -eq 0 ] || ! command -v clang++-14 >/dev/null; then
  echo "fuzzing skipped: no clang++-14 or no targets" >&2
  exit 0
fi
cmake --preset release -B build/fuzz -DCMAKE_CXX_COMPILER=clang++-14 -DCMAKE_C_COMPILER=clang-14 -DCAMBIUM_FUZZ=ON \
  -DCMAKE_CXX_FLAGS_RELEASE=-O1 -DCAMBIUM_TESTS=OFF -DCAMBIUM_BENCH=OFF -DCAMBIUM_INSTALL=OFF >/dev/null
cmake --build build/fuzz --target fuzz
each=$((seconds / ${#sources[@]}))
for source in "${sources[@]}"; do
  name=$(basename "$source" .cc)
  new=$(mktemp -d)
  build/fuzz/tests/fuzz/"$name" -max_total_time="$((each > 0 ? each : 1))" -rss_limit_mb=2048 -timeout=10 \
    -artifact_prefix=build/fuzz/"$name"- "$new" tests/fuzz/corpus/"${name%_fuzz}" >build/fuzz/"$name".log 2>&1 ||
    { tail -n 40 build/fuzz/"$name".log >&2; exit 1; }
  echo "$name: $(tail -n 1 build/fuzz/"$name".log)"
  rm -rf "$new"
done
