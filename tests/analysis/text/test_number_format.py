"""Numbers as a person would write them."""

from __future__ import annotations

import math
import re

import pytest
from batchscale.analysis import number_format
from batchscale.config.goal import Goal
from hypothesis import given
from hypothesis import strategies as st

UNITS = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


@given(st.floats(1e-9, 1e6))
def test_a_duration_reads_back_within_rounding(value):
    number, unit = number_format.seconds(value).split()
    assert math.isclose(float(number.replace(",", "")) * UNITS[unit], value, rel_tol=6e-3)


@given(st.floats(1e-6, 1e12))
def test_a_number_is_plain_and_reads_back(value):
    shown = number_format.number(value)
    assert re.fullmatch(r"[\d,]*\.?\d+", shown)
    assert math.isclose(float(shown.replace(",", "")), value, rel_tol=6e-3)


@given(st.integers(0, 10_000))
def test_an_accuracy_keeps_hundredths_of_a_percent(hundredths):
    goal = Goal(metric="accuracy", threshold=hundredths / 10_000)
    for shown in (number_format.score(goal, goal.threshold), number_format.target(goal)):
        assert round(100 * float(shown.removesuffix("%"))) == hundredths


def test_a_goal_reads_as_the_end_of_a_sentence():
    assert number_format.goal(Goal(metric="accuracy", threshold=0.97)) == "97% validation accuracy"
    assert number_format.goal(Goal(metric="loss", threshold=1.6)) == "a validation loss of 1.6"
    assert number_format.goal(Goal(metric="bits_per_byte", threshold=2.37)) == "2.37 validation bits per byte"
    assert number_format.goal(Goal(metric="score", threshold=-120, name="reward")) == "a reward of -120"
    assert number_format.goal(Goal(metric="cost", threshold=5, name="energy")) == "an energy of 5"


def test_a_gain_has_the_digits_of_its_score():
    gains = {"accuracy": "+1.23", "loss": "+0.0123", "score": "+0.01230", "cost": "+0.01230"}
    for metric, shown in gains.items():
        assert number_format.gain(Goal(metric=metric, threshold=0.5), 0.0123) == shown
    assert number_format.gain(Goal(metric="score", threshold=1), -22.061) == "-22.06"


@pytest.mark.parametrize("power", range(20))
def test_powers_of_two_are_written_out_on_axes(power):
    assert number_format.tick(2.0**power, base=2) == str(2**power)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_a_list_names_every_item_in_order(items):
    assert [int(word) for word in re.findall(r"\d", number_format.listed(items))] == items


def test_an_open_interval_says_so():
    assert number_format.between((1.0, None)) == "1.00 to not reached"
    assert number_format.seconds(math.inf) == number_format.NEVER


def test_an_unknown_interval_is_not_a_miss():
    nothing = (None, None)
    assert number_format.between(nothing) == number_format.seconds_between(nothing, 90.0) == "interval unknown"
    assert number_format.with_level(number_format.between(nothing)) == "95% interval unknown"
    assert number_format.with_level(number_format.between((1.0, None))) == "95% interval 1.00 to not reached"


@pytest.mark.parametrize(
    ("low", "high", "around", "shown"),
    [
        (23.8e-3, 1.5, 54.8e-3, "23.8 to 1,500 ms"),
        (198e-6, 718.0, 0.344, "198 µs to 12.0 min, hardly bounded by these rows"),
        (16.6e-12, 2234.0, 281e-6, "0.0166 ns to 37.2 min, hardly bounded by these rows"),
        (2e-3, 30.0, 1.0, "2.00 ms to 30.0 s"),
    ],
)
def test_ends_that_are_far_apart_have_a_unit_each_and_an_interval_that_says_nothing_is_called_so(
    low, high, around, shown
):
    assert number_format.seconds_between((low, high), around) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(47.7e9, "47.7 GFLOP/s"), (989e12, "989 TFLOP/s"), (2e6, "2.00 MFLOP/s"), (12.0, "12.0 FLOP/s")],
)
def test_rates_of_arithmetic_and_of_bytes_carry_their_prefix(value, shown):
    assert number_format.flops_per_second(value) == shown
    assert number_format.bytes_per_second(value) == shown.replace("FLOP", "B")


def test_one_epoch_is_not_several():
    assert [number_format.epochs(count) for count in (0.5, 1.0, 20.0)] == ["0.5 epochs", "1 epoch", "20 epochs"]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.5, "0.50"), (-0.716, "-0.72"), (2.2e-16, "0"), (-2.2e-16, "0"), (1.204, "1.2")]
)
def test_an_exponent_that_is_only_rounding_is_zero(value, shown):
    assert number_format.exponent(value) == shown
