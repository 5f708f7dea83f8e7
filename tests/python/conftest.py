"""A tiny Llama with a tokenizer (as tests/tiny_llama.h has it), and the default model where it is in the cache."""

import json
import pathlib
import shutil

import pytest

import cambium

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"
LORA = GOLDEN / "peft/lora"


def write_tokenizer(folder, vocab_size=96):
    """One token a printable character, the space, and an end token."""
    vocab = {chr(c): c - 33 for c in range(33, 127)}
    vocab["\u0120"] = 94
    vocab["<end>"] = 95
    end = dict(id=95, content="<end>", special=True, single_word=False, lstrip=False, rstrip=False, normalized=False)
    tokenizer = {
        "added_tokens": [end],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>", "chat_template": template}))


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "llama"
    shutil.copytree(GOLDEN / "families/llama", folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_path):
    with cambium.load(tiny_path, threads=2, context=128, exact=True) as model:
        yield model


@pytest.fixture
def fresh(tiny_path):
    """A model of the test's own."""
    with cambium.load(tiny_path, threads=2, context=128) as model:
        yield model


@pytest.fixture(scope="session")
def smollm2():
    try:
        model = cambium.load("smollm2", exact=True, context=512)
    except cambium.DataError:
        pytest.skip("the default model is not in the cache")
    with model:
        yield model


RECORDS = [(f"What is {i}?", f"{i} it is.") for i in range(12)]
FAST = dict(seq_len=48, batch_size=4, rank=2, lr=1e-2)
