"""Schedules: closed forms at their ends, and never above one."""

import jax.numpy as jnp
import numpy as np
import pytest
from batchscale.measure.training.schedules import Schedule
from hypothesis import given
from hypothesis import strategies as st

NAMES = ["constant", "warmup", "warmup_cosine", "linear_decay"]


def factors(schedule, examples):
    return np.asarray(schedule.factor(jnp.asarray(examples, jnp.float32)))


@pytest.mark.parametrize("name", NAMES)
@given(warmup=st.floats(0, 1e4), total=st.floats(1, 1e5))
def test_a_factor_is_a_share_from_the_first_example_past_the_last(name, warmup, total):
    found = factors(Schedule(name, warmup, total), np.linspace(0, 2 * total, 9))
    assert np.all((found >= 0) & (found <= 1 + 1e-6))


def test_closed_forms():
    at = [0.0, 99.0, 100.0, 350.0, 600.0, 900.0]
    np.testing.assert_allclose(factors(Schedule("constant", 100.0, 600.0), at), 1)
    warm = [1 / 101, 100 / 101]
    np.testing.assert_allclose(factors(Schedule("warmup", 100.0, 600.0), at), [*warm, 1, 1, 1, 1], rtol=1e-6)
    cosine = factors(Schedule("warmup_cosine", 100.0, 600.0), at)
    np.testing.assert_allclose(cosine, [*warm, 1, 0.5, 0, 0], atol=1e-6)
    np.testing.assert_allclose(
        factors(Schedule("linear_decay", 0.0, 600.0), at), [1, 501 / 600, 5 / 6, 250 / 600, 0, 0], atol=1e-6
    )


def test_no_warm_up_starts_at_the_full_rate():
    assert factors(Schedule("warmup", 0.0, 600.0), 0.0) == 1
    assert not Schedule("linear_decay", 100.0, 600.0).warms_up
