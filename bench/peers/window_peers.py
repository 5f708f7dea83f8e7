"""Sliding maximum of bottleneck, pandas and SciPy beside Cambium's, in alternating rounds.

usage: window_peers.py WINDOW_BENCH [VALUES]     (pip install bottleneck pandas scipy)

One thread, processor time, best of three rounds; float32 everywhere but pandas, which computes in float64.
"""

import json
import subprocess
import sys
import time

import bottleneck
import numpy
import pandas
from scipy.ndimage import maximum_filter1d

PEERS = {
    "bottleneck move_max": lambda x, k: bottleneck.move_max(x, k),
    "pandas rolling max": lambda x, k: pandas.Series(x).rolling(k).max(),
    "scipy maximum_filter1d": lambda x, k: maximum_filter1d(x, k),
}


def main():
    binary, values = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10_000_000
    x = numpy.random.default_rng(42).random(values, dtype=numpy.float32)
    best = {}
    for _ in range(3):
        out = subprocess.run([binary, "--json", "--values", str(values), "--text", "0", "--search", "0"],
                             check=True, capture_output=True, text=True).stdout
        for row in json.loads(out):
            if row["what"].startswith("SlidingMax float"):
                k = int(row["what"].split()[-1])
                best[k, "cambium"] = min(best.get((k, "cambium"), 1e9), 1 / row["value"])
        for k in sorted({k for k, _ in best}):
            for name, peer in PEERS.items():
                start = time.process_time()
                peer(x, k)
                taken = 1e9 * (time.process_time() - start) / values
                best[k, name] = min(best.get((k, name), 1e9), taken)
    print(f"ns a value, {values} values; in brackets how many times Cambium's time")
    for k in sorted({k for k, _ in best}):
        ours = best[k, "cambium"]
        rest = "  ".join(f"{name} {best[k, name]:.2f} ({best[k, name] / ours:.1f})" for name in PEERS)
        print(f"k {k:<7} cambium {ours:.2f}  {rest}")


if __name__ == "__main__":
    main()
