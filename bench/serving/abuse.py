#!/usr/bin/env python3
"""abuse.py CAMBIUM MODEL [SECONDS]: 200 streams that nobody reads on, 60 clients that send a byte now and then, 64 that
leave and huge bodies, all at once. Meanwhile /health is timed, and streams of others must stay as they are alone. Exits 1
where /health took more than 100 ms, a token changed, memory grew by more than 300 MB or a descriptor stayed."""
import json
import sys
import threading
import time

from served import Server, text_of

HEALTH_MS, MOST_MB = 100, 300
WITNESSES = [{"prompt": "Once upon a time", "max_tokens": 48, "temperature": 0},
             {"prompt": "The sea is", "max_tokens": 48, "seed": 3},
             {"prompt": "One, two, three", "max_tokens": 48, "seed": 4, "draft": "none"}]


def head(path, length):
    return (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {length}\r\n\r\n").encode()


def idle_stream(server, i):
    body = json.dumps({"prompt": f"Story {i}", "max_tokens": 100, "ignore_eos": True, "stream": True}).encode()
    connection = server.connect()
    connection.sendall(head("/v1/completions", len(body)) + body)
    return connection


def drip(server, i, until):
    try:
        connection = server.connect()
        connection.sendall(b"GET /health HTTP/1.1\r\n" if i % 2 else head("/v1/completions", 100) + b"{")
        while time.monotonic() < until:
            connection.sendall(b"x" if i % 2 else b" ")
            time.sleep(0.5)
    except OSError:
        pass  # cut off, as it should be


def leave(server, i, until):
    while time.monotonic() < until:
        try:
            server.stream({"prompt": f"Leaver {i}", "max_tokens": 200, "ignore_eos": True}, leave_after=1)
        except OSError:
            pass
        time.sleep(0.5)


def huge(server, i, until):
    while time.monotonic() < until:
        try:
            connection = server.connect()
            if i % 2:  # says more than is taken
                connection.sendall(head("/v1/completions", 1 << 40))
                connection.recv(1000)
            else:
                connection.sendall(head("/v1/completions", 30 << 20))
                for _ in range(30):
                    connection.sendall(b'"' * (1 << 20))
                connection.recv(1000)
            connection.close()
        except OSError:
            pass
        time.sleep(0.5)


def main():
    cambium, model = sys.argv[1:3]
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 30
    server = Server(cambium, model, "-c", "512", "--queue", "1024", "-q")
    alone = [text_of(server.stream(body)[0]) for body in WITNESSES]
    before, open_before = server.rss(), server.descriptors()
    idle = [idle_stream(server, i) for i in range(200)]
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=work, args=(server, i, until), daemon=True)
               for work, count in ((drip, 60), (leave, 64), (huge, 8)) for i in range(count)]
    for thread in threads:
        thread.start()
    changed, asked, took, peak = [], 0, [], before

    def watch():
        nonlocal peak
        while time.monotonic() < until:
            start = time.monotonic()
            status, _ = server.get("/health")
            took.append(1000 * (time.monotonic() - start) if status == 200 else float("inf"))
            peak = max(peak, server.rss())
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    while time.monotonic() < until:
        for body, want in zip(WITNESSES, alone):
            events, done = server.stream(body)
            asked += 1
            if not done or text_of(events) != want:
                changed.append((body["prompt"], done, events[-1] if events else None))
    watcher.join()
    for thread in threads:
        thread.join()
    for connection in idle:
        connection.close()
    while server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting") > 0:
        time.sleep(0.1)
    time.sleep(1)
    after = server.descriptors()
    took.sort()
    print(f"/health: {len(took)} times, median {took[len(took) // 2]:.1f} ms, 99 % {took[len(took) * 99 // 100]:.1f}, "
          f"longest {took[-1]:.1f}")
    print(f"streams of others: {asked}, changed: {len(changed)} {changed[:2]}")
    print(f"memory: {before:.0f} MB before, {peak:.0f} at most, {server.rss():.0f} after; descriptors {open_before}, {after}")
    code = server.stop()
    print(f"exit code {code}")
    sys.exit(bool(changed or took[-1] > HEALTH_MS or peak - before > MOST_MB or after > open_before or code))


if __name__ == "__main__":
    main()
