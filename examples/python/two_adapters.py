"""python two_adapters.py MODEL ADAPTER ADAPTER: one question to the model and to both adapters, in the same passes."""

import asyncio
import sys

import cambium


async def ask(model: cambium.Model, name: str, question: str) -> None:
    grafts = None if name == "base" else name
    answer = await model.chat(question, grafts=grafts, temperature=0, max_tokens=60)
    print(f"--- {name}\n{answer.text}")


async def main() -> None:
    path, *adapters = sys.argv[1:]
    with cambium.load(path) as model:
        await asyncio.gather(*(ask(model, name, "What is a graft?") for name in ["base", *adapters]))


if __name__ == "__main__":
    asyncio.run(main())
