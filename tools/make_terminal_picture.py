#!/usr/bin/env python3
"""A picture (SVG) of a terminal in which an answer's tokens are coloured by who drafted them, out of the program's own output.
Usage: make_terminal_picture.py CAMBIUM > docs/terminal.svg"""

import html
import os
import pty
import re
import subprocess
import sys

COLUMNS, LINE, CHARACTER = 84, 19, 8.4
COLORS = {31: "#e06c75", 32: "#98c379", 33: "#e5c07b", 34: "#61afef", 35: "#c678dd", 36: "#56b6c2"}
QUESTION = "Give me three tips for better sleep."
COMMAND = ["generate", "smollm2", "--chat", "-p", QUESTION, "--temp", "0", "-n", "160", "--show-draft", "-q"]


def output(cambium):
    """What the program writes where standard output is a terminal."""
    master, slave = pty.openpty()
    child = subprocess.Popen([cambium, *COMMAND], stdout=slave, stderr=subprocess.DEVNULL, env={**os.environ, "TERM": "xterm"})
    os.close(slave)
    data = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:
            break
        if not piece:
            break
        data += piece
    assert child.wait() == 0
    return data.decode().replace("\r\n", "\n")


def cells(text):
    """Characters with their colours."""
    color = None
    for part in re.split(r"(\x1b\[\d+m)", text):
        if part.startswith("\x1b"):
            color = COLORS.get(int(part[2:-1]))
        else:
            yield from ((c, color) for c in part)


def rows(text):
    """Lines of at most COLUMNS cells, broken at the last space."""
    row = []
    for cell in cells(text):
        if cell[0] == "\n":
            yield row
            row = []
            continue
        row.append(cell)
        if len(row) > COLUMNS:
            cut = max((i for i, c in enumerate(row) if c[0] == " "), default=COLUMNS) + 1
            yield row[:cut]
            row = row[cut:]
    if row:
        yield row


def main():
    prompt = f"$ cambium generate smollm2 --chat --show-draft -p \"{QUESTION}\"\n"
    lines = list(rows(prompt + output(sys.argv[1])))
    legend = [("drafted by n-grams ", COLORS[32]), ("or recycling ", COLORS[36]), ("against a draft ", COLORS[31]), ("without one", None)]
    width, height = int(COLUMNS * CHARACTER) + 24, (len(lines) + 2) * LINE + 24
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
           '<rect width="100%" height="100%" rx="8" fill="#1e2127"/>',
           '<g font-family="ui-monospace,Menlo,Consolas,monospace" font-size="14" fill="#d7dae0" xml:space="preserve">']
    for number, line in enumerate([*lines, [], [(c, color) for text, color in legend for c in text]]):
        spans, at = "", 0
        while at < len(line):
            end = at
            while end < len(line) and line[end][1] == line[at][1]:
                end += 1
            text = html.escape("".join(c for c, _ in line[at:end]))
            spans += f'<tspan fill="{line[at][1]}">{text}</tspan>' if line[at][1] else f"<tspan>{text}</tspan>"
            at = end
        out.append(f'<text x="12" y="{24 + number * LINE}">{spans}</text>')
    print("\n".join([*out, "</g></svg>"]))


if __name__ == "__main__":
    main()
