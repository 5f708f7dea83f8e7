#!/usr/bin/env python3
"""plot.py ACCURACY.svg SPEED.svg NAME=heads_report.json...: how often each depth's first guess was right, and the tokens
per second that a tree of each size promises (expected tokens over the time of a pass with as many rows, which is the first
report's for all, so that the curves differ by the heads alone)."""
import json
import sys

COLORS = ["#1b5e9e", "#2a7a1f", "#b35900", "#7b3fa0", "#a02c2c", "#5b6770"]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 520, 320, 56, 44, 20


def chart(path, title, x_name, y_name, curves):
    """curves: {name: [(x, y)]}; axes from zero."""
    right = max(x for points in curves.values() for x, _ in points)
    high = 1.08 * max(y for points in curves.values() for _, y in points)
    def at(x, y):
        return LEFT + (WIDTH - LEFT - 140) * x / right, HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * y / high
    out = []
    for i in range(6):
        y = high * i / 5
        _, line = at(0, y)
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - 140}" y1="{line:.1f}" y2="{line:.1f}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 6}" y="{line + 4:.1f}" text-anchor="end">{y:.0f}</text>')
    for x in range(0, int(right) + 1, max(1, int(right) // 8)):
        column, _ = at(x, 0)
        out.append(f'<text x="{column:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x}</text>')
    for i, (name, points) in enumerate(curves.items()):
        color = COLORS[i % len(COLORS)]
        places = [at(x, y) for x, y in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        out.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        out.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}"/>' for x, y in places)
        out.append(f'<rect x="{WIDTH - 128}" y="{TOP + 18 * i}" width="12" height="12" fill="{color}"/>'
                   f'<text x="{WIDTH - 110}" y="{TOP + 10 + 18 * i}">{name}</text>')
    out.append(f'<text x="{LEFT}" y="13">{y_name}</text>'
               f'<text x="{(LEFT + WIDTH - 140) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{x_name}</text>')
    with open(path, "w") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
                   f'font-size="11"><title>{title}</title><rect width="100%" height="100%" fill="#fff"/>\n'
                   + "\n".join(out) + "\n</svg>\n")


accuracy, speed, pass_ms = {}, {}, {}
for argument in sys.argv[3:]:
    name, path = argument.split("=", 1)
    with open(path) as file:
        report = json.load(file)
    accuracy[name] = [(d + 1, 100 * depth["ranks"][0]) for d, depth in enumerate(report["accuracy"])]
    if not pass_ms:
        pass_ms = {0: report["pass_ms_1"], **{tree["nodes"]: tree["pass_ms"] for tree in report["trees"]}}
    speed[name] = [(0, 1000 / pass_ms[0])]
    speed[name] += [(tree["nodes"], 1000 * tree["expected"] / pass_ms[tree["nodes"]]) for tree in report["trees"]]
chart(sys.argv[1], "Accuracy of draft heads", "depth", "% of first guesses that are right", accuracy)
chart(sys.argv[2], "Speed of draft trees", "nodes of the tree", "tokens/s expected, drafting not counted", speed)
