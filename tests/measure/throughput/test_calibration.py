"""Calibration: once for an environment, absent where the device refuses, and again where a folder goes on."""

import io
from dataclasses import replace

import jax
import pytest
from batchscale.measure.control.progress import SECONDS_PER_CALIBRATION, Progress
from batchscale.measure.device import peak_rates
from batchscale.measure.device.peak_rates import Part
from batchscale.measure.throughput import rounds
from batchscale.measure.throughput.stage import Throughput
from batchscale.records import results_folder
from batchscale.records.row_types import Calibration
from tiny_workload import session

MATMUL, COPY, TIMER = "matmul_flops_per_second", "copy_bytes_per_second", "timer_resolution_seconds"


def refuse(_, __):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")


@pytest.fixture
def pretend(monkeypatch):
    """Return a function that sets the rates of matrix products; no cell is timed after the calibration."""
    monkeypatch.setattr(rounds, "measure", lambda *_: None)

    def parts(products):
        timer, copy = Part(TIMER, None, lambda *_: [1e-7]), Part(COPY, None, lambda *_: [1e9, 2e9])
        made = (timer, Part(MATMUL, "float32", products), copy)
        monkeypatch.setattr(peak_rates, "PARTS", made)

    return parts


def timed(folder, environment="0123456789abcdef", **fields):
    """Return the messages of a stage in an environment, and the calibration rows that its folder holds after it."""
    made = session(folder)
    made.host = replace(made.host, environment_hash=environment)
    made.progress = Progress(output=io.StringIO())
    made.prepare_folder()
    stage = Throughput(made)
    for name, value in fields.items():
        setattr(stage, name, value)
    stage.plan()
    stage.run()
    rows = [row for row in made.rows("throughput.jsonl") if isinstance(row, Calibration)]
    assert made.progress.remaining_seconds() == 0
    return made.progress.output.getvalue(), rows


def test_a_stage_calibrates_once_for_an_environment_and_goes_on_where_the_device_refuses(tmp_path, pretend):
    pretend(refuse)
    said, rows = timed(tmp_path, missing=[])
    assert [(row.quantity, row.value) for row in rows] == [(TIMER, 1e-7), (COPY, 1e9), (COPY, 2e9)]
    assert f"{MATMUL} was not measured: RESOURCE_EXHAUSTED" in said
    assert timed(tmp_path, missing=[])[1] == rows
    again = timed(tmp_path, environment="fedcba9876543210")[1]
    assert [row.environment for row in again] == ["0123456789abcdef"] * 3 + ["fedcba9876543210"] * 3


@pytest.mark.parametrize(("speed", "is_another"), [(3.9, False), (1.5, True), (5.0, True)])
def test_a_folder_that_goes_on_at_another_speed_says_so_and_keeps_both_rates(tmp_path, pretend, speed, is_another):
    pretend(lambda *_: [2e9, 3e9])
    said, rows = timed(tmp_path)
    assert "another machine" not in said
    pretend(lambda *_: [speed * 1e9])
    said, more = timed(tmp_path)
    assert ("another machine" in said) == is_another
    assert (f"{MATMUL} is {speed * 1e9:.3g} now, and earlier runs in this folder had 3e+09" in said) == is_another
    assert [(row.quantity, row.value) for row in more[len(rows) :]] == [(MATMUL, speed * 1e9)]
    best = {f"{MATMUL} float32": max(3.0, speed) * 1e9, COPY: 2e9}
    assert results_folder.read_machine(tmp_path).peak_rates == best


def test_a_folder_whose_cells_are_all_timed_is_not_calibrated_again(tmp_path, pretend):
    pretend(lambda *_: [2e9])
    rows = timed(tmp_path)[1]
    assert timed(tmp_path, missing=[])[1] == rows


def test_preparing_a_folder_again_keeps_its_rates(tmp_path, pretend):
    pretend(lambda *_: [2e9])
    timed(tmp_path)
    before = results_folder.read_machine(tmp_path)
    session(tmp_path).prepare_folder()
    assert results_folder.read_machine(tmp_path).peak_rates == before.peak_rates != {}


def test_the_time_left_counts_the_calibration(tmp_path, pretend):
    pretend(refuse)
    made = session(tmp_path)
    Throughput(made).plan()
    planned = made.progress.items[made.progress.prefix, "calibration"]
    assert planned.remaining_seconds() == len(peak_rates.PARTS) * SECONDS_PER_CALIBRATION
