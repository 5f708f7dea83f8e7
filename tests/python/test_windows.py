"""Sliding windows against bottleneck, pandas and NumPy's own windows."""

import array

import numpy
import pytest

import cambium

rng = numpy.random.default_rng(5)


@pytest.mark.parametrize("dtype", [numpy.float32, numpy.float64])
@pytest.mark.parametrize("nans", [False, True])
def test_as_bottleneck_and_pandas(dtype, nans):
    bottleneck, pandas = pytest.importorskip("bottleneck"), pytest.importorskip("pandas")
    for n, k in [(1, 1), (10, 1), (10, 3), (100, 7), (1000, 100), (37, 37)]:
        values = rng.standard_normal(n).astype(dtype)
        if nans:
            values[rng.random(n) < 0.2] = numpy.nan
        for min_count in (None, 1, max(1, k // 2), k):
            for ours, theirs, name in ((cambium.sliding_max, bottleneck.move_max, "max"), (cambium.sliding_min, bottleneck.move_min, "min")):
                got = ours(values, k, min_count=min_count)
                assert got.dtype == dtype
                numpy.testing.assert_array_equal(got, theirs(values, k, min_count=min_count))
                rolling = getattr(pandas.Series(values).rolling(k, min_periods=min_count), name)()
                numpy.testing.assert_array_equal(got, rolling.to_numpy())


def test_every_axis_and_layout():
    bottleneck = pytest.importorskip("bottleneck")
    values = rng.standard_normal((6, 5, 7))
    for array_ in (values, values.transpose(2, 0, 1), values[::2, :, ::-1], numpy.asfortranarray(values)):
        for axis in (-3, -2, -1, 0, 1, 2):
            want = bottleneck.move_max(array_, 3, axis=axis)
            numpy.testing.assert_array_equal(cambium.sliding_max(array_, 3, axis=axis), want)


def test_full_windows_keep_their_type():
    for dtype in (numpy.int8, numpy.int32, numpy.int64, numpy.float32, numpy.float64):
        values = (100 * rng.standard_normal((3, 50))).astype(dtype)
        got = cambium.sliding_max(values, 8, valid=True)
        want = numpy.lib.stride_tricks.sliding_window_view(values, 8, axis=-1).max(-1)
        assert got.dtype == (numpy.int64 if dtype == numpy.int8 else dtype)
        numpy.testing.assert_array_equal(got, want)
    assert cambium.sliding_max(numpy.zeros((2, 3)), 4, valid=True).shape == (2, 0)


def test_other_arrays():
    want = [numpy.nan, 2, 3, 3]
    numpy.testing.assert_array_equal(cambium.sliding_max([1, 2, 3, 1], 2), want)
    numpy.testing.assert_array_equal(cambium.sliding_max(array.array("d", [1, 2, 3, 1]), 2), want)
    numpy.testing.assert_array_equal(cambium.sliding_max(numpy.array([1, 2, 3, 1], dtype=numpy.uint16), 2), want)
    assert cambium.sliding_max(numpy.zeros((0,)), 3).shape == (0,)
    assert numpy.isnan(cambium.sliding_max(numpy.zeros(3), 4)).all()
    torch = pytest.importorskip("torch")
    numpy.testing.assert_array_equal(cambium.sliding_max(torch.tensor([1.0, 2.0, 3.0, 1.0]), 2), want)


def test_nothing_is_copied_on_the_way_in():
    values = rng.standard_normal(10)
    values.flags.writeable = False
    before = values.copy()
    cambium.sliding_max(values, 3)
    assert (values == before).all()


def test_bad_arrays():
    for wrong in (numpy.array(["a"]), numpy.array([1j]), numpy.array([None]), numpy.zeros(3, dtype=numpy.uint64)):
        with pytest.raises(TypeError, match="dtype"):
            cambium.sliding_max(wrong, 2)
    with pytest.raises(ValueError, match="dimension"):
        cambium.sliding_max(3.0, 2)
    with pytest.raises(ValueError, match="axis 1"):
        cambium.sliding_max(numpy.zeros(3), 2, axis=1)
    with pytest.raises(cambium.UsageError, match="k is 0"):
        cambium.sliding_max(numpy.zeros(3), 0)
    for count in (0, 3):
        with pytest.raises(cambium.UsageError, match="min_count"):
            cambium.sliding_max(numpy.zeros(3), 2, min_count=count)
    with pytest.raises(TypeError):
        cambium.sliding_max(numpy.zeros(3), 2.5)


def test_min_cover():
    assert cambium.min_cover("ADOBECODEBANC", "ABC") == (9, 13)
    assert cambium.min_cover("grün — 木 und baum", "木ü") == (2, 8)
    assert cambium.min_cover(b"ADOBECODEBANC", b"ABC") == (9, 13)
    assert cambium.min_cover([1, 2, 3, 1], [3, 1]) == (2, 4)
    assert cambium.min_cover(numpy.array([1, 2, 3, 1], dtype=numpy.int32), numpy.array([1, 1], dtype=numpy.int32)) == (0, 4)
    assert cambium.min_cover("a b c a".split(), ["c", "a"]) == (2, 4)
    assert cambium.min_cover("abc", "d") is None and cambium.min_cover("abc", "") == (0, 0)
    with pytest.raises(TypeError):
        cambium.min_cover("abc", b"a")
