"""Drift: a clock that slows down is flagged, noise is not more often than stated, and small trends are no alarm."""

import math

import numpy as np
import pandas as pd
import pytest
import simulated_folder
from batchscale.analysis.frames import frames
from batchscale.analysis.frames.frames import round_frame
from batchscale.analysis.frames.schema import tidy
from batchscale.analysis.metrics import hardware
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.summary_types import CellTrend
from batchscale.analysis.text import captions
from fake_throughput import KEYS, Pretended
from hypothesis import given
from hypothesis import strategies as st

CELLS = 16


def rounds_of(logarithms, **sensors):
    """The `rounds` frame of `logarithms` (cells, rounds) of seconds per step; sensors are given for each round."""
    records = []
    for cell, row in enumerate(logarithms):
        for number, value in enumerate(row):
            read = {name: values[number] for name, values in sensors.items()}
            size, loop = 1 << cell // 2, ("scan", "dispatch")[cell % 2]
            which = {"batch_size": size, "loop": loop, "input": "device", "precision": "float32"}
            seconds = {"round": number, "steps": 1, "seconds_per_step": math.exp(value)}
            records.append({**which, "devices": 1, "accumulation": 1, "block": 0, **seconds, **read})
    return tidy("rounds", records)


def noise(random, rounds, common=0.01):
    """Every cell's own noise, and something that slows a whole sweep over the cells down."""
    of_sweep = common * random.standard_normal(rounds)
    return 0.02 * random.standard_normal((CELLS, rounds)) + of_sweep + np.arange(CELLS)[:, None]


def ramp(rounds, change):
    return np.linspace(0, math.log1p(change), rounds)


def test_a_clock_that_slows_down_is_flagged_end_to_end(monkeypatch):
    made = Pretended(monkeypatch)
    timed = made.measure
    made.seconds_per_step = lambda key: (1e-3 + 1e-6 * key.batch_size) * (1 + 0.03 * made.now)
    found = hardware.drift(round_frame(timed()))
    assert found.drifts
    assert found.together.change == pytest.approx(0.03 * 4 * len(KEYS) * 0.1, rel=0.3)
    steady = Pretended(monkeypatch)
    assert not hardware.drift(round_frame(steady.measure())).drifts


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [5, 12])
def test_noise_is_flagged_no_more_often_than_stated(rounds):
    random, worlds = np.random.default_rng(rounds), 150
    found = [hardware.drift(rounds_of(noise(random, rounds))) for _ in range(worlds)]
    alarms = sum(one.drifts or bool(one.cells) for one in found)
    assert alarms <= worlds * hardware.FALSE_ALARM_RATE + 2 * math.sqrt(worlds * hardware.FALSE_ALARM_RATE)


@pytest.mark.parametrize("rounds", [5, 7])
@pytest.mark.parametrize("change", [0.15, -0.15])
def test_a_drift_of_all_cells_is_seen_through_noise(rounds, change):
    random, worlds = np.random.default_rng(1), 20
    found = [hardware.drift(rounds_of(noise(random, rounds, common=0.0) + ramp(rounds, change))) for _ in range(worlds)]
    assert sum(one.drifts for one in found) >= worlds - 1
    assert np.median([one.together.change for one in found]) == pytest.approx(change, abs=0.02)


def test_one_cell_that_drifts_is_named_alone():
    logarithms = 0.001 * noise(np.random.default_rng(2), 7)
    logarithms[3] += ramp(7, 0.3)
    found = hardware.drift(rounds_of(logarithms))
    assert not found.drifts
    assert [(one.batch_size, one.loop) for one in found.cells] == [(2, "dispatch")]
    assert found.cells[0].change == pytest.approx(0.3, rel=0.02)


def test_a_trend_of_half_a_percent_is_no_alarm_however_sure():
    found = hardware.drift(rounds_of(np.tile(ramp(9, 0.005), (CELLS, 1))))
    assert found.together.p_value < 1e-4
    assert found.together.change == pytest.approx(0.005)
    assert not found.drifts
    assert found.cells == []


@pytest.mark.parametrize(("count", "expected"), [(5, 2 / 120), (7, 2 / 5040)])
def test_a_series_that_only_rises_has_the_probability_of_two_orders_out_of_all(count, expected):
    assert hardware.trend(np.arange(count, dtype=float)).p_value == pytest.approx(expected)
    assert hardware.trend(-np.arange(count, dtype=float)).p_value == pytest.approx(expected)


