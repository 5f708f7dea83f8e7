"""What the library has to say without failing becomes a Python warning."""

import warnings

from . import _cambium


class CambiumWarning(UserWarning):
    """Names the file, the field and the value, and what is assumed."""


def _warn(text: str) -> None:
    warnings.warn(text, CambiumWarning, stacklevel=2)


def install() -> None:
    _cambium.set_warning_handler(_warn)
