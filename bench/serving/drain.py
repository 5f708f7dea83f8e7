#!/usr/bin/env python3
"""drain.py CAMBIUM MODEL [ROUNDS]: SIGTERM while 24 streams and 24 plain requests are under way, and others come. No stream
may be cut and no request that was taken lost: their texts are those of each alone. Exits 1 otherwise."""
import signal
import sys
import threading
import time

from served import Server, text_of

PROMPTS = ["Once upon a time", "The sea is", "One, two, three", "The cambium of a tree is"]


def main():
    cambium, model = sys.argv[1:3]
    wrong = []
    for round_ in range(int(sys.argv[3]) if len(sys.argv) > 3 else 3):
        server = Server(cambium, model, "-c", "512", "--drain-timeout", "120", "-q")
        bodies = [{"prompt": prompt, "max_tokens": 60, "ignore_eos": True, "seed": 7} for prompt in PROMPTS]
        alone = [server.post("/v1/completions", body)[1]["choices"][0]["text"] for body in bodies]
        ended = []

        def stream(i):
            events, done = server.stream(bodies[i % 4])
            ended.append(("stream", done and text_of(events) == alone[i % 4]))

        def plain(i):
            status, answer = server.post("/v1/completions", bodies[i % 4])
            ended.append(("plain", status == 200 and answer["choices"][0]["text"] == alone[i % 4]))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(24) for work in (stream, plain)]
        for thread in threads:
            thread.start()
        while server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting") < len(threads):
            time.sleep(0.01)
        time.sleep(0.2 * round_)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        try:  # the port is closed, or the answer is 503
            late = server.post("/v1/completions", bodies[0])[0]
        except OSError:
            late = "closed"
        for thread in threads:
            thread.join()
        code = server.stop()
        good = sum(ok for _, ok in ended)
        print(f"round {round_}: {good} of {len(threads)} whole and the same; a late request: {late}; exit code {code}")
        if good < len(threads) or code != 0 or late == 200:
            wrong.append(round_)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