@given(st.lists(st.integers(-20, 20), min_size=2, max_size=9))
def test_the_test_is_fair_to_both_directions_and_never_surer_than_one(values):
    rising, falling = (hardware.trend(sign * np.array(values, dtype=float)) for sign in (1, -1))
    assert 0 < rising.p_value <= 1
    assert rising.p_value == pytest.approx(falling.p_value)


def test_exact_and_normal_probabilities_meet(monkeypatch):
    series = np.random.default_rng(3).standard_normal(hardware.MOST_EXACT) + np.linspace(0, 0.3, hardware.MOST_EXACT)
    exact = hardware.trend(series).p_value
    monkeypatch.setattr(hardware, "MOST_EXACT", 1)
    assert hardware.trend(series).p_value == pytest.approx(exact, abs=0.01)


def test_too_few_rounds_are_not_judged():
    assert hardware.drift(rounds_of(noise(np.random.default_rng(4), hardware.FEWEST_ROUNDS - 1))) is None
    assert hardware.drift(tidy("rounds", [])) is None


def test_a_cell_that_lost_rounds_does_not_spoil_the_others():
    frame = rounds_of(np.tile(ramp(7, 0.2), (CELLS, 1)))
    lost = (frame["batch_size"] == 1) & (frame["round"] > 2)
    found = hardware.drift(pd.DataFrame(frame[~lost]))
    assert found.drifts
    assert found.rounds == 7


def test_throttling_is_named_where_the_platform_tells():
    random = np.random.default_rng(5)
    slower = noise(random, 7, common=0.0) + ramp(7, 0.25)
    clock, heat = 1980 * np.exp(-ramp(7, 0.25)), np.linspace(61, 84, 7)
    found = hardware.drift(rounds_of(slower, clock_mhz=clock, celsius=heat))
    assert found.throttled
    assert found.clock_mhz == pytest.approx((1980, 1584))
    assert found.celsius == pytest.approx((61, 84))
    steady = hardware.drift(rounds_of(noise(random, 7), clock_mhz=np.full(7, 1980.0)))
    assert not steady.throttled
    assert steady.celsius is None
    assert not hardware.drift(rounds_of(noise(random, 7), clock_mhz=1980 * np.exp(ramp(7, 0.25)))).throttled


def test_rounds_at_another_clock_or_next_to_other_processes_are_counted_and_named():
    random, clock, others = np.random.default_rng(7), np.full(7, 1980.0), np.zeros(7)
    clock[2], clock[5], others[3:5] = 1980 * 0.96, 1980 * 0.98, 1
    found = hardware.drift(rounds_of(noise(random, 7), clock_mhz=clock, other_processes=others))
    cells = len(rounds_of(noise(random, 7))) // 7
    assert (found.off_clock, found.disturbed) == (cells, 2 * cells)
    said = said_of(noise(random, 7), clock_mhz=clock, other_processes=others)
    assert f" {cells} rounds were timed at a clock more than 3% from the median." in said
    assert said.endswith(f" {2 * cells} rounds were timed while other processes computed on the device.")
    assert "rounds were timed" not in said_of(noise(random, 7), clock_mhz=np.full(7, 1980.0))


def said_of(logarithms, **sensors):
    measured = frames.from_rows(
        simulated_folder.experiment(simulated_folder.Truth()), simulated_folder.machine_file(), []
    )
    measured.__dict__["rounds"] = rounds_of(logarithms, **sensors)
    return captions.drift(summarize(Sweep.of(measured)))


def test_the_page_says_what_drifted_and_what_did_not():
    random = np.random.default_rng(6)
    assert said_of(noise(random, 7)).startswith("No significant drift over 7 rounds (")
    said = said_of(
        0.1 * noise(random, 7, common=0.0) + ramp(7, 0.25), clock_mhz=1980 * np.exp(-ramp(7, 0.25)), celsius=[70.0] * 7
    )
    assert "Drift over 7 rounds: all timings together became 25% slower" in said
    assert "13 more drifted" in said
    assert "The clock went from 1,980 to 1,584 MHz (throttled)" in said
    assert "the temperature from 70.0 to 70.0 °C" in said


def test_a_drifting_cell_is_named_in_full():
    one = {"batch_size": 8, "loop": "dispatch", "change": 0.1, "p_value": 0.0}
    plain = {"input": "device", "precision": "float32", "devices": 1, "accumulation": 1}
    others = [{"input": "host"}, {"precision": "bfloat16"}, {"devices": 2}, {"accumulation": 2}]
    said = {captions._variant(CellTrend(**one, **{**plain, **other})) for other in [{}, *others]}
    assert len(said) == 5
