"""Adapts frozen language models and serves them on a CPU.

    import cambium

    model = cambium.load("smollm2")
    for piece in model.generate("The cambium of a tree is", max_tokens=64):
        print(piece, end="", flush=True)

docs/python.md has the rest: chat, many requests at once, grafts, training, sliding windows.
"""

from ._cambium import (
    Adapter,
    Constraint,
    DataError,
    Error,
    Event,
    InterruptedError,
    ResourceError,
    StepReport,
    UsageError,
)
from ._generation import Generation, Result
from ._model import Model, Score, Tokenizer, load
from ._train import Training, TrainResult, train
from ._warnings import install as _install_warnings
from ._windows import min_cover, sliding_max, sliding_min

__version__ = "0.1.0"
__all__ = [
    "Adapter",
    "Constraint",
    "DataError",
    "Error",
    "Event",
    "Generation",
    "InterruptedError",
    "Model",
    "ResourceError",
    "Result",
    "Score",
    "StepReport",
    "Tokenizer",
    "TrainResult",
    "Training",
    "UsageError",
    "load",
    "min_cover",
    "sliding_max",
    "sliding_min",
    "train",
]

_install_warnings()
