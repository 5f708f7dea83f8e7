#!/usr/bin/env bash
# sanitize.sh LEG: builds the tests with a sanitizer and runs them. LEG: address (ASan and UBSan, preset dev), thread (TSan,
# preset tsan), all, or alternate: one of the two by the number of commits, so that both are run in two changes' time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "sanitize: $*" >&2; }

# Left out of both legs: what needs the real model or repeats a whole run many times; the code they reach is in other tests.
slow='SmolLM2|KilledAtRandomInstants|Golden'
# The tests that run threads, which TSan's leg builds and runs; files, texts and grammars run on one.
threaded='parallel matmul gemm ops attention attention_backward kv_cache forward model model_gradient mtp_model lora
  prefix_adapter delta full heads trainer scheduler serving engine constraint graft_serving drafters drafter_sessions
  planner verify server'

# run_leg PRESET TARGET...
run_leg() {
  local preset=$1 wrapper=()
  say "preset $preset; not run: tests that match $slow"
  cmake --preset "$preset" >/dev/null
  cmake --build "build/$preset" --target "${@:2}"
  # TSan of GCC 12 wants addresses where newer kernels do not put them unless told so.
  if [ "$preset" = tsan ] && setarch "$(uname -m)" -R true 2>/dev/null; then wrapper=(setarch "$(uname -m)" -R); fi
  # ctest names a program that was not built as a test that fails.
  TSAN_OPTIONS=halt_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 \
    "${wrapper[@]}" ctest --test-dir "build/$preset" --output-on-failure -j"$(nproc)" -E "$slow|_NOT_BUILT"
}

commits() {
  if [ "$(git rev-parse --is-shallow-repository)" = true ]; then
    echo $((16#$(git rev-parse HEAD | tail -c 2)))  # of a clone without history: the last digit of the commit's hash
  else
    git rev-list --count HEAD
  fi
}

case $1 in
  address) run_leg dev tests ;;
  thread) run_leg tsan $(printf '%s_test ' $threaded) ;;
  all) "$0" address && "$0" thread ;;
  alternate)
    if [ $(($(commits) % 2)) = 0 ]; then leg=address; else leg=thread; fi
    say "this commit's leg is $leg"
    "$0" $leg
    ;;
  *) say "error: $1 is not one of address, thread, all, alternate"; exit 2 ;;
esac
