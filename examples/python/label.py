"""python label.py TEXTS.txt LABEL LABEL...: labels each line, all lines at once, and says how sure the model is."""

import math
import sys

import cambium


def main() -> None:
    path, *labels = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        texts = [line.strip() for line in file if line.strip()]
    with cambium.load("smollm2", parallel=16) as model:
        one_of = model.constraint(choice=labels)
        question = f"Which of {', '.join(labels)} describes this text best? Answer with one word.\n\n"
        answers = [model.chat(question + text, constraint=one_of, temperature=0, logprobs=True) for text in texts]
        for text, answer in zip(texts, answers):
            result = answer.result()
            print(f"{result.text}\t{math.exp(sum(result.logprobs)):.2f}\t{text}")


if __name__ == "__main__":
    main()
