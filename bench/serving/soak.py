#!/usr/bin/env python3
"""soak.py CAMBIUM MODEL [--minutes M] [--graft PATH ...] [--by CAMBIUM]: mixed load on a server: plain and streamed, greedy
and seeded, drafted or not, under schemas, with grafts, from clients that leave, while grafts are loaded, replaced and
unloaded. Every text must be the one that `cambium generate` (--by: another build's) gives. Exits 1 on any difference,
error or growth of memory."""
import argparse
import collections
import pathlib
import random
import sys
import tempfile
import threading
import time

from served import Server, generated, text_of

PROMPTS = ["Once upon a time", "The sea is", "One, two, three, four,", "The cambium of a tree is the layer that",
           "def add(a, b):\n    return", "Dear Sir,\n", "List three trees:\n1.", "A B C A B C A B C A"]
SCHEMA = {"type": "object", "required": ["name", "age", "tags"],
          "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 99},
                         "tags": {"type": "array", "maxItems": 2, "items": {"enum": ["red", "green", "blue"]}}}}


def records(grafts):
    """What is asked for, as `generate --jsonl` takes it."""
    rng, out = random.Random(1), []
    for i in range(48):
        record = {"id": i, "prompt": rng.choice(PROMPTS), "max_tokens": rng.choice([1, 8, 24, 60])}
        record.update(rng.choice([{"temperature": 0}, {"seed": i}, {"seed": i, "temperature": 1.2, "top_k": 0}]))
        record.update(rng.choice([{}, {}, {"stop": ["\n", "a b"]}, {"logit_bias": {"28": -3}}, {"frequency_penalty": 0.5}]))
        if i % 6 == 0:
            record.update({"json_schema": SCHEMA, "max_tokens": 80})
        if grafts and i % 3 == 1:
            record["grafts"] = [{"name": grafts[i % len(grafts)], "scale": rng.choice([0.5, 1])}]
        if len(grafts) > 1 and i % 12 == 2:
            record["grafts"] = [{"name": grafts[0], "scale": 0.5}, {"name": grafts[1], "scale": 0.25}]
        out.append(record)
    return out


