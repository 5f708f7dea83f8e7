#!/usr/bin/env python3
"""compare.py CAMBIUM LLAMA_SERVER OUT.jsonl --model M [--peer-model P]...: the prompts of bench/spec/prompts, drafted by
Cambium and by llama.cpp in turn, in chunks of five. Chunks that OUT.jsonl holds are left out, so a run goes on where the
last one stopped; --seconds ends it early. --report prints the table, --svg FILE draws it."""

import argparse
import collections
import json
import pathlib
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request

PROMPTS = pathlib.Path(__file__).parent / "prompts"
CHUNK, TOKENS = 5, 128
# The settings that RESULTS of earlier runs on this model favour; llama.cpp's defaults (matches of 12 and 24) draft nothing.
PEER = {
    "none": [],
    "ngram-simple": ["--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", "4", "--spec-ngram-simple-size-m", "16"],
    "ngram-mod": ["--spec-type", "ngram-mod", "--spec-ngram-mod-n-match", "6", "--spec-ngram-mod-n-min", "4",
                  "--spec-ngram-mod-n-max", "16"],
}


def post(port, path, body):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


class Server:
    """A llama-server on a free port while the block runs."""

    def __init__(self, program, model, flags, threads):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.command = [program, "-m", model, "-t", str(threads), "-c", "4096", "-np", "1", "--port", str(self.port), *flags]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1)
                return self
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit(f"{' '.join(self.command)}: exit code {self.process.returncode}")
                time.sleep(0.05)
        raise SystemExit("llama-server does not answer")

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def answers(self, prompt, temperature):
        """(text, timings) of every turn."""
        common = {"temperature": temperature, "seed": 0, "cache_prompt": False}
        if "prompt" in prompt:
            run = post(self.port, "/completion", {"prompt": prompt["prompt"], "n_predict": TOKENS, **common})
            yield run["content"], run["timings"]
            return
        messages = []
        for turn in prompt["turns"]:
            messages.append({"role": "user", "content": turn})
            run = post(self.port, "/v1/chat/completions", {"messages": messages, "max_tokens": TOKENS, **common})
            text = run["choices"][0]["message"]["content"]
            messages.append({"role": "assistant", "content": text})
            yield text, run["timings"]


def ours(options, prompts, temperature):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("".join(json.dumps(prompt) + "\n" for prompt in prompts))
        file.flush()
        command = [options.cambium, "bench", options.model, "-t", str(options.threads), "-n", str(TOKENS), "-r", "1",
                   "--temp", str(temperature), "--json", "-q", "--prompts", file.name]
        for drafter in options.draft:
            command += ["--draft", drafter]
        # Exit code 1 means that a text differed: the lines say so, too.
        lines = subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    for line in lines:
        record = json.loads(line)
        if "summary" in record:
            continue
        timings, draft = record["timings"], record["spec_decode"]
        yield {"who": "cambium " + record["draft"], "id": record["id"], "turn": record["turn"], "task": record["task"],
               "equal": record["equal"], "tokens": timings["decode_tokens"], "ms": timings["decode_ms"],
               "prompt_ms": timings["prompt_ms"], "passes": draft["passes"], "draft_ms": draft["draft_ms"],
               "drafts": draft["num_drafts"], "per_pos": draft["num_accepted_tokens_per_pos"]}


def peers(options, prompts, temperature, order):
    configurations = [(model, name) for model in options.peer_model for name in PEER]
    texts = {}
    for i in range(len(configurations)):
        model, name = configurations[(i + order) % len(configurations)]
        with Server(options.llama_server, model, PEER[name], options.threads) as server:
            list(server.answers({"prompt": "Hello"}, 0))
            for prompt in prompts:
                for turn, (text, timings) in enumerate(server.answers(prompt, temperature)):
                    texts[model, name, prompt["id"], turn] = text
                    yield {"who": f"llama.cpp {pathlib.Path(model).stem} {name}", "id": prompt["id"], "turn": turn,
                           "task": prompt["task"], "tokens": timings["predicted_n"], "ms": timings["predicted_ms"],
                           "prompt_ms": timings["prompt_ms"], "text": text}


def run(options):
    done = set()
    if options.out.exists():
        done = {(record["file"], record["chunk"]) for record in map(json.loads, options.out.open())}
    begin = time.time()
    # The first chunk of every kind, then the second: a run that is cut short still has every kind.
    files = sorted(PROMPTS.glob("*.jsonl"))
    for chunk in range(4):
        for order, path in enumerate(files):
            prompts = [json.loads(line) for line in path.open()][CHUNK * chunk:CHUNK * (chunk + 1)]
            if not prompts or (path.stem, chunk) in done:
                continue
            if time.time() - begin > options.seconds:
                return
            temperature = 1 if path.stem == "unpredictable" else 0
            records = [*ours(options, prompts, temperature), *peers(options, prompts, temperature, order + chunk)]
            with options.out.open("a") as out:
                for record in records:
                    out.write(json.dumps({**record, "file": path.stem, "chunk": chunk}) + "\n")


