"""A `cambium serve` of our own, and what goes to and fro: for the scripts beside this file. Standard library alone."""
import http.client
import json
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time


class Server:
    def __init__(self, cambium, model, *options):
        self.log = tempfile.TemporaryFile("w+")
        port = [] if "--port" in options else ["--port", "0"]
        self.process = subprocess.Popen([cambium, "serve", model, "-a", "m", *port, *options],
                                        stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        self.port = int(re.search(r":(\d+)\s*$", line).group(1))
        while True:
            try:
                if self.get("/ready")[0] == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended with {self.process.returncode}:\n{self.said()}")
            time.sleep(0.02)

    def said(self):
        self.log.flush()
        self.log.seek(0)
        return self.log.read()

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=120)

    def ask(self, method, path, body=None, headers={}):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json", **headers} if data else headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def get(self, path):
        return self.ask("GET", path)

    def post(self, path, body, headers={}):
        status, text = self.ask("POST", path, body, headers)
        return status, json.loads(text)

    def stream(self, body, leave_after=None):
        """The events of /v1/completions, and whether [DONE] came; leaves behind so many events."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        events = []
        try:
            connection.request("POST", "/v1/completions", json.dumps({**body, "stream": True}),
                               {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                return [json.loads(answer.read())], False
            for line in answer:
                if not line.startswith(b"data: "):
                    continue
                if line.strip() == b"data: [DONE]":
                    return events, True
                events.append(json.loads(line[6:]))
                if len(events) == leave_after:
                    return events, False
            return events, False
        finally:
            connection.close()

    def metric(self, name):
        text = self.get("/metrics")[1].decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(name + r"[{ ]", line))

    def rss(self):
        """MB of memory."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024

    def descriptors(self):
        return len(list(pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def stop(self):
        """Its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


def text_of(events):
    return "".join(choice["text"] for event in events for choice in event.get("choices", []))


def generated(cambium, model, records, *options):
    """The texts that `cambium generate --jsonl` gives, by id."""
    with tempfile.TemporaryDirectory() as folder:
        source, answers = pathlib.Path(folder, "in.jsonl"), pathlib.Path(folder, "out.jsonl")
        source.write_text("".join(json.dumps(record) + "\n" for record in records))
        subprocess.run([cambium, "generate", model, "--jsonl", source, "-o", answers, "-q", *options], check=True)
        return {got["id"]: got["text"] for got in map(json.loads, answers.read_text().splitlines())}