class Soak:
    def __init__(self, options):
        self.options = options
        self.names = [f"g{i}" for i in range(len(options.graft))]
        self.records = records(options.graft)
        self.want = generated(options.by, options.model, self.records, "-c", "512")
        folder = tempfile.mkdtemp()
        pathlib.Path(folder, "key").write_text("boss\n")
        serve = [f"--graft={name}={path}" for name, path in zip(self.names, options.graft)]
        if options.graft:
            serve += ["--allow-load", str(pathlib.Path(options.graft[0]).resolve().parent), "--admin-key-file",
                      str(pathlib.Path(folder, "key"))]
        self.server = Server(options.cambium, options.model, "-c", "512", "--parallel", "8", "-q", *serve)
        self.until = time.monotonic() + 60 * options.minutes
        self.done = collections.Counter()
        self.wrong = []
        self.lock = threading.Lock()

    def note(self, what, wrong=None):
        with self.lock:
            self.done[what] += 1
            if wrong is not None:
                self.wrong.append((what, wrong))

    def body(self, record, rng, graft=None):
        body = {key: value for key, value in record.items() if key != "id"}
        paths = dict(zip(self.options.graft, self.names))
        body["grafts"] = [{"name": graft or paths[g["name"]], "scale": g["scale"]} for g in record.get("grafts", [])]
        body["draft"] = rng.choice(["auto", "none", "ngram", ["recycle", "grammar"] if "json_schema" in body else "recycle"])
        if rng.random() < 0.2:
            body["cache_salt"] = str(rng.randrange(5))
        return body

    def ask(self, seed):
        rng = random.Random(seed)
        while time.monotonic() < self.until:
            record = rng.choice(self.records)
            body, want = self.body(record, rng), self.want[record["id"]]
            what = rng.choice(["plain", "stream", "stream", "leave", "company"])
            try:
                if what == "plain":
                    status, answer = self.server.post("/v1/completions", body)
                    got = answer["choices"][0]["text"] if status == 200 else answer
                elif what == "company":  # the same prompt twice in one request
                    status, answer = self.server.post("/v1/completions", {**body, "prompt": [body["prompt"]] * 2})
                    got = answer if status != 200 else want
                    for choice in answer.get("choices", []):
                        got = choice["text"] if choice["text"] != want else got
                elif what == "leave":
                    self.server.stream(body, leave_after=rng.randrange(1, 6))
                    got = want
                else:
                    events, done = self.server.stream(body)
                    got = text_of(events) if done else events[-1:]
            except OSError as error:
                got = repr(error)
            self.note(what, None if got == want else {"asked": body, "want": want, "got": got})

    def shelve(self):
        """Loads, asks, replaces and unloads a graft of another name."""
        admin = {"Authorization": "Bearer boss"}
        with_graft = [r for r in self.records if len(r.get("grafts", [])) == 1]
        rng = random.Random(0)
        while self.options.graft and time.monotonic() < self.until:
            record = rng.choice(with_graft)
            path = pathlib.Path(record["grafts"][0]["name"]).name
            load = {"lora_name": "guest", "lora_path": path}
            said = [self.server.ask("POST", "/v1/load_lora_adapter", load, admin)]
            for replace in (False, True):
                if replace:
                    said.append(self.server.ask("POST", "/v1/load_lora_adapter", {**load, "load_inplace": True}, admin))
                status, answer = self.server.post("/v1/completions", self.body(record, rng, "guest"))
                want = self.want[record["id"]]
                got = answer["choices"][0]["text"] if status == 200 else answer
                self.note("guest", None if got == want else {"want": want, "got": got})
            said.append(self.server.ask("POST", "/v1/load_lora_adapter", {"lora_name": "bad", "lora_path": "nothing"}, admin))
            said.append(self.server.ask("POST", "/v1/unload_lora_adapter", {"lora_name": "guest"}, admin))
            statuses = [status for status, _ in said]
            self.note("shelve", None if statuses == [200, 200, 404, 200] else statuses)
            time.sleep(0.2)

    def run(self):
        first = self.server.post("/v1/embeddings", {"input": PROMPTS})[1]["data"]
        workers = [threading.Thread(target=self.ask, args=(i,)) for i in range(12)]
        workers.append(threading.Thread(target=self.shelve))
        for worker in workers:
            worker.start()
        memory, start = [], time.monotonic()
        while any(worker.is_alive() for worker in workers):
            memory.append(self.server.rss())
            if self.server.post("/v1/embeddings", {"input": PROMPTS})[1]["data"] != first:
                self.note("embeddings", "they differ")
            time.sleep(5)
        quarter = memory[len(memory) // 4]
        print(f"{(time.monotonic() - start) / 60:.1f} minutes: {dict(self.done)}, {len(self.wrong)} wrong")
        tenths = [f"{memory[i * (len(memory) - 1) // 10]:.0f}" for i in range(11)]
        print("memory after each tenth of the time, MB:", " ".join(tenths))
        for what, wrong in self.wrong[:5]:
            print(what, wrong)
        code = self.server.stop()
        said = [line for line in self.server.said().splitlines() if not line.startswith("{")]
        print(f"exit code {code}", *said[:30], sep="\n")
        return bool(self.wrong or code or memory[-1] > 1.1 * quarter + 50)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("cambium"), options.add_argument("model")
    options.add_argument("--minutes", type=float, default=30)
    options.add_argument("--graft", action="append", default=[], help="an adapter, two of one directory at best")
    options.add_argument("--by", help="the build whose texts are right")
    options = options.parse_args()
    options.by = options.by or options.cambium
    sys.exit(Soak(options).run())


if __name__ == "__main__":
    main()
