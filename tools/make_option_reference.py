#!/usr/bin/env python3
"""docs/options.md out of the program's own table of options. Usage: make_option_reference.py CAMBIUM > docs/options.md
tools/check_docs.py says when the page is older than the program."""

import json
import subprocess
import sys

HEAD = """# Every option

Made by `tools/make_option_reference.py` from the program's own table (`cambium man --json`); [the command line](cli.md) says
what they are for. `cambium VERB --help` shows the same by groups, with an example.
"""


def cell(text):
    return text.replace("|", "\\|").replace("\n", " ")


def page(table):
    lines = [HEAD]
    for verb in table[1:]:
        options = [o for o in verb["options"] if "--help" not in o["names"]]
        lines.append(f"## {verb['verb']}\n{verb['description']}.\n")
        if not options:
            continue
        lines += ["| option | default | |", "| --- | --- | --- |"]
        for option in options:
            names = ", ".join(f"`{name}`" for name in option["names"]) + (" *" if option["required"] else "")
            values = f" ({', '.join(option['values'])})" if option["values"] else ""
            described = option["description"]
            if any(value in described for value in option["values"]):
                values = ""
            default = f"`{option['default']}`" if option["default"] not in ("", "[]", '""') else ""
            lines.append(f"| {names} | {default} | {cell(described + values)} |")
        lines.append("")
    lines.append("\\* must be given.")
    return "\n".join(lines) + "\n"


def main():
    table = json.loads(subprocess.run([sys.argv[1], "man", "--json"], check=True, capture_output=True).stdout)
    sys.stdout.write(page(table))


if __name__ == "__main__":
    main()
