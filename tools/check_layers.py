#!/usr/bin/env python3
"""Checks that the includes of src/ agree with the rooms' DEPS in src/CMakeLists.txt, as docs/architecture.md draws them."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Outside the rooms: may look at every room.
FREE = {"", "cli", "engine"}


def allowed_rooms():
    text = (ROOT / "src/CMakeLists.txt").read_text()
    rooms = {}
    for name, rest in re.findall(r"cambium_room\((\w+)\s*([^)]*)\)", text):
        deps = re.search(r"DEPS\s+([\w\s]*?)(?:LIBS|$)", rest)
        rooms[name] = {name, *(deps.group(1).split() if deps else [])}
    rooms["server"] = {"server", "base", "io", "grammar", "grafts", "drafters", "engine"}  # a library of its own, above the engine
    return rooms


def problems(files, rooms):
    """Lines about includes that look where they may not. files: (path relative to src, text)."""
    for path, text in files:
        room = path.parts[0] if len(path.parts) > 1 else ""
        if room in FREE:
            continue
        if room not in rooms:
            yield f"src/{path}: the room {room} is not in src/CMakeLists.txt"
            continue
        for number, line in enumerate(text.splitlines(), 1):
            include = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
            if not include:
                continue
            parts = include.group(1).split("/")
            target = parts[0] if len(parts) > 1 else room
            if len(parts) == 1:
                if not (ROOT / "src" / room / parts[0]).exists():
                    yield f'src/{path}:{number}: "{parts[0]}" is not in the room {room}'
            elif target in rooms.keys() | FREE and target not in rooms[room]:
                yield f"src/{path}:{number}: {room} may not include {include.group(1)}"


def check_self(rooms):
    """A check that cannot fail checks nothing."""
    planted = [(pathlib.PurePath("base/planted.cc"), '#include "model/pass.h"\n')]
    assert list(problems(planted, rooms)), "a planted violation was not found"


def main():
    rooms = allowed_rooms()
    check_self(rooms)
    source = ROOT / "src"
    files = [(p.relative_to(source), p.read_text()) for p in sorted(source.rglob("*")) if p.suffix in {".h", ".cc"}]
    found = list(problems(files, rooms))
    print("\n".join(found) if found else f"layers: {len(files)} files, {len(rooms)} rooms, no violation")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
