"""What the process does to the package: closing, forks, signals, imports."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import cambium
from conftest import FAST, RECORDS

PROMPT = [5, 6, 7, 8]


def test_a_closed_model_says_so(tiny_path):
    model = cambium.load(tiny_path, threads=1)
    under_way = model.generate(PROMPT, max_tokens=100, ignore_eos=True, draft="none")
    model.close()
    model.close()
    assert model.closed and "closed" in repr(model)
    for use in (
        lambda: model.generate(PROMPT),
        lambda: model.generate("text"),
        lambda: model.score(PROMPT),
        lambda: model.embed("abc"),
        lambda: model.tokenizer.encode("a"),
        lambda: model.stats(),
        lambda: cambium.Training(model, RECORDS, **FAST),
    ):
        with pytest.raises(cambium.UsageError, match="closed"):
            use()
    try:
        under_way.result()
    except cambium.UsageError as error:
        assert "closed" in str(error)


def test_a_forked_child_is_told(tiny):
    tiny.generate(PROMPT, max_tokens=2).result()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            tiny.generate(PROMPT, max_tokens=2)
        except cambium.UsageError as error:
            os.write(write, str(error).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert b"forked" in os.read(read, 1000)
    os.close(read)
    assert len(tiny.generate(PROMPT, max_tokens=2, ignore_eos=True).result().ids) == 2  # the parent goes on


def test_a_forked_child_ends_and_may_load_its_own(tiny_path, tiny):
    script = f"""
import os, sys, cambium
model = cambium.load({str(tiny_path)!r}, threads=2)
model.generate([5, 6], max_tokens=2).result()
child = os.fork()
if child == 0:
    own = cambium.load({str(tiny_path)!r}, threads=2)
    assert len(own.generate([5, 6], max_tokens=3, ignore_eos=True).result().ids) == 3
    del model, own
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def interrupt_soon(seconds):
    threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT)).start()


def test_ctrl_c_arrives_while_an_answer_is_waited_for(tiny_path):
    with cambium.load(tiny_path, threads=1, context=256, parallel=1) as model:
        busy = [model.generate(PROMPT, max_tokens=250, ignore_eos=True, draft="none", seed=i) for i in range(40)]
        start = time.monotonic()
        interrupt_soon(0.1)
        with pytest.raises(KeyboardInterrupt):
            for answer in busy:
                answer.result()
            time.sleep(5)
        assert time.monotonic() - start < 1.5
        for answer in busy:
            answer.cancel()


def test_ctrl_c_in_a_step_keeps_a_checkpoint(tiny_path, tmp_path):
    options = dict(FAST, steps=100000, save_every=0, seed=1)
    out = tmp_path / "run"
    with cambium.load(tiny_path, threads=1) as model:
        steps = []

        def note(report):
            steps.append(report.step)
            if len(steps) == 1:
                interrupt_soon(0.3)

        with pytest.raises(KeyboardInterrupt):
            cambium.train(model, RECORDS, output=out, on_step=note, **options)
        assert list((out / "checkpoints").glob("step-*/manifest.json"))
        with pytest.raises(cambium.UsageError, match="checkpoints of an earlier run"):
            cambium.Training(model, RECORDS, output=out, **options)
        lines = []
        with cambium.Training(model, RECORDS, output=out, resume="auto", on_line=lines.append, **options) as training:
            assert training.position >= len(steps) > 0
            assert training.step().step == training.position
        assert any("resumed after step" in line for line in lines)


def test_importing_takes_no_time():
    # Of the processor: other tests run beside this one.
    script = "import time; t = time.process_time(); import cambium, sys; print(time.process_time() - t); assert 'numpy' not in sys.modules"
    best = min(float(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout) for _ in range(5))
    assert best < 0.1


def test_the_program_comes_with_the_package():
    program = os.path.join(os.path.dirname(sys.executable), "cambium")
    if not os.path.exists(program):
        pytest.skip("the package is not installed beside this interpreter")
    assert "cambium" in subprocess.run([program, "version"], check=True, capture_output=True, text=True).stdout


def test_types_are_shipped():
    folder = os.path.dirname(cambium.__file__)
    assert os.path.exists(os.path.join(folder, "py.typed"))
    with open(os.path.join(folder, "_cambium.pyi"), encoding="utf-8") as stub:
        assert "class Request" in stub.read()
