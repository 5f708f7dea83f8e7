"""python chat.py [MODEL]: a chat on the terminal; Ctrl-C stops an answer, Ctrl-D leaves."""

import sys

import cambium


def main() -> None:
    messages = []
    with cambium.load(sys.argv[1] if len(sys.argv) > 1 else "smollm2") as model:
        for line in iter(lambda: input("> "), ""):
            messages.append({"role": "user", "content": line})
            answer = model.chat(messages, temperature=0.7)
            text = ""
            try:
                for piece in answer:
                    text += piece
                    print(piece, end="", flush=True)
            except KeyboardInterrupt:
                pass
            print()
            messages.append({"role": "assistant", "content": text})


if __name__ == "__main__":
    try:
        main()
    except EOFError:
        print()
