#!/usr/bin/env python3
"""`cambium run` at a terminal, by tmux: what is typed, pasted and streamed. Usage: terminal.py CAMBIUM MODEL"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

NAME = "t"
socket = ""  # a server for each session: one that ends may still be there when the next begins


def tmux(*arguments, check=True, **more):
    return subprocess.run(["tmux", "-L", socket, *arguments], check=check, text=True, capture_output=True, **more).stdout


def screen():
    """All lines of the terminal that were shown, without trailing spaces; lines that it broke itself are two."""
    return tmux("capture-pane", "-p", "-S", "-", "-t", NAME)


def wait_for(text, count=1, seconds=60):
    end = time.time() + seconds
    while time.time() < end:
        if screen().count(text) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"{text!r} did not appear:\n{screen()}")


def ready(prompts):
    """Until the prompt for message number `prompts` stands there."""
    end = time.time() + 60
    while time.time() < end:
        lines = [line for line in screen().split("\n") if line.startswith(">")]
        if len(lines) >= prompts and lines[-1].strip() == ">":
            return
        time.sleep(0.05)
    raise AssertionError(f"no prompt {prompts}:\n{screen()}")


def keys(*names):
    tmux("send-keys", "-t", NAME, *names)


def type_text(text):
    tmux("send-keys", "-t", NAME, "-l", text)


def paste(text):
    """As a terminal pastes: in brackets where the program asked for them, line ends as Enter sends them."""
    tmux("load-buffer", "-", input=text)
    tmux("paste-buffer", "-p", "-t", NAME)


class Session:
    def __init__(self, cambium, model, options="-n 4", columns=60):
        global socket
        self.folder = tempfile.mkdtemp()
        socket = "cambium-" + os.path.basename(self.folder)
        tmux("-f", "/dev/null", "new-session", "-d", "-s", NAME, "-x", str(columns), "-y", "40",
             "-e", "LC_ALL=C", "-e", "LANG=", f"'{cambium}' run '{model}' --temp 0 {options}; sleep 60")
        ready(1)

    def messages(self):
        path = os.path.join(self.folder, "saved.jsonl")
        type_text(f"/save {path}")
        keys("Enter")
        end = time.time() + 20
        while not os.path.exists(path) and time.time() < end:
            time.sleep(0.05)
        with open(path, encoding="utf-8") as file:
            return [m["content"] for m in json.loads(file.read())["messages"] if m["role"] == "user"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        tmux("kill-server", check=False)
        shutil.rmtree(self.folder)


def test_what_is_typed_and_pasted(cambium, model):
    with Session(cambium, model) as session:
        type_text("Größe, naïve, 木の接ぎ木 🌳?")
        keys("Enter")
        ready(2)
        six = "one\ttab\nzwei\n\nvier 四\n/five\nsix"
        paste(six)
        time.sleep(0.2)
        keys("Enter")
        ready(3)
        type_text("first")
        keys("M-Enter")
        type_text("second")
        keys("Enter")
        ready(4)
        for line in ('"""', "quoted", "  lines", '"""'):
            type_text(line)
            keys("Enter")
        ready(5)
        type_text("木木x")
        keys("Left", "BSpace")
        type_text("é")
        keys("Enter")
        ready(6)
        got = session.messages()
        want = ["Größe, naïve, 木の接ぎ木 🌳?", six, "first\nsecond", "quoted\n  lines", "木éx"]
        assert got == want, got


def test_typing_while_an_answer_streams(cambium, model):
    with Session(cambium, model, "--ignore-eos -n 300 --draft none") as session:
        type_text("Tell me a story")
        keys("Enter")
        time.sleep(0.3)
        type_text("later ö")
        time.sleep(0.2)
        assert "later" not in screen(), screen()
        wait_for("> later ö", seconds=120)
        keys("BSpace")
        type_text("ü")
        time.sleep(0.2)
        keys("C-c")  # nothing of it is sent
        ready(2)
        type_text("/set n 2")
        keys("Enter")
        wait_for("predict = 2")
        type_text("ok")
        keys("Enter")
        time.sleep(1)
        assert session.messages() == ["Tell me a story", "ok"]


def test_an_answer_breaks_between_words(cambium, model):
    with Session(cambium, model, "-n 120 --draft none", columns=40):
        type_text("Write about trees.")
        keys("Enter")
        wait_for("[120 tokens", seconds=60)
        lines = screen().split("\n")
        first = next(i for i, line in enumerate(lines) if "Write about trees" in line) + 1
        answer = lines[first:next(i for i, line in enumerate(lines) if line.startswith("[120"))]
        joined = tmux("capture-pane", "-p", "-J", "-S", "-", "-t", NAME).split("\n")
        assert max(len(line) for line in answer) <= 40
        assert len(answer) > 5, answer
        # -J joins what the terminal broke: there is nothing to join.
        assert all(line.rstrip() in [j.rstrip() for j in joined] for line in answer), (answer, joined)


def test_ctrl_c_ends_the_answer_alone(cambium, model):
    with Session(cambium, model, "--ignore-eos -n 2000 --draft none") as session:
        type_text("Count")
        keys("Enter")
        time.sleep(0.5)
        keys("C-c")
        wait_for("stopped]")
        ready(2)
        assert session.messages() == ["Count"]


def test_settings(cambium, model):
    with Session(cambium, model) as session:
        for command, answer in (("/set temp 0.25", "temp = 0.25"), ("/set temp", "temp = 0.25"),
                                ("/unset temp", "temp = 0.8 (the default)"), ("/set tempp 1", "the nearest is temp"),
                                ("/set graft /nonexistent", "no such file"), ("/set graft", "graft is not set"),
                                ("/set draft ngramm", "no such drafter"), ("/set ctx-size 5", "loaded model"),
                                ("/set no-loop-guard", "loop-guard = false"), ("/set regex [", "regex"),
                                ("/set top-k many", "top-k"), ("/set system Be short.", "system = Be short.")):
            before = screen().count(answer)
            type_text(command)
            keys("Enter")
            wait_for(answer, before + 1)
        type_text("Still there?")
        keys("Enter")
        time.sleep(1)
        assert session.messages() == ["Still there?"]


def main():
    cambium, model = sys.argv[1:3]
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test(cambium, model)
            print(f"{name}: passed", flush=True)


if __name__ == "__main__":
    main()
