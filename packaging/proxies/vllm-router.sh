#!/bin/sh
# Replicas of `cambium serve --drain-delay 5` behind vllm-router (pip install vllm-router): it sends a prompt where a like one
# was before. Its own interval of checks, 60 s, is too long for replicas that come and go.
exec vllm-router --host 127.0.0.1 --port "${PORT:-8000}" --policy cache_aware \
  --health-check-endpoint /ready --health-check-interval-secs 1 --health-failure-threshold 2 --health-success-threshold 2 \
  --worker-urls "${@:-http://127.0.0.1:8081}"
