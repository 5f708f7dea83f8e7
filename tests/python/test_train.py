"""Training: the same steps as the program's, adapters that PEFT reads."""

import json
import os
import subprocess
import sys
import threading

import numpy
import pytest

import cambium
from conftest import FAST, RECORDS

TEXT = "What is 3? 3 it is."


def test_a_lora_learns_and_serves_at_once(fresh):
    before = fresh.score(TEXT).loss
    reports = []
    result = cambium.train(fresh, RECORDS, epochs=4, on_step=reports.append, **FAST)
    assert result.end == "done" and result.steps == len(reports) == 12 and result.output is None
    assert reports[-1].loss < reports[0].loss
    assert result.adapter.kinds == ["lora"]
    assert fresh.score(TEXT, grafts=result.adapter).loss < before - 0.1
    assert fresh.score(TEXT).loss == before


def test_steps_are_those_of_the_program(tiny_path, tmp_path):
    program = os.path.join(os.path.dirname(sys.executable), "cambium")
    if not os.path.exists(program):
        pytest.skip("the package is not installed beside this interpreter")
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in RECORDS))
    with cambium.load(tiny_path, threads=2) as model:
        result = cambium.train(model, RECORDS, epochs=2, valid_split=0.25, output=tmp_path / "python", **FAST)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in FAST.items()]
    command = [program, "train", str(tiny_path), "--data", str(data), "--epochs", "2", "--valid-split", "0.25", "-q"]
    subprocess.run([*command, *flags, "-t", "2", "-o", str(tmp_path / "program")], check=True)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "python" / name).read_bytes() == (tmp_path / "program" / name).read_bytes(), name
    rows = [
        [{k: v for k, v in json.loads(line).items() if k != "tokens_per_s"} for line in open(tmp_path / run / "metrics.jsonl")]
        for run in ("python", "program")
    ]
    assert rows[0] == rows[1] and result.best_loss == min(r["valid_loss"] for r in rows[0] if "valid_loss" in r)


def test_stepping_by_hand(fresh, tmp_path):
    with cambium.Training(fresh, RECORDS, valid=RECORDS[:3], epochs=2, **FAST) as training:
        assert training.kind == "lora" and training.data["examples"] == 12 and training.config["rank"] == 2
        plan = training.plan()
        assert plan["steps"] == training.total_steps == 6 and plan["parameters"] > 0
        assert "[" in training.preview()
        before = training.evaluate()
        early = training.adapter()
        steps = [report.step for report in training]
        assert steps == [1, 2, 3, 4, 5, 6] and training.step() is None and training.result["end"] == "done"
        assert training.evaluate() < before
        training.save(tmp_path / "saved")
        late = training.adapter()
    assert fresh.score(TEXT, grafts=early).loss == pytest.approx(fresh.score(TEXT).loss)  # a LoRA begins as nothing
    assert fresh.score(TEXT, grafts=late).loss == fresh.score(TEXT, grafts=tmp_path / "saved").loss
    assert fresh.score(TEXT, grafts=(late, 0.5)).loss != fresh.score(TEXT, grafts=late).loss


def test_requests_go_on_between_steps(fresh):
    answers = []
    done = threading.Event()

    def ask():
        while not done.is_set():
            answers.append(fresh.generate([5, 6, 7], temperature=0, max_tokens=5, ignore_eos=True).result().ids)

    alone = fresh.generate([5, 6, 7], temperature=0, max_tokens=5, ignore_eos=True).result().ids
    thread = threading.Thread(target=ask)
    thread.start()
    cambium.train(fresh, RECORDS, epochs=4, **FAST)
    done.set()
    thread.join()
    assert answers and all(ids == alone for ids in answers)


def test_two_trainings_on_one_model_are_refused(fresh):
    with cambium.Training(fresh, RECORDS, **FAST):
        with pytest.raises(cambium.UsageError, match="under way on this model"):
            cambium.Training(fresh, RECORDS, **FAST)
    cambium.Training(fresh, RECORDS, **FAST).close()


