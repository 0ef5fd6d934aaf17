"""The steps of `make gpu-check`; each one runs in a new process.

`python tests/accelerators/gpu_check_steps.py STEP FOLDER [--small]` prints what a step found as JSON.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median

import jax
import msgspec
import numpy as np
import standard_study
import tiny_workload
import tomli_w
from batchscale.measure.control.failures import FAILURES
from batchscale.measure.convergence.tiers import LanePrograms
from batchscale.measure.device import compiled_programs, peak_rates, product_check
from batchscale.measure.device.machine import Host
from batchscale.measure.device.sensors import find
from batchscale.measure.run.suite import planned_stages
from batchscale.measure.session import Session
from batchscale.records.results_folder import THROUGHPUT
from batchscale.records.row_types import Compilation, Round
from gpu_check import IDENTITY, LAST_WORDS, ROOT, THROUGHPUT_PROCESSES, Fact, Place

SUITE_MINUTES = 5
ROUNDING = 1e-3
"""Largest difference of parameters, relative to the largest, that a hundred steps may make of rounding."""


def identity(_: Place) -> list[Fact]:
    """Name the device, the version of JAX and the commit, each as a part of the name of a folder."""
    host = Host.describe()
    return [Fact("device", host.machine.name), Fact("JAX", f"jax-{jax.__version__}"), Fact("code", host.code[:12])]


def products(_: Place) -> list[Fact]:
    """Report what kind of products each precision gives; a wrong one is refused."""
    return [Fact(f"{name} products", kind, ok=True) for name, kind in product_check.kinds_of_products().items()]


def sensors(_: Place) -> list[Fact]:
    """Read every sensor around two seconds of products."""
    host, work = Host.describe(), peak_rates.products("default", 1024)
    steps = compiled_programs.steps_to_fill(0.5, work)
    found = find(host.machine.platform)
    _, sensed = found.around(lambda: compiled_programs.timed(work, 4 * steps))
    needed = host.machine.platform == "gpu"
    facts = [Fact("device", f"{host.machine.device_kind}, driver {host.environment.driver}")]
    for name, value in sensed._asdict().items():
        facts.append(Fact(name, "not readable" if value is None else f"{value:.6g}", value is not None or not needed))
    return facts


def throughput(place: Place, process: int) -> list[Fact]:
    """Time the default model in every loop in a new process."""
    session = _session(place, f"throughput_{process}")
    session.prepare_folder()
    for stage in planned_stages(session, ["throughput"]):
        stage.run()
    failed = [row for row in session.rows(THROUGHPUT) if isinstance(row, Compilation) and row.status != "ok"]
    facts = [Fact(f"B={size} {loop}", f"{speed:.4g} examples/s") for (size, loop), speed in _speeds(session).items()]
    return facts + [Fact(f"B={row.batch_size} {row.loop}", row.message or row.status, ok=False) for row in failed]


def processes(place: Place) -> list[Fact]:
    """Compare the processes that timed the same, and a loop in a CUDA graph with the plain one."""
    every = [_speeds(_session(place, f"throughput_{process}")) for process in range(1, THROUGHPUT_PROCESSES + 1)]
    facts = []
    for size, loop in every[0]:
        speeds = [found[size, loop] for found in every if (size, loop) in found]
        facts.append(Fact(f"B={size} {loop}: between processes", f"{max(speeds) / min(speeds) - 1:.1%} apart"))
        if loop == "graph":
            plain = median(found[size, "scan"] for found in every)
            facts.append(Fact(f"B={size}: graph over scan", f"{median(speeds) / plain:.3f}"))
    return facts


def _speeds(session: Session) -> dict[tuple[int, str], float]:
    """Return the median examples per second of each batch size and loop."""
    speeds: dict[tuple[int, str], list[float]] = {}
    for row in session.rows(THROUGHPUT):
        if isinstance(row, Round):
            speeds.setdefault((row.batch_size, row.loop), []).append(row.batch_size * row.steps / row.seconds)
    return {key: median(speeds[key]) for key in sorted(speeds)}


def lowerings(place: Place) -> list[Fact]:
    """Time every lowering of the lanes, plain and by a CUDA graph, and what the engine chooses."""
    session, facts = _session(place, "lanes"), []
    of = LanePrograms(session)
    of.compile_trials()
    for tier, lowering, graph in product(
        of.tiers, session.lowerings, (False, True) if session.host.graphs else (False,)
    ):
        name = f"lanes {tier.label} {lowering}{' as a graph' if graph else ''}"
        try:
            speed = of.speed_trial(tier, lowering, of.first_width(tier), graph=graph).examples_per_second()
            facts.append(Fact(name, f"{speed:.4g} examples/s"))
        except FAILURES as error:
            facts.append(Fact(name, str(error)[:LAST_WORDS], ok=False))
    for tier in of.tiers:
        found = of.tuned(tier)
        facts.append(Fact(f"chosen for {tier.label}", f"{found.lowering}{' as a graph' if found.graph else ''}"))
    return facts


def lanes(_: Place) -> list[Fact]:
    """Compare lanes with the same runs alone, whose parameters differ by rounding alone; on a GPU, by a graph too."""
    facts, sizes, rates = [], [10, 50], [0.02, 0.02]
    for model, graph in product(("lenet", "mlp", "decoder"), (False, True) if Host.describe().graphs else (False,)):
        learner = tiny_workload.learner(model, "momentum")
        of = replace(tiny_workload.programs(learner, 10), graph=graph)
        made = tiny_workload.train(of, [2], tiny_workload.settings(sizes, rates), 1000)
        worst = 0.0
        for column, size in enumerate(sizes):
            alone = tiny_workload.train_alone(learner, 2, size, rates[column], 1000)
            pairs = zip(*map(_leaves, (tiny_workload.lane(made.state.params, 0, column), alone.params)), strict=True)
            worst = max(worst, *(float(np.abs(one - other).max() / np.abs(other).max()) for one, other in pairs))
        name = f"{model}: lanes{' as a graph' if graph else ''} over runs alone"
        facts.append(Fact(name, f"parameters differ by {worst:.1e}", worst <= ROUNDING))
    return facts


def ratios(place: Place) -> list[Fact]:
    """Measure the ratios that `make perf` promises; small, only look for these tests."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-o", "addopts=", "tests/perf/test_engine.py"]
    command += ["--collect-only"] if place.small else ["--benchmark-only"]
    _output(command)
    if place.small:
        return [Fact("ratios", "left out of a small check")]
    kept = msgspec.json.decode((ROOT / ".benchmarks" / "perf.json").read_bytes())["ratios"]
    return [Fact(name, f"{one['value']:.3f}", _within(one)) for name, one in kept.items()]


