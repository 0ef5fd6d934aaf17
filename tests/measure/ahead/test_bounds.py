"""Bounds follow closed forms, and an estimate never falls below the bound."""

import jax
import jax.numpy as jnp
import pytest
from batchscale.measure.ahead import bounds, targets
from planned_programs import SPEC, facts

H100 = targets.target_named("h100")
EXAMPLE_BYTES = 404


def state(elements):
    return {"weights": jax.ShapeDtypeStruct((elements,), jnp.float32)}


def test_nothing_has_to_travel_that_the_chip_can_hold():
    assert bounds.compulsory_bytes(H100, SPEC, state(1000), 64, train_examples=1000) == 0


def test_what_the_chip_cannot_hold_travels():
    cache, examples = H100.cache_bytes, 10_000_000
    batch = 64 * EXAMPLE_BYTES * (1 - cache / (EXAMPLE_BYTES * examples))
    assert bounds.compulsory_bytes(H100, SPEC, state(1000), 64, examples) == int(batch)
    large = cache // 4 + 1000
    assert bounds.compulsory_bytes(H100, SPEC, state(large), 64, examples) == int(batch) + 2 * 4 * 1000


def test_the_slower_of_arithmetic_and_bytes_is_the_bound():
    assert bounds.bound(H100, "float32", 67e12, 0) == (pytest.approx(1.0), "FLOPs")
    assert bounds.bound(H100, "bfloat16", 67e12, int(3.352e12)) == (pytest.approx(1.0), "bytes")
    assert bounds.bound(H100, "float32", None, 0) == (0.0, "FLOPs")


def test_a_small_program_is_limited_by_launches():
    (low, high), limited_by = bounds.likely(H100, "float32", 1e6, 1e-9, facts(kernels=40))
    assert limited_by == "launches"
    assert low == pytest.approx(40 * 1.3e-6)
    assert high == pytest.approx(40 * 2.5e-6, rel=1e-3)


def test_an_estimate_is_not_below_the_bound():
    (low, high), _ = bounds.likely(H100, "float32", 1e9, 3.0, facts(kernels=1))
    assert low == 3.0
    assert high >= low


def test_kernels_cost_no_launch_on_a_tpu_at_the_low_end():
    tpu = targets.target_named("tpu-v6e")
    (low, _), _ = bounds.likely(tpu, "float32", 0.0, 0.0, facts(kernels=100))
    assert low == 0.0
