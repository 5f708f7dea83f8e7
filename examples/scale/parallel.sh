#!/usr/bin/env bash
# parallel.sh MODEL IN.jsonl OUT.jsonl [SHARDS [OPTIONS ...]]: answers the records of IN in shards, with GNU parallel. Run it
# again after whatever happened: what is answered stays. JOBS at once (2); SSHLOGIN="8/a,8/b" takes other machines, which see the same files.
set -euo pipefail
model=$1 in=$2 out=$3 shards=${4:-8}
options=("${@:5}")
cambium=${CAMBIUM:-cambium}

run=(parallel -q --will-cite --jobs "${JOBS:-2}" --retries 3 --halt soon,fail=1 --joblog "$out.joblog")
[ -z "${SSHLOGIN:-}" ] || run+=(--sshlogin "$SSHLOGIN" --workdir .)
"${run[@]}" env CAMBIUM_THREADS="${THREADS:-1}" "$cambium" generate "$model" --jsonl "$in" -q "${options[@]}" \
  --shard "{}/$shards" -o "$out.{}" ::: $(seq 0 $((shards - 1)))

# In the order of the shards: the file that one run would have written.
for ((i = 0; i < shards; ++i)); do cat "$out.$i"; done >"$out.new"
mv "$out.new" "$out"
