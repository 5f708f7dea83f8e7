#!/usr/bin/env bash
# tests/scale.sh CAMBIUM [MODEL]: batch work in shards, killed and begun again, is byte for byte one run; the examples of
# examples/scale that are installed here; manifests against Kubernetes' schemas; and replicas behind proxies.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cambium=$(realpath "$1") model=${2:-smollm2}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CAMBIUM=$cambium
fail() { echo "scale: $*" >&2; exit 1; }

for i in $(seq 40); do
  echo "{\"id\": \"r$i\", \"prompt\": \"The number $i is\", \"max_tokens\": $((i % 9 + 1)), \"temperature\": 0.7}"
done >"$work/in.jsonl"
echo '{"id": "bad", "prompt": 5}' >>"$work/in.jsonl"
sed 's/"prompt"/"text"/; s/, "max_tokens".*/}/' "$work/in.jsonl" >"$work/texts.jsonl"

# in_shards VERB IN: the whole, and 1, 3 and 8 shards of which each is killed twice.
in_shards() {
  local verb=$1 in=$2 n i kill
  "$cambium" "$verb" "$model" --jsonl "$in" -o "$work/$verb.whole" -q
  for n in 1 3 8; do
    for ((i = 0; i < n; ++i)); do
      for kill in 0.3 0.5; do
        { timeout -s KILL "$kill" "$cambium" "$verb" "$model" --jsonl "$in" --shard "$i/$n" -o "$work/$verb.$n.$i" -q || true; } 2>/dev/null
      done
      "$cambium" "$verb" "$model" --jsonl "$in" --shard "$i/$n" -o "$work/$verb.$n.$i" -q
    done
    for ((i = 0; i < n; ++i)); do cat "$work/$verb.$n.$i"; done | cmp - "$work/$verb.whole" || fail "$verb: $n shards differ from one"
    for ((i = 0; i < n; ++i)); do cat "$work/$verb.$n.$i.errors" 2>/dev/null || true; done | cmp - "$work/$verb.whole.errors"
  done
  echo "scale: $verb: 1, 3 and 8 shards, each killed twice, are one run"
}
in_shards generate "$work/in.jsonl"
in_shards score "$work/texts.jsonl"

head -40 "$work/in.jsonl" >"$work/good.jsonl"
examples/scale/parallel.sh "$model" "$work/good.jsonl" "$work/parallel" 5
cmp "$work/parallel" <(head -40 "$work/generate.whole") || fail "parallel.sh differs from one run"
echo "scale: examples/scale/parallel.sh is one run"

# A search of parts and their merge is a search of the whole.
for i in $(seq 6); do
  for j in $(seq 50); do echo "line $j of file $i: $(seq -s ' ' $((j * i % 13))) cambium and $(seq -s ' ' $((j % 7))) bark"; done >"$work/part$i.txt"
done
"$cambium" search -n 25 --json "$work"/part?.txt -- cambium bark >"$work/found"
"$cambium" search -n 25 --json "$work"/part[12].txt -- cambium bark >"$work/found1"
"$cambium" search -n 25 --json "$work"/part[3456].txt -- cambium bark >"$work/found2"
"$cambium" search --merge -n 25 --json "$work"/found1 "$work"/found2 | cmp - "$work/found" || fail "search --merge differs"
echo "scale: search --merge is one search"

# The clients' own environment: installed by name, and left out where there is no network.
venv=build/scale
if [ ! -e "$venv/.complete" ]; then
  { python3 -m venv "$venv" && "$venv/bin/pip" install -q --disable-pip-version-check kubernetes-validate vllm-router && touch "$venv/.complete"; } ||
    echo "scale: kubernetes-validate and vllm-router could not be installed" >&2
fi
if [ -e "$venv/.complete" ]; then
  "$venv/bin/kubernetes-validate" packaging/kubernetes/*.yaml examples/scale/kubernetes.yaml
  export PATH="$PATH:$PWD/$venv/bin"
fi
python3 tests/replicas.py "$cambium" "$model"
