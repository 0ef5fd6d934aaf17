"""The machine's ceilings: exact on a pretended clock, measured once for an environment, and absent where refused."""

import inspect
import io
from dataclasses import replace

import jax
import numpy as np
import pytest
from batchscale.measure.control.progress import CALIBRATIONS, SECONDS_PER_CALIBRATION, Progress
from batchscale.measure.device import compiled_programs, peak_rates
from batchscale.measure.device.peak_rates import Part
from batchscale.measure.throughput import rounds
from batchscale.measure.throughput.stage import Throughput
from batchscale.records.row_types import Calibration
from fake_throughput import PretendedClock
from tiny_workload import session

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


def refuse(_, __):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")


@pytest.fixture
def parts(monkeypatch):
    """Three parts that take no time, the second of which the device refuses; no cell is timed after them."""
    made = (
        Part("timer_resolution_seconds", None, lambda *_: [1e-7]),
        Part("matmul_flops_per_second", "float32", refuse),
        Part("copy_bytes_per_second", None, lambda *_: [1e9, 2e9]),
    )
    monkeypatch.setattr(peak_rates, "PARTS", made)
    monkeypatch.setattr(rounds, "measure", lambda *_: None)
    return made


def timed(folder, environment="0123456789abcdef"):
    """A stage in an environment, its messages and the calibration rows that its folder holds after it."""
    made = session(folder)
    made.host = replace(made.host, environment_hash=environment)
    made.progress = Progress(output=io.StringIO())
    made.prepare_folder()
    stage = Throughput(made)
    stage.plan()
    stage.run()
    rows = [row for row in made.rows("throughput.jsonl") if isinstance(row, Calibration)]
    return made.progress, rows


def test_a_stage_calibrates_once_for_an_environment_and_goes_on_where_the_device_refuses(tmp_path, parts):
    progress, rows = timed(tmp_path)
    assert [(row.quantity, row.value) for row in rows] == [
        ("timer_resolution_seconds", 1e-7),
        ("copy_bytes_per_second", 1e9),
        ("copy_bytes_per_second", 2e9),
    ]
    assert "matmul_flops_per_second was not measured: RESOURCE_EXHAUSTED" in progress.output.getvalue()
    assert progress.remaining_seconds() == 0
    assert timed(tmp_path)[1] == rows
    again = timed(tmp_path, environment="fedcba9876543210")[1]
    assert [row.environment for row in again] == ["0123456789abcdef"] * 3 + ["fedcba9876543210"] * 3


def test_the_time_left_counts_the_calibration(tmp_path, parts):
    made = session(tmp_path)
    Throughput(made).plan()
    planned = made.progress.items[made.progress.prefix, "calibration"]
    assert planned.remaining_seconds() == len(parts) * SECONDS_PER_CALIBRATION
