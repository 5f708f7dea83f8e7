"""python finetune_csv.py TABLE.csv OUTPUT [MODEL]: teaches a model the columns "prompt" and "completion" of a table."""

import csv
import sys

import cambium


def main() -> None:
    path, output, *rest = sys.argv[1:]
    with open(path, newline="", encoding="utf-8") as file:
        rows = [(row["prompt"], row["completion"]) for row in csv.DictReader(file)]
    with cambium.load(rest[0] if rest else "smollm2") as model:
        result = cambium.train(
            model,
            rows,
            graft="lora",
            output=output,
            epochs=3,
            on_step=lambda report: print(f"step {report.step}: loss {report.loss:.3f}"),
        )
        print(f"{result.steps} steps, loss {result.loss:.3f}: {output}")
        print(rows[0][0], "->", model.chat(rows[0][0], grafts=result.adapter, temperature=0, max_tokens=40).text())


if __name__ == "__main__":
    main()
