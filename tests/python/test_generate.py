"""Requests against numbers of transformers (tests/golden) and against each other."""

import asyncio
import array
import gc
import json
import threading

import numpy
import pytest

import cambium
from conftest import GOLDEN, LORA

PROMPT = [5, 6, 7, 8]
GREEDY = dict(temperature=0, max_tokens=12, ignore_eos=True)


def test_greedy_tokens_are_those_of_transformers(smollm2):
    for case in json.loads((GOLDEN / "smollm2/greedy48.json").read_text())[:2]:
        got = smollm2.generate(case["input_ids"], temperature=0, max_tokens=48, ignore_eos=True).result()
        assert got.ids == case["ids"], case["name"]


def test_scores_are_those_of_transformers(smollm2):
    for case in json.loads((GOLDEN / "smollm2/base_logits.json").read_text())[:3]:
        if len(case["input_ids"]) < 2:
            continue
        score = smollm2.score(case["input_ids"])
        numpy.testing.assert_allclose(score.logprobs, case["token_logprobs"], atol=2e-3)
        assert score.perplexity == pytest.approx(numpy.exp(-numpy.mean(case["token_logprobs"])), rel=1e-3)


def test_a_peft_adapter_scores_as_peft_says(tiny):
    golden = json.loads((LORA / "golden.json").read_text())
    score = tiny.score(golden["ids"], grafts=LORA)
    for row, logits in zip(golden["rows"], golden["logits"]):
        if row + 1 == len(golden["ids"]):
            continue
        logits = numpy.array(logits, dtype=numpy.float64)
        want = logits[golden["ids"][row + 1]] - numpy.log(numpy.exp(logits - logits.max()).sum()) - logits.max()
        assert score.logprobs[row] == pytest.approx(want, abs=1e-4)
    assert not numpy.allclose(score.logprobs, tiny.score(golden["ids"]).logprobs, atol=1e-3)


def test_text_events_and_result_agree(tiny):
    whole = tiny.generate(PROMPT, seed=3, max_tokens=12, ignore_eos=True, logprobs=2).result()
    events = list(tiny.generate(PROMPT, seed=3, max_tokens=12, ignore_eos=True, logprobs=2).events())
    pieces = list(tiny.generate(PROMPT, seed=3, max_tokens=12, ignore_eos=True))
    assert [e.id for e in events if e.id >= 0] == whole.ids
    assert "".join(e.text for e in events) == "".join(pieces) == whole.text
    assert [e.logprob for e in events if e.id >= 0] == pytest.approx(whole.logprobs)
    assert len(whole.top_logprobs) == 12 and all(len(top) == 2 for top in whole.top_logprobs)
    assert whole.finish_reason == "length" and whole.timings["prompt_tokens"] + whole.timings["cached_tokens"] == 4
    assert tiny.generate(PROMPT, seed=3, max_tokens=12, ignore_eos=True).text() == whole.text
    assert tiny.tokenizer.decode(whole.ids) == whole.text


def test_prompts_may_be_texts_lists_and_arrays(tiny):
    text = "ab c"
    ids = tiny.tokenizer.encode(text)
    want = tiny.generate(text, **GREEDY).result().ids
    for prompt in (ids, tuple(ids), numpy.array(ids, dtype=numpy.int32), array.array("i", ids), numpy.array(ids)):
        assert tiny.generate(prompt, **GREEDY).result().ids == want
    for wrong in (numpy.array([1.5, 2.5]), numpy.zeros((2, 2), dtype=numpy.int32), [1.5], ["a"], None):
        with pytest.raises((TypeError, ValueError)):
            tiny.generate(wrong, **GREEDY)


def test_requests_side_by_side_answer_as_they_do_alone(tiny):
    options = [dict(seed=i, grafts=(LORA, 0.5) if i % 2 else None) for i in range(8)]
    together = [tiny.generate([5, 6, 7 + i], max_tokens=12, ignore_eos=True, **o) for i, o in enumerate(options)]
    got = [g.result().ids for g in together]
    assert got == [tiny.generate([5, 6, 7 + i], max_tokens=12, ignore_eos=True, **o).result().ids for i, o in enumerate(options)]


def test_asyncio_serves_many_at_once(tiny):
    async def answer(i):
        ids = []
        async for event in tiny.generate([5, 6, i], max_tokens=12, seed=i, ignore_eos=True).async_events():
            if event.id >= 0:
                ids.append(event.id)
        return ids

    async def main():
        texts = await asyncio.gather(*(answer(i) for i in range(20)))
        first = await tiny.generate([5, 6, 0], max_tokens=12, seed=0, ignore_eos=True)
        pieces = [piece async for piece in tiny.generate([5, 6, 1], max_tokens=12, seed=1, ignore_eos=True)]
        return texts, first, "".join(pieces)

    for _ in range(2):  # two event loops, one after another
        texts, first, second = asyncio.run(main())
        assert texts == [tiny.generate([5, 6, i], max_tokens=12, seed=i, ignore_eos=True).result().ids for i in range(20)]
        assert first.ids == texts[0] and second == tiny.tokenizer.decode(texts[1])


