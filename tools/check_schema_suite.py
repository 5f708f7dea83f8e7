#!/usr/bin/env python3
"""check_schema_suite.py GRAMMAR_BENCH MODEL SUITE: every schema of JSON-Schema-Test-Suite's draft 2020-12 (a checkout of it
at SUITE): what is accepted must be valid, and what is not supported is refused. Exits 1 where an invalid value is accepted."""
import json
import pathlib
import subprocess
import sys
import tempfile


def main():
    bench, model, suite = sys.argv[1:4]
    cases = []
    for path in sorted(pathlib.Path(suite, "tests/draft2020-12").rglob("*.json")):
        for group in json.loads(path.read_text()):
            cases.append((path.relative_to(suite), group))
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as lines:
        for _, group in cases:
            values = [test["data"] for test in group["tests"]]
            lines.write(json.dumps({"schema": group["schema"], "values": values}) + "\n")
        lines.flush()
        done = subprocess.run([bench, model, "--suite", lines.name], capture_output=True, text=True, check=True)
    wrong = supported = required = required_supported = valid = accepted = 0
    refused = {}
    for (path, group), line in zip(cases, done.stdout.splitlines(), strict=True):
        answer = json.loads(line)
        optional = "optional" in path.parts
        required += not optional
        if "refused" in answer:
            if "no text can satisfy" in answer["refused"] and not any(t["valid"] for t in group["tests"]):
                supported += 1
                required_supported += not optional
                continue
            refused.setdefault(answer["refused"][:90], []).append(f"{path.name}: {group['description']}")
            continue
        supported += 1
        required_supported += not optional
        for test, accepts in zip(group["tests"], answer["accepts"], strict=True):
            valid += test["valid"]
            accepted += test["valid"] and accepts
            if accepts and not test["valid"]:
                wrong += 1
                print(f"ACCEPTED {path}: {group['description']}: {test['description']}: {json.dumps(test['data'])}")
    for why, where in sorted(refused.items(), key=lambda item: -len(item[1])):
        print(f"{len(where):4} {why}   ({where[0]})")
    print(f"{len(cases)} schemas, {supported} supported; required: {required_supported} of {required} "
          f"({100 * required_supported / required:.1f} %); {accepted} of {valid} valid values accepted; {wrong} wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
