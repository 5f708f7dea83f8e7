#!/usr/bin/env python3
"""real_schemas.py WHEEL... > schemas.jsonl: the JSON schemas in PyPI packages, a line {"schema", "name"} each, for
compare_masks.py. At most 200 of a package, evenly chosen. `pip download --no-deps kubernetes-validate check-jsonschema
validate-pyproject-schema-store cyclonedx-python-lib nbformat jupyterlab-server` brings some that people use."""
import json
import sys
import zipfile

MOST, MOST_BYTES = 200, 200_000


def is_schema(value):
    return isinstance(value, dict) and any(k in value for k in ("$schema", "properties", "$defs", "definitions", "oneOf"))


def bundled(schema, definitions):
    """With what it refers to in kubernetes' file of definitions."""
    mark, needed = "/api/_definitions.json#/$defs/", {}

    def within(node):
        if isinstance(node, list):
            return [within(item) for item in node]
        if not isinstance(node, dict):
            return node
        node = {key: within(value) for key, value in node.items()}
        ref = node.get("$ref")
        name = ref.rsplit("/", 1)[1] if isinstance(ref, str) and ref.startswith((mark, "#/$defs/")) else None
        if name in definitions:
            node["$ref"] = "#/$defs/" + name
            if name not in needed:
                needed[name] = None
                needed[name] = within(definitions[name])
        return node

    schema = within(schema)
    return {**schema, "$defs": needed} if needed else schema


def main():
    for path in sys.argv[1:]:
        wheel, found, definitions = zipfile.ZipFile(path), [], {}
        names = sorted(n for n in wheel.namelist() if n.endswith(".json"))
        if shared := [n for n in names if n.endswith("-local/_definitions.json")]:  # many versions; the newest
            definitions = json.loads(wheel.read(shared[-1]))["$defs"]
            names = [n for n in names if n.startswith(shared[-1].rsplit("/", 1)[0] + "/") and n != shared[-1]]
        for name in names:
            if wheel.getinfo(name).file_size > MOST_BYTES:
                continue
            try:
                schema = json.loads(wheel.read(name))
            except ValueError:
                continue
            if is_schema(schema):
                found.append((name, bundled(schema, definitions)))
        step = max(1, len(found) / MOST)
        for i in range(min(MOST, len(found))):
            name, schema = found[int(i * step)]
            print(json.dumps({"name": name, "schema": schema}))


if __name__ == "__main__":
    main()
