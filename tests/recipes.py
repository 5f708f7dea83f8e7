#!/usr/bin/env python3
"""Runs the commands of README.md and docs/quick-start.md as they stand, in an empty folder with the repository's examples/, and
checks what was learnt. Usage: recipes.py CAMBIUM"""
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/quick-start.md")
# What installs, builds, waits for people or fetches from the network is tried elsewhere: ./test itself, tests/package.sh,
# tests/terminal.py, tests/python.sh, tests/hub_test.cc.
ELSEWHERE = ("./test", "./try", "cmake ", "pip ", "git ", "cd ", "cpack", "curl ", "cambium run", "cambium pull")


def commands(page):
    """Lines of the page's blocks without a language, without what stands behind a # in them."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.S | re.M):
        if language:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"\s+#.*", "", line).strip()
            if line and not line.startswith("#"):
                yield line


def run(cambium, folder, line):
    begin = time.time()
    done = subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, timeout=900, executable="/bin/bash")
    print(f"{time.time() - begin:6.1f} s  {line}", flush=True)
    assert done.returncode == 0, f"{line}: {done.returncode}\n{done.stderr}"
    return done


def serve(cambium, folder, line):
    """Answers while it runs, with the graft that it names."""
    child = subprocess.Popen(["bash", "-c", "exec " + line.replace("cambium", shlex.quote(cambium), 1) + " --port 0"],
                             cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        address = ""
        while not address:
            log = child.stderr.readline()
            assert log, "the server ended"
            found = re.search(r"http://[\w.:]+", log)
            address = found.group(0) if found else ""
        request = {"model": "notes", "temperature": 0, "max_tokens": 40,
                   "messages": [{"role": "user", "content": "What did I write about grafting?"}]}
        post = urllib.request.Request(address + "/v1/chat/completions", json.dumps(request).encode(),
                                      {"content-type": "application/json"})
        with urllib.request.urlopen(post, timeout=120) as reply:
            text = json.load(reply)["choices"][0]["message"]["content"]
        assert "April" in text, text
        print(f"          {line}: {text}", flush=True)
    finally:
        child.terminate()
        child.wait()


def right(cambium, folder, model, graft=None):
    """How many of the notes' questions are answered by the notes' own words."""
    notes = [json.loads(line)["messages"] for line in open(f"{folder}/examples/notes.jsonl")]
    with open(f"{folder}/asked.jsonl", "w") as asked:
        asked.writelines(json.dumps({"messages": note[:1]}) + "\n" for note in notes)
    line = [cambium, "generate", model, "--jsonl", "asked.jsonl", "-o", "answered.jsonl", "--temp", "0", "-n", "64", "-q",
            *(["--graft", graft] if graft else [])]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line)["text"].strip() for line in open(f"{folder}/answered.jsonl")]
    for name in ("asked.jsonl", "answered.jsonl"):
        os.unlink(f"{folder}/{name}")
    return sum(answer == note[1]["content"] for answer, note in zip(answers, notes))


def main():
    cambium = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "examples", f"{folder}/examples")
        os.mkdir(f"{folder}/bin")
        os.symlink(cambium, f"{folder}/bin/cambium")
        os.environ["PATH"] = f"{folder}/bin:" + os.environ["PATH"]
        ran = 0
        for page in PAGES:
            for path in pathlib.Path(folder).iterdir():  # each page begins anew
                if path.name not in ("examples", "bin"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            for line in commands(page):
                if line.startswith(ELSEWHERE):
                    continue
                ran += 1
                serve(cambium, folder, line) if line.startswith("cambium serve") else run(cambium, folder, line)
            if page != "README.md":
                continue
            known = {name: right(cambium, folder, "smollm2", name) for name in (None, "my-lora", "my-prefix", "mine")}
            known["merged.gguf"] = right(cambium, folder, "merged.gguf")
            print(known)
            assert known[None] <= 1, known
            assert min(known[name] for name in ("my-lora", "mine", "merged.gguf")) >= 10, known
        assert ran > 8, "the pages have commands"


if __name__ == "__main__":
    main()
