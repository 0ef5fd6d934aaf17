"""Grids too large for memory train in several waves, and trials at which a device fails become failed rows."""

import math

import jax
import pytest
from batchscale.errors import DeviceError
from batchscale.measure.convergence import wave
from batchscale.measure.convergence.lanes import Programs
from batchscale.measure.convergence.stage import Convergence
from batchscale.measure.device.compiled_programs import TuningFile
from batchscale.records import row_files
from batchscale.records.row_types import Curve, Trial
from fake_training import best_at, hold, made_up, study, without_training
from tiny_workload import session


@pytest.mark.parametrize("most", [1, 2, 5])
def test_lanes_that_are_too_many_for_memory_train_one_wave_after_another(tmp_path, monkeypatch, most):
    whole = study(tmp_path / "whole", monkeypatch, best_at(0.01))
    sizes, start = [], wave.start

    def started(*given):
        made = start(*given)
        sizes.append(len(made.records))
        return made

    monkeypatch.setattr(wave, "start", started)
    hold(most, monkeypatch)
    assert study(tmp_path / "parts", monkeypatch, best_at(0.01)) == whole
    assert sum(sizes) == len(whole)
    assert max(sizes) == (2 * (most // 2) or 1), "of two seeds"


def failing(of_phase, message, times=math.inf):
    """A `wave_loop.run` on a device that is lost in training waves of a phase, after one lane was finished."""
    left = times
    well = made_up(best_at(0.01))

    def run(lanes, reporter):
        nonlocal left
        if lanes.records[0].setting.phase != of_phase or left <= 0:
            return well(lanes, reporter)
        left -= 1
        first = lanes.records[0]
        first.curve = Curve(examples=[100], steps=[10], accuracy=[0.8], loss=[1.0])
        first.finish("ok")
        reporter.finished(first)
        raise jax.errors.JaxRuntimeError(message)

    return run


def unlucky(folder, monkeypatch, run, retries_failed=False, workers=1, **tables):
    without_training(monkeypatch, run)
    made = session(folder, workers, **tables)
    made.retries_failed = retries_failed
    made.prepare_folder()
    Convergence(made).run()
    return [row for row in row_files.read(folder / "convergence.jsonl") if isinstance(row, Trial)]


TWO_TIERS = {"batch_sizes": {"values": [7, 50]}, "evaluation": {"first_epoch": 2}}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_device_lost_in_training_fails_the_trials_it_was_at_and_other_tiers_go_on(tmp_path, monkeypatch, workers):
    run = failing("search", "INTERNAL: device lost", times=1)
    rows = unlucky(tmp_path, monkeypatch, run, workers=workers, **TWO_TIERS)
    failed = [row for row in rows if row.status == "failed"]
    assert {(row.phase, row.batch_size, row.reason) for row in failed} == {("search", 7, "INTERNAL: device lost")}
    assert len(failed) == 2 * 3 - 1
    assert all(row.steps == 0 and row.curve.examples == [] for row in failed)
    assert {row.phase for row in rows if row.batch_size == 7} == {"search"}
    assert {row.phase for row in rows if row.batch_size == 50} == {"search", "confirm"}
    assert all(row.status == "ok" for row in rows if row.batch_size == 50)


def test_failed_trials_are_done_until_they_are_to_be_tried_again(tmp_path, monkeypatch):
    first = unlucky(tmp_path, monkeypatch, failing("confirm", "INTERNAL: device lost"))
    trained = failing("confirm", "trained again", times=0)
    assert len(unlucky(tmp_path, monkeypatch, lambda *_: pytest.fail("trained again"))) == len(first)
    rows = unlucky(tmp_path, monkeypatch, trained, retries_failed=True)
    failed = sum(row.status == "failed" for row in first)
    assert failed > 0
    assert len(rows) == len(first) + failed
    assert all(row.status == "ok" for row in rows[len(first) :])
    assert len(unlucky(tmp_path, monkeypatch, lambda *_: pytest.fail("trained again"))) == len(rows)


def test_a_wave_out_of_memory_leaves_the_others_of_its_grid_to_be_trained(tmp_path, monkeypatch):
    hold(2, monkeypatch)
    rows = unlucky(tmp_path, monkeypatch, failing("search", "RESOURCE_EXHAUSTED: out of memory", times=1))
    search = [row for row in rows if row.phase == "search"]
    assert [row.status for row in search].count("failed") == 1, "of two lanes, one was finished before"
    assert len(search) > 2
    failed_at = {row.batch_size for row in search if row.status == "failed"}
    assert {row.batch_size for row in rows if row.phase == "confirm"} == {10, 50} - failed_at


def test_the_third_wave_in_a_row_that_fails_stops_the_study(tmp_path, monkeypatch):
    tables = {"batch_sizes": {"values": [7, 11, 13, 50]}, "evaluation": {"first_epoch": 2}}
    with pytest.raises(DeviceError, match=r"3 failures in a row, the last at search .*device lost.*--retry-failed"):
        unlucky(tmp_path, monkeypatch, failing("search", "INTERNAL: device lost"), **tables)
    rows = [row for row in row_files.read(tmp_path / "convergence.jsonl") if isinstance(row, Trial)]
    assert len({row.batch_size for row in rows if row.status == "failed"}) == 3


def test_a_tier_whose_compilation_fails_becomes_rows(tmp_path, monkeypatch):
    def refuse(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: cannot compile")

    monkeypatch.setattr(Programs, "program", refuse)
    made = session(tmp_path, seeds={"confirm": 1})
    made.tuning = TuningFile(tmp_path / "untried", made.lowerings)
    made.prepare_folder()
    stage = Convergence(made)
    stage.plan()
    stage.run()
    rows = [row for row in row_files.read(tmp_path / "convergence.jsonl") if isinstance(row, Trial)]
    assert {(row.status, row.reason) for row in rows} == {("failed", "INTERNAL: cannot compile")}
    assert {row.batch_size for row in rows} == {10, 50}