def rates(options):
    """{(task, who): mean decoding rate over turns}, texts that differ from the same program's plain ones."""
    runs, texts, differ = collections.defaultdict(list), {}, collections.Counter()
    records = [json.loads(line) for line in options.out.open()]
    for record in records:
        if record["tokens"] > 1 and record["ms"] > 0:
            runs[record["task"], record["who"]].append(1000 * record["tokens"] / record["ms"])
        if "text" in record:
            texts[record["who"], record["id"], record["turn"]] = record["text"]
        elif not record["equal"]:
            differ[record["who"]] += 1
    for (who, prompt, turn), text in texts.items():
        # Later turns follow other answers.
        plain = texts.get((who.rsplit(" ", 1)[0] + " none", prompt, turn))
        if turn == 0 and not prompt.startswith("random") and plain is not None and text != plain:
            differ[who] += 1
    return {key: statistics.mean(values) for key, values in runs.items()}, differ, records


def report(options):
    mean, differ, records = rates(options)
    tasks = list(dict.fromkeys(task for task, _ in mean))
    whos = sorted({who for _, who in mean}, key=lambda who: (not who.startswith("cambium none"), who))
    peers_ = [who for who in whos if who.startswith("llama")]
    print("| tokens/s | " + " | ".join(tasks) + " | other text |\n|" + " --- |" * (len(tasks) + 2))
    for who in whos:
        cells = [f"{mean[task, who]:.0f}" if (task, who) in mean else "" for task in tasks]
        print(f"| {who} | " + " | ".join(cells) + f" | {differ[who]} |")
    ours_ = "cambium auto"
    print("| auto / plain | " + " | ".join(f"{mean[t, ours_] / mean[t, 'cambium none']:.2f}" for t in tasks) + " | |")
    best = {t: max(mean[t, who] for who in peers_ if (t, who) in mean) for t in tasks}
    print("| auto / llama.cpp's best | " + " | ".join(f"{mean[t, ours_] / best[t]:.2f}" for t in tasks) + " | |")
    for who in whos:
        mine = [record for record in records if record["who"] == who and record.get("drafts")]
        if not mine:
            continue
        tokens, passes = (sum(record[key] for record in mine) for key in ("tokens", "passes"))
        drafting = sum(r["draft_ms"] for r in mine) / sum(r["ms"] for r in mine)
        reached = [sum(r["per_pos"][d] for r in mine if len(r["per_pos"]) > d) / sum(r["drafts"] for r in mine) for d in range(6)]
        print(f"{who}: {tokens / passes:.2f} tokens a pass, accepted by depth "
              f"{' '.join(f'{share:.0%}' for share in reached)}, drafting {drafting:.1%} of the time")
    if options.svg:
        draw(options.svg, tasks, mean, best)


def draw(path, tasks, mean, best):
    bars = [("Cambium plain", "#b9d3b0", lambda t: mean[t, "cambium none"]),
            ("Cambium auto", "#2a7a1f", lambda t: mean[t, "cambium auto"]),
            ("llama.cpp, its best drafter for the task", "#b35900", lambda t: best[t])]
    top = max(value(task) for task in tasks for _, _, value in bars)
    left, line, width = 150, 16, 520
    out, y = [], 34
    for i, (name, color, _) in enumerate(bars):
        x = left + (0, 130, 260)[i]
        out.append(f'<rect x="{x}" y="8" width="12" height="12" fill="{color}"/><text x="{x + 16}" y="18">{name}</text>')
    for task in tasks:
        out.append(f'<text x="{left - 8}" y="{y + 1.5 * line}" text-anchor="end">{task}</text>')
        for _, color, value in bars:
            length = width * value(task) / top
            out.append(f'<rect x="{left}" y="{y}" width="{length:.0f}" height="{line - 3}" fill="{color}"/>'
                       f'<text x="{left + length + 4:.0f}" y="{y + 11}">{value(task):.0f}</text>')
            y += line
        y += 10
    pathlib.Path(path).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 50}" height="{y}" font-family="sans-serif" '
        'font-size="11"><rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(out) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cambium")
    parser.add_argument("llama_server")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--peer-model", action="append", default=[])
    parser.add_argument("--draft", action="append", default=[])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--svg")
    options = parser.parse_args()
    options.draft = options.draft or ["auto", "ngram"]
    report(options) if options.report or options.svg else run(options)


if __name__ == "__main__":
    main()