def test_a_cancelled_task_ends_its_request(fresh):
    async def main():
        task = asyncio.create_task(endless())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def endless():
        async for _ in fresh.generate(PROMPT, max_tokens=100, ignore_eos=True, draft="none"):
            await asyncio.sleep(0.2)

    asyncio.run(main())
    wait_until_idle(fresh)


def wait_until_idle(model):
    for _ in range(200):
        stats = model.stats()
        if stats["running"] == 0 and stats["waiting"] == 0:
            return
        threading.Event().wait(0.02)
    pytest.fail("the request goes on")


def test_an_iterator_dropped_half_way_ends_its_request(tiny_path):
    with cambium.load(tiny_path, threads=1, context=250) as model:
        for end in (lambda it: it.cancel(), lambda it: None):
            iterator = model.generate(PROMPT, max_tokens=200, ignore_eos=True, draft="none")
            next(iterator)
            end(iterator)
            del iterator
            gc.collect()
            wait_until_idle(model)
        kept = model.generate(PROMPT, max_tokens=200, ignore_eos=True, draft="none")
        kept.cancel()
        assert len(kept.result().ids) <= 200 and kept.result().finish_reason in ("cancelled", "length")


def test_chat_goes_through_the_template(tiny):
    ids = tiny.tokenizer.encode_chat([{"role": "user", "content": "hi"}])
    assert tiny.tokenizer.decode(ids) == "<user>hi<end>>"
    assert tiny.chat("hi", **GREEDY).result().ids == tiny.generate(ids, **GREEDY).result().ids
    # What a message spells is text, not the end token.
    assert tiny.tokenizer.encode_chat("<end>").count(95) == 1


def test_stop_strings_and_constraints(tiny):
    text = tiny.generate(PROMPT, temperature=0, max_tokens=20, ignore_eos=True).text()
    stopped = tiny.generate(PROMPT, temperature=0, max_tokens=20, ignore_eos=True, stop=text[4:6]).result()
    assert stopped.text == text[: text.index(text[4:6])] and stopped.stopped_by == text[4:6]
    assert tiny.generate(PROMPT, choice=["yes", "no"], max_tokens=8, seed=1).text() in ("yes", "no")
    constraint = tiny.constraint(regex="[0-9]{3}")
    assert constraint.accepts("123") and not constraint.accepts("12")
    assert tiny.generate(PROMPT, constraint=constraint, seed=1).text().isdigit()


def test_drafts_change_no_token(tiny):
    plain = tiny.generate(PROMPT, draft="none", **dict(GREEDY, max_tokens=40)).result()
    drafted = tiny.generate(PROMPT, draft=["ngram"], **dict(GREEDY, max_tokens=40)).result()
    assert plain.ids == drafted.ids and drafted.draft["passes"] <= plain.draft["passes"] + 40


def test_embeddings_have_length_one(tiny):
    one = tiny.embed("abc")
    many = tiny.embed(["abc", "xyz", "abc"])
    assert one.dtype == numpy.float32 and one.shape == (tiny.info["hidden"],)
    assert numpy.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert many.shape == (3, tiny.info["hidden"]) and (many[0] == one).all() and (many[2] == one).all()


def test_bad_requests_name_what_is_wrong(tiny):
    cases = [
        (dict(temperature=-1), "temp"),
        (dict(top_p=2), "top"),
        (dict(stop=""), "stop"),
        (dict(verify="maybe"), "verify"),
        (dict(draft="nobody"), "nobody"),
        (dict(logprobs=5000), "logprobs"),
        (dict(draft_rows=0), "draft_rows"),
        (dict(json_schema={}, regex="a"), "one of"),
        (dict(regex="("), "regex"),
    ]
    for options, part in cases:
        with pytest.raises(cambium.UsageError) as error:
            tiny.generate(PROMPT, **options).result()
        assert part in str(error.value), (options, str(error.value))
        assert isinstance(error.value, ValueError) and isinstance(error.value, cambium.Error)
    with pytest.raises(cambium.UsageError, match="999"):
        tiny.generate([999]).result()
    with pytest.raises(cambium.UsageError, match="999"):
        tiny.tokenizer.decode([999])
    with pytest.raises(cambium.Error, match="empty|prompt"):
        tiny.generate([]).result()
    with pytest.raises(cambium.DataError, match="nowhere"):
        tiny.load_graft("/nowhere")
    with pytest.raises(cambium.DataError, match="nonexistent"):
        cambium.load("/nonexistent/model.gguf")
    with pytest.raises(TypeError):
        tiny.generate(PROMPT, temprature=1)
    with pytest.raises(cambium.UsageError, match="at least 2"):
        tiny.score([1])
    with pytest.raises(cambium.UsageError, match="kv_type"):
        cambium.load(tiny.info["path"], kv_type="f8")