def suite(place: Place) -> list[Fact]:
    """Run the default suite, or a study of seconds, to its pages."""
    named = [str(_tiny_study(place.folder))] if place.small else ["--budget", str(SUITE_MINUTES)]
    results = place.folder / "results"
    command = [sys.executable, "-m", "batchscale", "run", *named, "--results", str(results), "--json"]
    found = msgspec.json.decode(_output(command))
    summaries = found if isinstance(found, list) else [found]
    return [Fact(f"suite: {one['experiment']}", _answer(one), ok=True) for one in summaries]


def _output(command: list[str]) -> str:
    """Run `command` and return what it printed.

    Raises:
        RuntimeError: It failed; with its exit status and the last words of its errors, or else of its output.
    """
    # Where a worker of pytest runs this check, a pytest started here is none of its workers.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST_")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip())[-LAST_WORDS:]
        raise RuntimeError(f"exit status {done.returncode}: {words}")
    return done.stdout


def _session(place: Place, name: str) -> Session:
    table = {
        **standard_study.TABLE,
        "batch_sizes": {"values": place.sizes},
        "throughput": {"rounds": 7, "round_seconds": 0.01 if place.small else 0.1, "max_batch_size": "skip"},
        "seeds": {"search": 1 if place.small else 3},
    }
    folder = place.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    return standard_study.open_session(folder, table)


def _tiny_study(folder: Path) -> Path:
    path = folder / "tiny.toml"
    path.write_text(tomli_w.dumps(tiny_workload.TINY))
    return path


def _leaves(tree: object) -> list:
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]


def _within(ratio: dict) -> bool:
    return (ratio["at_least"] or 0.0) <= ratio["value"] <= (ratio["at_most"] or float("inf"))


def _answer(summary: dict) -> str:
    best = summary.get("time_optimal")
    return f"B={best['batch_size']} is the fastest" if best else str(summary.get("time_optimal_reason"))


STEPS: dict[str, Callable[[Place], list[Fact]]] = {
    IDENTITY: identity,
    "products": products,
    "sensors": sensors,
    **{f"throughput {i}": lambda place, i=i: throughput(place, i) for i in range(1, THROUGHPUT_PROCESSES + 1)},
    "processes": processes,
    "lowerings": lowerings,
    "lanes": lanes,
    "ratios": ratios,
    "suite": suite,
}


if __name__ == "__main__":
    step, folder, *options = sys.argv[1:]
    print(msgspec.json.encode(STEPS[step](Place(Path(folder), "--small" in options))).decode())
