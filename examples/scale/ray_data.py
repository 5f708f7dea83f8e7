"""ray_data.py MODEL IN.jsonl OUT_FOLDER: Ray Data answers records in blocks; each is one run of `cambium generate --jsonl`, which
answers sixteen records at a time."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import ray


def answer(block, model):
    with tempfile.TemporaryDirectory() as folder:
        source, answers = pathlib.Path(folder, "in.jsonl"), pathlib.Path(folder, "out.jsonl")
        source.write_text("".join(json.dumps(record, default=str) + "\n" for record in block.to_dict("records")))
        subprocess.run([os.environ.get("CAMBIUM", "cambium"), "generate", model, "--jsonl", source, "-o", answers, "-q"],
                       check=True)
        lines = [json.loads(line) for line in answers.read_text().splitlines()]
    return {"id": [str(line["id"]) for line in lines], "text": [line["text"] for line in lines]}


if __name__ == "__main__":
    model, source, output = sys.argv[1:4]
    records = ray.data.read_json(source, lines=True)
    records.map_batches(answer, fn_kwargs={"model": model}, batch_format="pandas", batch_size=256, num_cpus=2).write_json(output)
