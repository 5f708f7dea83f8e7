"""Training."""

from __future__ import annotations

import json
import os
from typing import Any, Callable, Iterable, Iterator, Mapping, NamedTuple, Optional, Union

from . import _cambium
from ._cambium import Adapter, StepReport, UsageError
from ._model import Model

Record = Union[str, tuple[str, str], Mapping[str, Any]]
Data = Union[str, "os.PathLike[str]", Iterable[Record]]


class TrainResult(NamedTuple):
    """How a training ended."""

    end: str  # "done", "early_stop" or "interrupted"
    steps: int
    loss: float  # of the last step
    best_loss: Optional[float]  # on the validation data
    best_step: int
    adapter: Optional[Adapter]  # for requests on the model at once; None where the whole model was trained
    output: Optional[str]  # the directory, where one was given


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # arrays of ids
        return value.tolist()
    raise TypeError(f"a record holds a {type(value).__name__}, which JSON has no form for")


def _record(record: Record) -> str:
    if isinstance(record, str):
        record = {"text": record}
    elif isinstance(record, tuple):
        if len(record) != 2:
            raise UsageError(f"a record is a tuple of {len(record)}, expected (prompt, completion)")
        record = {"prompt": record[0], "completion": record[1]}
    elif not isinstance(record, Mapping):
        raise UsageError(f"a record is a {type(record).__name__}, expected a text, (prompt, completion) or a mapping")
    return json.dumps(dict(record), default=_plain)


class _Files:
    """Records in files for as long as they are read."""

    def __init__(self) -> None:
        self._folder: Any = None

    def path(self, data: Data, name: str) -> str:
        if isinstance(data, (str, os.PathLike)):
            return os.fspath(data)
        if self._folder is None:
            import tempfile

            self._folder = tempfile.TemporaryDirectory(prefix="cambium-")
        path = os.path.join(self._folder.name, name + ".jsonl")
        with open(path, "w", encoding="utf-8") as file:
            for record in data:
                file.write(_record(record) + "\n")
        return path

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


class Training:
    """One run of training on a model, step by step; requests on the model go on between its steps.

        with cambium.Training(model, records, graft="lora", epochs=2) as training:
            for report in training:
                print(report.step, report.loss)
            answer = model.generate("...", grafts=training.adapter())

    data: a file as ``cambium train --data`` takes it, or records: a text, (prompt, completion), or a mapping in any of
    the dialects of docs/training.md. The options are those of ``cambium train`` with _ for -. One training at a time on
    a model.
    """

    def __init__(
        self,
        model: Model,
        data: Data = "",
        *,
        valid: Optional[Data] = None,
        output: Union[str, "os.PathLike[str]", None] = None,
        on_line: Optional[Callable[[str], object]] = None,
        _stage: Optional[int] = None,
        **options: Any,
    ) -> None:
        files = _Files()
        try:
            config = dict(options, data=files.path(data, "data"))
            if valid is not None:
                config["valid"] = files.path(valid, "valid")
            if output is not None:
                config["output"] = os.fspath(output)
            self._native = _cambium.Training.make(
                model._native, json.dumps(config, default=_plain), -1 if _stage is None else _stage, on_line
            )
        finally:
            files.close()

    @property
    def config(self) -> dict[str, Any]:
        """Every option, as it is in force."""
        return json.loads(self._native.config)

    @property
    def kind(self) -> str:
        """Of what is trained: "lora", "prefix", ..."""
        return self._native.kind

    @property
    def data(self) -> dict[str, Any]:
        """What was read, and what was lost on the way."""
        return self._native.data

    @property
    def position(self) -> int:
        """Steps done."""
        return self._native.position

    @property
    def total_steps(self) -> int:
        return self._native.total_steps

    @property
    def result(self) -> dict[str, Any]:
        """end, steps, loss, best_loss and best_step of a run that has ended."""
        return self._native.result

    def plan(self) -> dict[str, Any]:
        """What the run will cost, by two micro-batches; it changes nothing."""
        return self._native.plan()

    def preview(self, color: bool = False) -> str:
        """The first example, with what is trained on in [brackets] or in green."""
        return self._native.preview(color)

    def step(self) -> Optional[StepReport]:
        """The next step; None where the run has ended. Ctrl-C ends it behind a micro-batch, with a checkpoint in
        ``output``, and raises KeyboardInterrupt; ``resume="auto"`` goes on from there."""
        return self._native.step()

    def __iter__(self) -> Iterator[StepReport]:
        while (report := self.step()) is not None:
            yield report

    def stop(self) -> None:
        """Ends the step under way; any thread may call it."""
        self._native.stop()

    def evaluate(self) -> float:
        """Mean loss on the validation data now."""
        return self._native.evaluate()

    def save(self, directory: Union[str, "os.PathLike[str]", None] = None) -> None:
        """Writes what is trained, as it is now; into ``output`` by default."""
        self._native.save("" if directory is None else os.fspath(directory))

    def adapter(self) -> Adapter:
        """What is trained, as it is now, for requests on the same model; later steps do not change it."""
        return self._native.adapter()

    def report_heads(self) -> list[str]:
        """At the end: what draft heads are good for, in lines."""
        return self._native.report_heads()

    def close(self) -> None:
        """Lets the model be trained by others."""
        if not self._native.closed:
            self._native.close()

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is KeyboardInterrupt and not self._native.closed:
            self.stop()
            self.step()  # nothing but its checkpoint, where the interrupt came between two steps
        self.close()


def train(
    model: Model,
    data: Data = "",
    *,
    graft: str = "lora",
    valid: Optional[Data] = None,
    output: Union[str, "os.PathLike[str]", None] = None,
    on_step: Optional[Callable[[StepReport], object]] = None,
    on_line: Optional[Callable[[str], object]] = None,
    **options: Any,
) -> TrainResult:
    """Trains a graft onto a model, to the end; ``Training`` has the data and the options.

    on_step: called with each step's report; returning False ends the run as Ctrl-C does, with a checkpoint.
    output: the directory for the adapter, checkpoints and metrics; None keeps the adapter in memory alone.
    """
    options["graft"] = graft
    config = dict(options)
    if output is not None:
        config["output"] = os.fspath(output)
    stages = _cambium.count_stages(json.dumps(config, default=_plain))
    if not isinstance(data, (str, os.PathLike)):
        data = list(data)
    if valid is not None and not isinstance(valid, (str, os.PathLike)):
        valid = list(valid)
    result: dict[str, Any] = {}
    adapter: Optional[Adapter] = None
    for stage in range(stages):
        with Training(model, data, valid=valid, output=output, on_line=on_line, _stage=stage, **options) as training:
            for report in training:
                if on_step is not None and on_step(report) is False:
                    training.stop()
            result = training.result
            if output is not None and result["end"] != "interrupted":
                training.save()
            if training.kind != "full":
                adapter = training.adapter()
            if output is not None:
                for line in training.report_heads():
                    if on_line is not None:
                        on_line(line)
        if result["end"] == "interrupted":
            break
    whole = stages > 1 and output is not None and result["end"] != "interrupted"
    if whole:
        adapter = model.load_graft(output)  # type: ignore[arg-type]
    return TrainResult(**result, adapter=adapter, output=None if output is None else os.fspath(output))
