"""Timing with clocks whose truth is known."""

import math

import pytest
from batchscale.measure.device import compiled_programs
from fake_throughput import PretendedClock
from hypothesis import example, given
from hypothesis import strategies as st


@given(st.floats(1e-7, 1e2), st.integers(1, 10**6))
def test_a_timed_region_lasts_as_long_as_its_work(per_step, steps):
    fake = PretendedClock(per_step)
    assert compiled_programs.timed(fake.work, steps, fake) == pytest.approx(steps * per_step)


@given(st.floats(1e-6, 10), st.floats(1e-3, 10))
def test_calibrated_steps_fill_the_wanted_time(per_step, seconds):
    fake = PretendedClock(per_step)
    steps = compiled_programs.steps_to_fill(seconds, fake.work, fake)
    assert seconds <= steps * per_step * (1 + 1e-9)
    assert (steps - 1) * per_step <= seconds * (1 + 1e-9) or steps == 2, "two calls tell what either costs once"
    assert fake.calls[0] == 1, "the first call warms up and is not read"


@given(st.floats(1e-5, 2), st.floats(0, 5), st.floats(0.05, 1))
@example(1e-5, 0.05, 0.375)
def test_rounds_are_long_against_what_a_call_costs_once(per_step, starts, seconds):
    fake = PretendedClock(per_step, start=starts * seconds)
    steps = compiled_programs.steps_to_fill(seconds, fake.work, fake)
    took = compiled_programs.timed(fake.work, steps, fake)
    longest = compiled_programs.LONGEST_ROUND * seconds
    assert took >= (1 - compiled_programs.FIXED_SHARE) * seconds * (1 - 1e-6)
    assert fake.start <= 1.1 * compiled_programs.FIXED_SHARE * took or took >= longest / 2 * (1 - 1e-6)
    assert steps <= 1 or took <= max(longest, 2 * fake.start + seconds) * (1 + 1e-6) + 2 * per_step


@given(st.floats(1e-5, 0.1), st.integers(1, 20), st.floats(1, 50))
def test_a_call_that_something_delays_makes_no_round_shorter(per_step, delayed, factor):
    fake = PretendedClock(per_step)

    def work(steps):
        fake.work(steps)
        fake.now += (factor - 1) * steps * per_step if len(fake.calls) == 1 + delayed else 0.0

    steps = compiled_programs.steps_to_fill(0.1, work, fake)
    assert steps * per_step >= 0.1 * (1 - 1e-6) or delayed == 1


def test_work_that_takes_no_time_ends():
    fake = PretendedClock(0.0)
    assert compiled_programs.steps_to_fill(0.1, fake.work, fake) == compiled_programs.MOST_STEPS


def test_a_clock_that_ticks_coarsely_is_known():
    ticks = iter(range(10**6))
    assert compiled_programs.resolution(lambda: next(ticks) // 7 * 1e-3, ticks=20) == pytest.approx(1e-3)
    assert 0 < compiled_programs.resolution(ticks=20) < 1e-3
    assert math.isfinite(compiled_programs.resolution(ticks=1))
