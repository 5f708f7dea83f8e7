#!/usr/bin/env bash
# compare.sh MODEL LLAMA_BENCH [PEER_MODEL] [ROUNDS]: `cambium bench` on MODEL and llama-bench on PEER_MODEL (the same file
# by default) in turn, two threads, and the ratio of each round; prompt 512 and 64 decoded tokens. CAMBIUM names the
# program (build/release/src/cambium); COMPARE_PROMPT, COMPARE_DECODE and COMPARE_DEPTH change the shape; further
# options for llama-bench go into LLAMA_OPTIONS, such as `-fa 1`.
set -euo pipefail
model=$1 llama_bench=$2 peer_model=${3:-$1} rounds=${4:-5}
cambium=${CAMBIUM:-$(dirname "$0")/../build/release/src/cambium}
prompt=${COMPARE_PROMPT:-512} decode=${COMPARE_DECODE:-64} depth=${COMPARE_DEPTH:-0}
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT
for ((round = 1; round <= rounds; ++round)); do
  ours=$("$cambium" bench "$model" -t 2 -p "$prompt" -n "$decode" -d "$depth" -r 3 --no-verify --json -q)
  # shellcheck disable=SC2086
  peer=$("$llama_bench" -m "$peer_model" -t 2 -p "$prompt" -n "$decode" -d "$depth" -r 3 -o json ${LLAMA_OPTIONS:-} 2>/dev/null)
  printf '%s\n%s\n' "$ours" "$(tr -d '\n' <<<"$peer")" >>"$lines"
  echo "round $round of $rounds" >&2
done
python3 - "$lines" <<'PYTHON'
import json, statistics, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
rows = {"prefill": [], "decode": []}
for ours, peer in zip(lines[::2], lines[1::2]):
    for test in peer:
        kind = "prefill" if test["n_prompt"] else "decode"
        rows[kind].append((ours[f"{kind}_tps"], statistics.median(test["samples_ts"])))
print(f"{'':8} {'cambium':>9} {'llama.cpp':>9} {'ratio':>7}  [lowest .. highest ratio], medians, tokens/s")
for kind, pairs in rows.items():
    if not pairs:
        continue
    ratios = [a / b for a, b in pairs]
    print(f"{kind:8} {statistics.median(a for a, _ in pairs):9.1f} {statistics.median(b for _, b in pairs):9.1f} "
          f"{statistics.median(ratios):7.2f}  [{min(ratios):.2f} .. {max(ratios):.2f}]")
PYTHON