def test_full_tuning_wants_the_model_alone(fresh):
    with pytest.raises(cambium.UsageError, match="engines"):
        cambium.Training(fresh, RECORDS, graft="full", seq_len=48)


def test_a_callback_stops_the_run_and_it_goes_on(fresh, tmp_path):
    out = tmp_path / "run"
    stop = cambium.train(fresh, RECORDS, epochs=4, output=out, on_step=lambda report: report.step < 5, **FAST)
    assert stop.end == "interrupted" and stop.steps == 5
    rest = cambium.train(fresh, RECORDS, epochs=4, output=out, resume="auto", **FAST)
    whole = cambium.train(fresh, RECORDS, epochs=4, output=tmp_path / "whole", **FAST)
    assert rest.end == whole.end == "done" and rest.loss == whole.loss
    name = "adapter_model.safetensors"
    assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_callback_that_raises_ends_the_training(fresh):
    def boom(report):
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        cambium.train(fresh, RECORDS, on_step=boom, **FAST)
    cambium.Training(fresh, RECORDS, **FAST).close()  # the model is free again


def test_records_may_hold_arrays(fresh):
    ids = numpy.arange(3, 20, dtype=numpy.int32)
    labels = numpy.where(ids > 8, ids, -100)
    with cambium.Training(fresh, [{"input_ids": ids, "labels": labels}], yes=True, **FAST) as training:
        assert training.data["tokens"] == 17 and training.data["trained_tokens"] == 11
        assert training.step().step == 1


def test_heads_behind_a_lora_make_a_bundle(fresh, tmp_path):
    lines = []
    out = tmp_path / "bundle"
    options = dict(FAST, epochs=1, with_heads="medusa", heads=2)
    with pytest.raises(cambium.UsageError, match="output"):
        cambium.train(fresh, RECORDS, **options)
    result = cambium.train(fresh, RECORDS, output=out, on_line=lines.append, **options)
    assert sorted(result.adapter.kinds) == ["lora", "medusa"] and any("right at once" in line for line in lines)


def test_bad_options_name_what_is_wrong(fresh):
    for options, part in [
        (dict(rank=0), "rank"),
        (dict(lr="fast"), "lr"),
        (dict(lr=-1), "lr"),
        (dict(learning_rate=1), "learning_rate"),
        (dict(batch_size=2.5), "batch"),
        (dict(precision="int4"), "int4"),
        (dict(labels="none"), "labels"),
        (dict(graft="scion"), "scion"),
        (dict(targets="q_proj"), "targets"),
        (dict(seq_len=100000), "seq-len"),
    ]:
        with pytest.raises(cambium.UsageError) as error:
            cambium.train(fresh, RECORDS, **dict(FAST, **options))
        assert part in str(error.value), (options, str(error.value))
    with pytest.raises(cambium.UsageError, match="data is required"):
        cambium.train(fresh, **FAST)
    with pytest.raises(cambium.UsageError, match="a record is a int"):
        cambium.train(fresh, [3], **FAST)
    with pytest.raises(TypeError, match="object"):
        cambium.train(fresh, [{"text": object()}], **FAST)
    with pytest.raises(cambium.DataError, match="no-such"):
        cambium.train(fresh, "/no-such.jsonl", **FAST)


def test_peft_reads_what_was_trained(tiny_path, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    with cambium.load(tiny_path, threads=2, exact=True) as model:
        cambium.train(model, RECORDS, epochs=2, output=tmp_path / "lora", precision="fp32", **FAST)
        ids = model.tokenizer.encode(TEXT)
        ours = model.score(ids, grafts=tmp_path / "lora").logprobs
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "lora").eval()
    with torch.no_grad():
        logits = theirs(torch.tensor([ids])).logits[0].log_softmax(-1)
    want = logits[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()
    numpy.testing.assert_allclose(ours, want, atol=1e-4)
