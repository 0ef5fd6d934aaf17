"""Compile options on a CPU: what a barrier holds back is computed once, and the user's flags are kept."""

import jax
import jax.numpy as jnp
import pytest
from batchscale.measure.device import compiled_programs
from batchscale.measure.device.machine import describe_environment

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the options are a CPU's, and JAX is elsewhere")


def test_what_a_barrier_holds_back_is_computed_apart():
    def held(values):
        return jnp.sin(jax.lax.optimization_barrier(jnp.cos(values)))

    lowered = jax.jit(held).lower(jnp.ones(1000))
    for for_one_core in (False, True):
        program = compiled_programs.compiled(lowered, for_one_core=for_one_core).as_text()
        assert program is not None
        assert program.count(" fusion(") == 2


def test_passes_that_the_user_disables_stay_disabled(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_ftz=true --xla_disable_hlo_passes=fusion,dce")
    assert compiled_programs.options() == {"xla_disable_hlo_passes": "fusion,dce,cse_barrier_expander"}
    alone = compiled_programs.options(for_one_core=True)
    assert alone["xla_disable_hlo_passes"] == "fusion,dce,cse_barrier_expander,cpu-parallel-task-assigner"


def test_the_environment_of_a_row_says_what_timed_programs_are_compiled_with():
    assert describe_environment(None).settings["xla_disable_hlo_passes"] == "cse_barrier_expander"
