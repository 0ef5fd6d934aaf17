"""Compile options, and a GPU's compiler that runs out of memory while it tries kernels: no batch that does not fit."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import msgspec
import pytest
from batchscale.measure.control.failures import NO_KERNELS, Streak, failure_of, failure_saying
from batchscale.measure.device import compiled_programs
from batchscale.measure.device.machine import describe_environment
from tiny_workload import host

of_a_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the options are a CPU's, and JAX is elsewhere")


@of_a_cpu
@pytest.mark.slow  # the flags that compile `make test` quickly leave nothing fused
def test_what_a_barrier_holds_back_is_computed_apart():
    def held(values):
        return jnp.sin(jax.lax.optimization_barrier(jnp.cos(values)))

    lowered = jax.jit(held).lower(jnp.ones(1000))
    for lanes in (False, True):
        program = compiled_programs.compiled(lowered, lanes=lanes).as_text()
        assert program is not None
        assert program.count(" fusion(") == 2


@of_a_cpu
def test_passes_that_the_user_disables_stay_disabled(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_ftz=true --xla_disable_hlo_passes=fusion,dce")
    assert compiled_programs.options() == {"xla_disable_hlo_passes": "fusion,dce,cse_barrier_expander"}
    alone = compiled_programs.options(lanes=True)
    assert alone["xla_disable_hlo_passes"] == "fusion,dce,cse_barrier_expander,cpu-parallel-task-assigner"


@of_a_cpu
def test_a_graph_holds_loops_and_convolutions_on_a_gpu_alone(monkeypatch):
    assert compiled_programs.options(graph=True) == compiled_programs.options()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiled_programs.options() == {}
    (held,) = compiled_programs.options(graph=True).values()
    assert {"FUSION", "CUBLAS", "CUDNN", "CUSTOM_CALL", "CONDITIONAL", "WHILE", "CONVOLUTION"} <= set(held.split(","))


@of_a_cpu
def test_a_gpu_tries_fewer_kernels_for_lanes_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiled_programs.options(lanes=True) == compiled_programs.LIBRARY_ALONE
    assert set(compiled_programs.options(lanes=True, graph=True)) == {
        *compiled_programs.LIBRARY_ALONE,
        *compiled_programs.options(graph=True),
    }
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=true")
    assert compiled_programs.options(lanes=True) == {}
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert compiled_programs.options(lanes=True) == {}


@of_a_cpu
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


@of_a_cpu
def test_the_environment_of_a_row_says_what_timed_programs_are_compiled_with():
    assert describe_environment(None).settings["xla_disable_hlo_passes"] == "cse_barrier_expander"


OF_CHOOSING = [
    # jax issue 33715, and the same in logs of a full GPU: each candidate fails, so none is valid.
    "INTERNAL: Autotuning failed for HLO: %gemm_fusion_dot.3 = f32[64,64] fusion(%p.0, %p.1), kind=kCustom"
    " with error: NOT_FOUND: No valid config found!",
    "INTERNAL: RET_CHECK failure (config_assigner.cc:403) !candidates.empty() Autotuning failed for HLO: No configs"
    " could be compiled.",
    # jax issue 788
    "Resource exhausted: Failed to allocate request for 528.00MiB (553648128B) on device ordinal 0"
    " (cudnn_conv_algorithm_picker.cc:525)",
    # jax issue 13612, multinerf issue 2
    "UNKNOWN: Failed to determine best cudnn convolution algorithm for: %cudnn-conv = (f32[3072,1,758]{2,1,0}) Original"
    " error: INTERNAL: All algorithms tried for %cudnn-conv failed. Profiling failure on cuDNN engine eng1: UNKNOWN:"
    " CUDNN_STATUS_ALLOC_FAILED",
    "RESOURCE_EXHAUSTED: Failed to load in-memory CUBIN: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    # rocm-jax issue 404
    "RESOURCE_EXHAUSTED: Shared memory size limit exceeded: requested 73728, available: 65536",
]
DOES_NOT_FIT = [
    # AFProfile issue 8
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4770354232 bytes.",
    "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.1G of 15.9G hbm.",
]


@pytest.mark.parametrize("message", OF_CHOOSING)
def test_a_failure_to_choose_kernels_is_no_batch_that_does_not_fit(message):
    assert failure_saying(message).status == "failed"


@pytest.mark.parametrize("message", DOES_NOT_FIT)
def test_a_batch_that_does_not_fit_is_one(message):
    assert failure_saying(message).status == "out_of_memory"


class Lowered:
    """A program whose compilation fails with each of these messages in turn, and then succeeds."""

    def __init__(self, *messages, needs=1000):
        self.messages, self.asked, self.needs = [*messages], [], needs

    def compile(self, compiler_options):
        self.asked.append(compiler_options.get("xla_gpu_autotune_level"))
        if self.messages and (message := self.messages.pop(0)):
            raise jax.errors.JaxRuntimeError(message)
        return self


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(compiled_programs, "predicted_bytes", lambda program: program.needs)
    monkeypatch.setattr(compiled_programs, "_device_bytes", lambda: 5000)


@pytest.mark.parametrize("message", [*OF_CHOOSING, *DOES_NOT_FIT])
def test_kernels_are_chosen_once_more_in_less_memory(on_gpu, message):
    program = Lowered(message)
    assert compiled_programs.compiled(program) is program
    assert program.asked == [None, "2"]


@pytest.mark.parametrize("message", OF_CHOOSING)
def test_a_second_failure_is_a_row_with_both_reasons_that_stops_no_run(on_gpu, message):
    with pytest.raises(MemoryError) as raised:
        compiled_programs.compiled(program := Lowered(message, "RESOURCE_EXHAUSTED: again"))
    assert program.asked == [None, "2", "0"]
    failure = failure_of(raised.value)
    assert failure.status == "failed"
    assert failure.message.startswith(NO_KERNELS)
    assert message[:100] in failure.message
    assert message[-100:] in failure.message
    assert failure.message.endswith(" would itself need 1000 bytes: RESOURCE_EXHAUSTED: again")
    assert len(failure.message) < 1000
    streak = Streak()
    for _ in range(3):
        streak.grown("a cell", failure)


def test_a_program_that_would_not_fit_itself_is_out_of_memory(on_gpu):
    with pytest.raises(MemoryError) as raised:
        compiled_programs.compiled(Lowered(OF_CHOOSING[0], DOES_NOT_FIT[0], needs=5001))
    assert failure_of(raised.value).status == "out_of_memory"


def test_a_program_that_compiles_in_no_way_has_no_kernels(on_gpu):
    with pytest.raises(MemoryError, match=NO_KERNELS):
        compiled_programs.compiled(Lowered(OF_CHOOSING[0], OF_CHOOSING[0], OF_CHOOSING[0]))


@pytest.mark.parametrize("message", ["INTERNAL: the device is lost", "INVALID_ARGUMENT: no such option"])
def test_other_failures_are_not_repeated(on_gpu, message):
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        compiled_programs.compiled(program := Lowered(message))
    assert program.asked == [None]


def test_memory_of_a_platform_that_tries_no_kernels_is_the_program_s():
    with pytest.raises(jax.errors.JaxRuntimeError):
        compiled_programs.compiled(program := Lowered(DOES_NOT_FIT[1]))
    assert program.asked == [None]
