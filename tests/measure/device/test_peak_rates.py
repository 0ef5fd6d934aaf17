"""The machine's ceilings are exact on a pretended clock."""

import inspect

import numpy as np
import pytest
from batchscale.measure.control.progress import CALIBRATIONS
from batchscale.measure.device import compiled_programs, peak_rates
from fake_throughput import PretendedClock

SMALL_BYTES = 4 * 256 * 256


def test_rates_are_exact_on_a_clock_whose_truth_is_known():
    fake = PretendedClock(per_step=0.02)
    assert peak_rates.rates(fake.work, 3.0, fake) == pytest.approx([3.0 / 0.02] * peak_rates.ROUNDS)


@pytest.mark.parametrize(("fixed", "expected"), [(1e-14, 8192), (1e-3, 256), (2e-10, 512), (2e-11, 1024)])
def test_products_grow_until_one_is_long_or_the_widest_is_reached(fixed, expected):
    fake, tried = PretendedClock(per_step=0.0), []

    def make(width):
        tried.append(width)
        fake.per_step = fixed * width**3
        return fake.work

    width, _ = peak_rates.long_enough(make, peak_rates.WIDTHS, fake)
    assert width == expected
    assert len(tried) <= 2


@pytest.mark.slow
def test_every_precision_and_the_copy_are_measured_for_real():
    found = {part[:2]: part.measure(SMALL_BYTES, compiled_programs.WALL) for part in peak_rates.PARTS}
    assert len(found) == CALIBRATIONS == len(peak_rates.PARTS)
    for (quantity, _), values in found.items():
        assert len(values) == (1 if quantity == "timer_resolution_seconds" else peak_rates.ROUNDS)
        assert all(value > 0 for value in values)
    assert max(found["matmul_flops_per_second", "float32"]) > 1e8
    assert max(found["copy_bytes_per_second", None]) > 1e7


def test_copies_really_copy():
    """Each step negates, so that no compiler can leave the copy out, and writes over the other buffer."""
    work = peak_rates.copies(1000)
    work(3)
    held = inspect.getclosurevars(inspect.unwrap(work)).nonlocals
    assert {float(held["source"][0]), float(held["target"][0])} == {-1.0, 1.0}
    assert "input_output_alias" in held["copy"].as_text()


@pytest.mark.parametrize("precision", ["float32", "default", "bfloat16"])
def test_products_keep_the_size_of_their_entries(precision):
    work = peak_rates.products(precision, 512)
    work(40)
    product = np.asarray(inspect.getclosurevars(inspect.unwrap(work)).nonlocals["product"], np.float64)
    assert 0.1 < product.std() < 10
