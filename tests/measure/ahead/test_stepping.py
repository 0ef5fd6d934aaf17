"""The largest batch size is found whatever the compiler reports, and the search ends where compiling takes long."""

import jax
import pytest
from batchscale.config import experiment as experiments
from batchscale.measure.ahead import programs, stepping, targets
from batchscale.measure.ahead.programs import Sizes
from planned_programs import SPEC, facts

H100 = targets.target_named("h100")
TRAIN_EXAMPLES = 1 << 20


@pytest.fixture
def planner(monkeypatch):
    """A planner whose programs need 1 MB for each example, and one second of compiling."""

    def make(bytes_per_example=1_000_000, seconds=1.0, recomputes_above=None, fails=lambda size: None, name="h100"):
        target = targets.target_named(name)

        def compiled(target, devices, function, arguments, *, donated):
            size = function
            if why := fails(size):
                raise jax.errors.JaxRuntimeError(why)
            recomputed = int(recomputes_above is not None and size > recomputes_above)
            total = size * bytes_per_example
            return facts(total_bytes=total, temp_bytes=total, recomputed=recomputed, compile_cpu_seconds=seconds)

        session = programs.described_session(
            experiments.find("mlp_mnist"), SPEC, Sizes(TRAIN_EXAMPLES, 10, 10), target, name
        )
        monkeypatch.setattr(stepping, "compiled_facts", compiled)
        monkeypatch.setattr(stepping, "devices", lambda target: ["a device"])
        monkeypatch.setattr(stepping.programs, "cell_call", lambda _session, key, *_: (key.batch_size, ()))
        return stepping.Planner(session, target, SPEC)

    return make


def test_the_largest_batch_is_within_a_tenth_of_the_truth(planner):
    found = planner().plan("h100")
    largest = H100.pool_bytes / 1_000_000
    assert found.largest_batch_size is not None
    assert found.largest_batch_size <= largest <= stepping.CLOSE_ENOUGH * found.largest_batch_size
    assert not found.all_examples_fit
    sizes = [step.batch_size for step in found.steps]
    assert sizes == sorted(set(sizes))


def test_every_batch_fits_where_all_examples_do(planner):
    found = planner(bytes_per_example=1).plan("h100")
    assert found.largest_batch_size == TRAIN_EXAMPLES
    assert found.all_examples_fit


def test_no_batch_fits(planner):
    found = planner(bytes_per_example=10**10).plan("h100")
    assert found.largest_batch_size is None
    assert [step.fits for step in found.steps] == [False] * len(found.steps)
    assert found.message is None


def test_where_nothing_compiles_it_is_not_known_what_fits(planner):
    found = planner(fails=lambda size: f"ptxas: no output for {size}").plan("h100")
    assert [step.fits for step in found.steps] == [None] * len(found.steps)
    assert found.largest_batch_size is None
    assert found.message == f"ptxas: no output for {found.steps[0].batch_size}"


def test_what_a_tpu_refuses_does_not_fit_and_has_the_memory_that_is_named(planner):
    refusal = "RESOURCE_EXHAUSTED: Ran out of memory on HBM (16.50G of 15.75G)."
    found = planner(bytes_per_example=1000, fails=lambda size: refusal if size > 500 else None, name="tpu-v5e").plan("")
    refused = [step for step in found.steps if step.batch_size > 500]
    assert {(step.fits, step.memory_bytes, step.message) for step in refused} == {(False, 33 << 29, refusal)}
    assert found.largest_batch_size is not None
    assert found.largest_batch_size <= 500 <= found.largest_batch_size * stepping.CLOSE_ENOUGH


def test_one_size_that_does_not_compile_leaves_the_others(planner):
    found = planner(fails=lambda size: "no kernels" if size == 64 else None).plan("h100")
    assert [step.batch_size for step in found.steps if step.fits is None] == [64]
    assert found.message is None


def test_within_the_sweep_the_search_starts_below_the_first_that_does_not_fit(planner):
    found = planner(bytes_per_example=H100.pool_bytes // 300).plan("h100")
    assert 270 <= (found.largest_batch_size or 0) <= 300


def test_where_the_compiler_recomputes_is_reported(planner):
    assert planner(recomputes_above=1000).plan("h100").recomputes_from == 1024
    assert planner().plan("h100").recomputes_from is None
    too_large = planner(bytes_per_example=H100.pool_bytes // 300, recomputes_above=400).plan("h100")
    assert any(step.recomputes for step in too_large.steps)
    assert too_large.recomputes_from is None


def test_compiling_ends_once_it_has_taken_long(planner):
    found = planner(seconds=stepping.MOST_CPU_SECONDS / 2).plan("h100")
    compiled = [step for step in found.steps if step.memory_bytes is not None]
    assert len(compiled) == 3
    left = found.steps[-1]
    assert left.message is not None
    assert left.fits is None
    assert left.message.startswith("not compiled")
    assert left.bound_seconds is not None
    assert found.largest_batch_size == compiled[-1].batch_size
    assert not found.larger_tried
    assert planner().plan("h100").larger_tried


def test_a_search_that_ended_closely_is_not_called_early(planner):
    of = {"bytes_per_example": H100.pool_bytes // 300}
    whole = planner(**of).plan("h100")
    last = planner(**of, seconds=stepping.MOST_CPU_SECONDS / (len(whole.steps) - 0.5)).plan("h100")
    assert last.compile_cpu_seconds > stepping.MOST_CPU_SECONDS
    assert last.larger_tried
    assert not planner(**of, seconds=stepping.MOST_CPU_SECONDS / (len(whole.steps) - 1.5)).plan("h100").larger_tried


def test_a_described_session_takes_no_memory_for_its_examples():
    session = programs.described_session(experiments.find("mlp_mnist"), SPEC, Sizes(10**9, 10, 10), H100, "h100")
    assert session.train_examples == 10**9
    assert session.dataset.train.inputs.strides[0] == 0
    assert session.host.free_memory_bytes() == session.host.program_memory_bytes() == H100.pool_bytes
