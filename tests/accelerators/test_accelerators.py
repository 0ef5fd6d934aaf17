"""Programs of the default suites, compiled for devices that are not there, hold to facts and to bounds of their own.

`last_seen.toml` keeps what was last seen of each program: kernels of a tick, bytes of temporary memory, processor
seconds of compiling. More than the factors below is a regression. `python tests/accelerators/last_seen.py` writes it.
"""

import json
import math
import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest
from batchscale.measure.ahead import plugins, targets
from batchscale.measure.ahead.too_large import too_large
from batchscale.measure.device.machine import usable_cores
from repository import ROOT

HERE = ROOT / "tests" / "accelerators"
LAST_SEEN = tomllib.loads((HERE / "last_seen.toml").read_text())
TARGETS = tuple(LAST_SEEN)
MORE_KERNELS, MORE_BYTES, MORE_SECONDS = 1.1, 1.1, 3.0
LEAST_SECONDS = 2.0
"""A program that compiles in less is never late: other work on the machine can make it so."""
MOST_SECONDS = 1500
MAY_FAIL = {("a100-80", "mlp_mnist evaluate B=64..4096 None")}
"""JAX 0.10 finds no tiles for one product here, where no device can try them; whether a real one does is not known."""
TOO_LARGE = {"tpu-v5e": {"decoder_gcide scan B=2048 bfloat16 None", "resnet8_fashion scan B=8192 float32 patches"}}
"""What a device has too little memory for, as its compiler says."""
COMBINED_BYTES = {"gpu": 30 << 20, "tpu": 1 << 40}
"""The most that XLA puts into one collective operation: for a GPU the default of its compile option
`xla_gpu_all_reduce_combine_threshold_bytes`. With 50 MB there, the decoder's 43 MB are one operation and not two (JAX
0.10.2). The engine leaves the default, as a training program of a user would."""

pytestmark = [pytest.mark.accelerator, pytest.mark.parametrize("target", TARGETS)]


@pytest.fixture(scope="module")
def compilations(request):
    """Compile for every device of the selected tests, each in one process, as many at a time as there are cores."""
    items = [item for item in request.session.items if item.module is request.module]
    wanted = {item.callspec.params["target"] for item in items}
    with ThreadPoolExecutor(usable_cores()) as pool:
        yield {one: pool.submit(compiled, one) for one in wanted if not plugins.missing(targets.target_named(one))}


@pytest.fixture
def programs(target, compilations):
    """Every program of a device, by name."""
    if why := plugins.missing(targets.target_named(target)):
        pytest.skip(why)
    return compilations[target].result()


def compiled(target):
    path = os.pathsep.join([str(ROOT / "bench"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(HERE / "compile_suite.py"), target],
        env={**os.environ, **plugins.VARIABLES, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}


def facts_of(programs, *kinds):
    found = {name: one["facts"] for name, one in programs.items() if "facts" in one}
    return {name: facts for name, facts in found.items() if not kinds or programs[name]["kind"] in kinds}


def test_every_program_compiles(programs, target):
    failed = {name: one["error"] for name, one in programs.items() if "error" in one}
    expected = TOO_LARGE.get(target, set())
    assert {name for name in failed if (target, name) not in MAY_FAIL} == expected, failed
    assert len(programs) > 20


def test_what_is_too_large_is_told_from_what_does_not_compile(programs, target):
    described = targets.target_named(target)
    for name in TOO_LARGE.get(target, ()):
        found = too_large(described, programs[name]["error"])
        assert found is not None, name
        assert (found.total_bytes or 0) > described.pool_bytes, name


def test_nothing_waits_for_the_host_or_computes_in_double_precision(programs):
    assert {name: facts["on_host"] for name, facts in facts_of(programs).items() if facts["on_host"]} == {}


def test_one_device_has_no_collective_and_lanes_need_none_over_several(programs):
    assert {name for name in facts_of(programs, "train", "evaluate") if name.endswith((" x4", " x8"))}
    alone = facts_of(programs, "cell", "train", "evaluate")
    assert {name: facts["collectives"] for name, facts in alone.items() if facts["collectives"]} == {}


def test_a_data_parallel_step_adds_its_gradients_once_and_in_float32(programs, target):
    shared = facts_of(programs, "parallel")
    assert shared
    for name, facts in shared.items():
        # Every parameter has a gradient in float32, and the loss travels with them.
        travelling = programs[name]["parameter_bytes"] + 4
        assert facts["collective_bytes"] == travelling, name
        most = math.ceil(travelling / COMBINED_BYTES[targets.target_named(target).platform])
        assert facts["collectives"].keys() == {"all-reduce"}, name
        assert facts["collectives"]["all-reduce"] <= most, name


def test_memory_is_what_counting_the_arrays_gives(programs, target):
    for name, facts in facts_of(programs).items():
        counted = programs[name]
        if target.startswith("tpu"):  # which pads arrays to its tiles
            assert facts["argument_bytes"] >= counted["argument_bytes"], name
            assert facts["alias_bytes"] >= counted["donated_bytes"], name
        else:
            assert facts["argument_bytes"] == counted["argument_bytes"], name
            assert facts["alias_bytes"] == counted["donated_bytes"], name


def test_loops_are_those_that_were_written(programs):
    for name, facts in facts_of(programs, "train").items():
        assert facts["loops"] == 1, name
    for name, facts in facts_of(programs, "cell").items():
        assert facts["loops"] == (0 if " dispatch " in name else 1), name


def test_one_cuda_graph_holds_a_whole_call_that_is_compiled_for_it(programs, target):
    """Else the host turns the loop. JAX 0.10 compiles such a graph, but does not report what it holds."""
    for name, facts in facts_of(programs, "cell", "train").items():
        held = (facts["graphs"], facts["host_loops"], facts["launches"])
        if target.startswith("tpu"):
            assert held == (None, None, None), name
        elif not programs[name]["graph"]:
            assert facts["host_loops"] == facts["loops"], name
        elif jax.__version_info__ >= (0, 12):
            assert held == (1, 0, 1), name


def test_no_program_became_larger_or_slower_to_compile(programs, target):
    known, regressions = LAST_SEEN[target], []
    absent = (set(programs) ^ set(known)) - TOO_LARGE.get(target, set())
    assert {name for name in absent if (target, name) not in MAY_FAIL} == set()
    for name, facts in facts_of(programs).items():
        if name not in known:
            continue
        kernels, temp_bytes, seconds = known[name]
        found = facts["kernels"], facts["temp_bytes"], facts["compile_cpu_seconds"]
        most = kernels * MORE_KERNELS, temp_bytes * MORE_BYTES, max(LEAST_SECONDS, seconds) * MORE_SECONDS
        if any(value > limit for value, limit in zip(found, most, strict=True)):
            regressions.append((name, found, known[name]))
    assert regressions == []
