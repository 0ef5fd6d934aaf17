"""Compile options: barriers hold on a CPU, graphs hold loops on a GPU, and the user's flags are kept."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import msgspec
import pytest
from batchscale.measure.device import compiled_programs
from batchscale.measure.device.machine import describe_environment
from tiny_workload import host

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the options are a CPU's, and JAX is elsewhere")


@pytest.mark.slow  # the flags that compile `make test` quickly leave nothing fused
def test_what_a_barrier_holds_back_is_computed_apart():
    def held(values):
        return jnp.sin(jax.lax.optimization_barrier(jnp.cos(values)))

    lowered = jax.jit(held).lower(jnp.ones(1000))
    for lanes in (False, True):
        program = compiled_programs.compiled(lowered, lanes=lanes).as_text()
        assert program is not None
        assert program.count(" fusion(") == 2


def test_passes_that_the_user_disables_stay_disabled(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_ftz=true --xla_disable_hlo_passes=fusion,dce")
    assert compiled_programs.options() == {"xla_disable_hlo_passes": "fusion,dce,cse_barrier_expander"}
    alone = compiled_programs.options(lanes=True)
    assert alone["xla_disable_hlo_passes"] == "fusion,dce,cse_barrier_expander,cpu-parallel-task-assigner"


def test_a_graph_holds_loops_and_convolutions_on_a_gpu_alone(monkeypatch):
    assert compiled_programs.options(graph=True) == compiled_programs.options()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiled_programs.options() == {}
    (held,) = compiled_programs.options(graph=True).values()
    assert {"FUSION", "CUBLAS", "CUDNN", "CUSTOM_CALL", "CONDITIONAL", "WHILE", "CONVOLUTION"} <= set(held.split(","))


def test_a_gpu_tries_fewer_kernels_for_lanes_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiled_programs.options(lanes=True) == compiled_programs.LIBRARY_ALONE
    assert set(compiled_programs.options(lanes=True, graph=True)) == {
        *compiled_programs.LIBRARY_ALONE,
        *compiled_programs.options(graph=True),
    }
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=true")
    assert compiled_programs.options(lanes=True) == {}
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert compiled_programs.options(lanes=True) == {}


@pytest.mark.parametrize(
    ("platform", "driver", "flags", "tried"),
    [
        ("gpu", "570.1", "", True),
        ("gpu", "570.1", "--xla_gpu_enable_command_buffer=", False),
        ("gpu", None, "", False),
        ("cpu", None, "", False),
        ("tpu", None, "", False),
    ],
)
def test_graphs_are_tried_on_an_nvidia_gpu_unless_the_user_says_what_they_hold(platform, driver, flags, tried):
    one = host()
    machine = msgspec.structs.replace(one.machine, platform=platform)
    environment = msgspec.structs.replace(one.environment, driver=driver, xla_flags=flags)
    assert replace(one, machine=machine, environment=environment).graphs is tried


def test_the_environment_of_a_row_says_what_timed_programs_are_compiled_with():
    assert describe_environment(None).settings["xla_disable_hlo_passes"] == "cse_barrier_expander"
