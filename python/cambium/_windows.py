"""Sliding windows over arrays, and the shortest window that covers another text."""

from __future__ import annotations

from typing import Any, Optional, Sequence, Union

from . import _cambium


def _array(array: Any, valid: bool) -> Any:
    import numpy

    if hasattr(array, "__dlpack__") and not isinstance(array, numpy.ndarray):
        array = numpy.from_dlpack(array)
    array = numpy.asarray(array)
    if array.dtype in (numpy.float32, numpy.float64):
        return array
    if array.dtype == numpy.float16:
        return array.astype(numpy.float32)
    if array.dtype.kind not in "iub" or array.dtype == numpy.uint64:
        raise TypeError(f"array has dtype {array.dtype}, expected floats of 16 to 64 bits or integers")
    if not valid:
        return array.astype(numpy.float64)  # places without a full window are NaN
    return array if array.dtype in (numpy.int32, numpy.int64) else array.astype(numpy.int64)


def _slide(array: Any, k: int, axis: int, min_count: Optional[int], valid: bool, minimum: bool) -> Any:
    import operator

    import numpy

    k = operator.index(k)
    values = _array(array, valid)
    if values.ndim == 0:
        raise ValueError("array has no dimension to slide along")
    if not -values.ndim <= axis < values.ndim:
        raise ValueError(f"axis {axis} is out of bounds for an array of {values.ndim} dimensions")
    if valid and min_count is not None:
        raise ValueError("min_count: with valid=True every window is full")
    rows = numpy.ascontiguousarray(numpy.moveaxis(values, axis, -1))
    shape = rows.shape
    rows = rows.reshape(-1, shape[-1]) if rows.size else rows.reshape(int(numpy.prod(shape[:-1])), shape[-1])
    if valid:
        out = numpy.empty((rows.shape[0], max(0, rows.shape[1] - max(k, 1) + 1)), dtype=rows.dtype)
        _cambium.sliding_valid(rows, out, k, minimum)
    else:
        out = numpy.empty(rows.shape, dtype=rows.dtype)
        _cambium.sliding_same(rows, out, k, k if min_count is None else min_count, minimum)
    return numpy.moveaxis(out.reshape(shape[:-1] + (out.shape[-1],)), -1, axis)


def sliding_max(array: Any, k: int, axis: int = -1, min_count: Optional[int] = None, *, valid: bool = False) -> Any:
    """The maximum of each k values along an axis, in time that does not depend on k.

    As ``bottleneck.move_max`` and pandas' ``rolling(k).max()``: the same shape, a window ends at its place, and is NaN
    where it holds fewer than ``min_count`` values (by default k) that are not NaN. With ``valid`` full windows alone,
    n - k + 1 of them in the array's own type; one that holds a NaN is NaN.

    Takes NumPy arrays without a copy where the axis is the last of a contiguous array, and whatever has the buffer
    protocol or DLPack. k must be at least 1; it may exceed the length, and then no window is full.
    """
    return _slide(array, k, axis, min_count, valid, False)


def sliding_min(array: Any, k: int, axis: int = -1, min_count: Optional[int] = None, *, valid: bool = False) -> Any:
    """The minimum, as ``sliding_max`` has the maximum."""
    return _slide(array, k, axis, min_count, valid, True)


def min_cover(
    s: Union[str, bytes, Sequence[int], Sequence[str], Any], t: Union[str, bytes, Sequence[int], Sequence[str], Any]
) -> Optional[tuple[int, int]]:
    """(begin, end) of the shortest window of s that holds every element of t with its multiplicity, the leftmost of
    equals; None where s lacks one. Texts (by character), bytes, int32 arrays or lists of ids, or lists of words."""
    return _cambium.min_cover(s, t)
