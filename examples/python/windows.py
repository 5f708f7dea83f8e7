"""python windows.py: the day's highest and lowest of a year of measurements, one a second, and when it swung most."""

import time

import numpy

import cambium


def main() -> None:
    seconds, day = 365 * 86400, 86400
    rng = numpy.random.default_rng(1)
    series = rng.standard_normal(seconds, dtype=numpy.float32).cumsum(dtype=numpy.float32) / 100
    start = time.perf_counter()
    swing = cambium.sliding_max(series, day) - cambium.sliding_min(series, day)
    took = time.perf_counter() - start
    at = int(numpy.nanargmax(swing))
    print(f"{seconds} values, windows of {day}: {took:.2f} s")
    print(f"largest swing within a day: {swing[at]:.2f}, in the day that ends at second {at}")


if __name__ == "__main__":
    main()
