"""The environment changes no number that a row claims: not their type, not the initial weights, not a compile time."""

import logging
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batchscale.measure.device import jax_settings, machine
from batchscale.measure.throughput import timed_loops
from jax.experimental.compilation_cache import compilation_cache
from tiny_workload import learner

CACHE = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_enable_xla_caches",
)


@pytest.fixture
def settings():
    before = {name: getattr(jax.config, name) for name in [*jax_settings.NUMERICS, *CACHE]}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_initial_weights_are_the_same_whatever_the_environment_sets(settings):
    before = learner.__wrapped__("lenet").params(0)
    for name, value in {"jax_enable_x64": True, "jax_default_prng_impl": "rbg", "jax_random_seed_offset": 5}.items():
        jax.config.update(name, value)
    changed = jax.tree.leaves(learner.__wrapped__("lenet").params(0))
    assert {leaf.dtype for leaf in changed} == {np.dtype("float32"), np.dtype("float64")}
    machine.describe()
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(learner.__wrapped__("lenet").params(0)), strict=True):
        assert b.dtype == np.float32
        np.testing.assert_array_equal(a, b)


def test_what_a_correct_program_may_not_do_under_the_users_settings_it_may_do_here(settings):
    jax.config.update("jax_numpy_rank_promotion", "raise")
    with pytest.raises(ValueError, match="rank"):
        jnp.ones((2, 3)) + jnp.ones(3)
    jax.config.update("jax_transfer_guard", "disallow")
    jax_settings.hold()
    assert (jnp.ones((2, 3)) + np.ones(3, np.float32)).shape == (2, 3)


def test_timed_programs_are_compiled_and_not_read_from_a_cache(settings, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    compilation_cache.reset_cache()
    jax.jit(lambda x: x + 1).lower(np.float32(1)).compile()
    others = sorted(tmp_path.iterdir())
    assert others
    timed_loops._compile(lambda x: x * 3, np.float32(1))
    assert sorted(tmp_path.iterdir()) == others
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)
    jax.jit(lambda x: x * 5).lower(np.float32(1)).compile()
    assert len(sorted(tmp_path.iterdir())) > len(others)


def test_programs_are_kept_for_later_runs_except_those_whose_compile_time_is_reported(settings, tmp_path):
    jax_settings.keep_programs(tmp_path)
    jax.jit(lambda x: x + 7).lower(np.float32(1)).compile()
    kept = sorted(tmp_path.iterdir())
    assert kept
    timed_loops._compile(lambda x: x * 7, np.float32(1))
    assert sorted(tmp_path.iterdir()) == kept
    jax_settings.keep_programs(tmp_path / "other")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path), "the folder that was chosen before stays"


def test_the_oldest_programs_make_room(settings, monkeypatch, tmp_path):
    monkeypatch.setattr(jax_settings, "MOST_KEPT_BYTES", 250)
    for age, name in enumerate(("new", "middle", "old")):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    jax_settings.keep_programs(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "middle"}


def test_a_device_that_cannot_be_used_takes_one_line_and_no_traceback(caplog):
    jax_settings.hold()
    log = logging.getLogger("jax._src.xla_bridge")
    try:
        raise RuntimeError("Unable to load cuDNN. Is it installed?")
    except RuntimeError:
        log.exception("Exception when calling %s.initialize()", "a_plugin")
    assert caplog.messages == ["Exception when calling a_plugin.initialize(): Unable to load cuDNN. Is it installed?"]
    assert "Traceback" not in caplog.text
