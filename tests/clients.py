#!/usr/bin/env python3
"""Run by clients.sh: the official client, litellm, langchain-openai, instructor and llm against `cambium serve`."""

import os
import re
import subprocess
import sys
import tempfile

PROMPT = [{"role": "user", "content": "Name three trees."}]


def check_openai(base):
    import openai
    client = openai.OpenAI(base_url=base, api_key="none", max_retries=0)
    options = dict(model="m", messages=PROMPT, max_tokens=12, temperature=0)
    plain = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == plain.choices[0].message.content, (text, plain)
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens
    assert client.completions.create(model="m", prompt="The sea is", max_tokens=4).choices[0].text
    assert len(client.embeddings.create(model="m", input=["one", "two"]).data) == 2
    assert [m.id for m in client.models.list()] == ["m"]
    response = client.responses.create(model="m", input="Hello", max_output_tokens=16)
    assert response.output_text and response.usage.output_tokens > 0
    kinds = [e.type for e in client.responses.create(model="m", input="Hello", max_output_tokens=16, stream=True)]
    assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete"), kinds
    for error, wrong in ((openai.BadRequestError, {"temperature": -1}), (openai.NotFoundError, {"model": "nobody"})):
        try:
            client.chat.completions.create(**{**options, **wrong})
            raise AssertionError(f"{wrong} is accepted")
        except error:
            pass


def check_litellm(base):
    import litellm
    litellm.telemetry = False
    options = dict(model="openai/m", api_base=base, api_key="none", messages=PROMPT, max_tokens=12, temperature=0)
    plain = litellm.completion(**options).choices[0].message.content
    text = "".join(c.choices[0].delta.content or "" for c in litellm.completion(**options, stream=True))
    assert plain and text == plain, (plain, text)


def check_langchain(base):
    from langchain_openai import ChatOpenAI
    chat = ChatOpenAI(model="m", base_url=base, api_key="none", temperature=0, max_tokens=12)
    plain = chat.invoke("Name three trees.").content
    assert plain and "".join(c.content for c in chat.stream("Name three trees.")) == plain
    assert len(chat.batch(["One", "Two"])) == 2


def check_instructor(base):
    import instructor
    import openai
    import pydantic

    class Person(pydantic.BaseModel):
        name: str
        age: int
    client = instructor.from_openai(openai.OpenAI(base_url=base, api_key="none"), mode=instructor.Mode.JSON_SCHEMA)
    person = client.chat.completions.create(model="m", response_model=Person, max_tokens=64, temperature=0, max_retries=1,
                                            messages=[{"role": "user", "content": "Anna is 30 years old."}])
    assert isinstance(person, Person) and person.name, person


def check_llm(base):
    """A chat program of someone else's, unmodified: pip's `llm`, told of the server by its own file of models."""
    with tempfile.TemporaryDirectory() as home:
        with open(os.path.join(home, "extra-openai-models.yaml"), "w") as file:
            file.write(f'- model_id: ours\n  model_name: m\n  api_base: "{base}"\n')
        program = os.path.join(os.path.dirname(sys.executable), "llm")
        run = subprocess.run([program, "-m", "ours", "-o", "max_tokens", "12", "Name three trees."], capture_output=True, text=True,
                             env={**os.environ, "LLM_USER_PATH": home, "OPENAI_API_KEY": "none"}, stdin=subprocess.DEVNULL)
        assert run.returncode == 0 and run.stdout.strip(), run.stderr[-500:]


def main():
    server = subprocess.Popen([sys.argv[1], "serve", sys.argv[2], "-a", "m", "-q", "--port", "0"], stdout=subprocess.PIPE,
                              text=True)
    base = re.search(r"http://\S+", server.stdout.readline()).group() + "/v1"
    failed = 0
    try:
        import time
        import urllib.request
        for _ in range(500):
            try:
                urllib.request.urlopen(base[:-3] + "/ready")
                break
            except OSError:
                time.sleep(0.02)
        for check in (check_openai, check_litellm, check_langchain, check_instructor, check_llm):
            try:
                check(base)
                print(f"clients: {check.__name__[6:]} works")
            except Exception as error:  # each client raises its own
                failed += 1
                print(f"clients: {check.__name__[6:]} FAILED: {type(error).__name__}: {str(error)[:800]}")
    finally:
        server.terminate()
        server.wait()
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
