#!/usr/bin/env python3
"""check_docs.py [CAMBIUM]: paths named in the docs exist, code blocks quote examples/, and with the program given, the
options that docs/cli.md names are the program's, and docs/options.md is its table."""

import json
import pathlib
import re
import subprocess
import sys

import make_option_reference

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOP = ("src", "include", "tests", "bench", "examples", "tools", "docs", "cmake", ".ci")


def missing_paths(text, folder):
    """Paths in backticks or links that are not there."""
    for name in re.findall(r"`([\w./{},-]+?)/?`", text):
        if name.split("/")[0] in TOP and "/" in name and not any(ROOT.glob(braces(name))):
            yield name
    for name in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        if not (folder / name).exists():
            yield name


def braces(name):
    """a/b.{h,cc} is looked up by its first form; a missing one of the others is not noticed."""
    return re.sub(r"\{([^,}]*)[^}]*\}", r"\1", name)


def stale_snippets(text):
    """Blocks behind <!-- examples/x.cc --> that differ from the file, which the build compiles."""
    for name, block in re.findall(r"<!-- (examples/\S+) -->\n```\w*\n(.*?)```", text, re.S):
        path = ROOT / name
        if not path.exists() or path.read_text() != block:
            yield name


def unknown_options(text, table):
    known = {name for verb in table for option in verb["options"] for name in option["names"]} | {"--help"}
    for name in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)):
        if name not in known:
            yield name


def main():
    # A check that cannot fail checks nothing.
    assert list(missing_paths("`src/no/such.cc` [x](gone.md)", ROOT)) == ["src/no/such.cc", "gone.md"]
    assert list(stale_snippets("<!-- examples/generate.cc -->\n```cpp\nstale\n```"))
    assert list(unknown_options("`--planted`", []))

    found = []
    docs = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/**/*.md")])
    for path in docs:
        text = path.read_text()
        name = path.relative_to(ROOT)
        found += [f"{name}: {missing} does not exist" for missing in missing_paths(text, path.parent)]
        found += [f"{name}: the block differs from {stale}" for stale in stale_snippets(text)]
    if len(sys.argv) > 1:
        table = json.loads(subprocess.run([sys.argv[1], "man", "--json"], check=True, capture_output=True).stdout)
        text = (ROOT / "docs/cli.md").read_text()
        found += [f"docs/cli.md: {name} is no option of any verb" for name in unknown_options(text, table)]
        top = {verb["verb"].split()[0] for verb in table if verb["verb"]}
        found += [f"docs/cli.md: the verb {verb} is missing" for verb in sorted(top) if not re.search(f"`{verb}\\b", text)]
        if make_option_reference.page(table) != (ROOT / "docs/options.md").read_text():
            found.append("docs/options.md: older than the program; tools/make_option_reference.py makes it")
    print("\n".join(found) if found else f"docs: {len(docs)} files, nothing missing")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
