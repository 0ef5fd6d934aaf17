"""One training step per model and batch size, as the throughput stage dispatches it, and the time of a report."""

from __future__ import annotations

import msgspec
import pytest
from batchscale.analysis.pages import report
from batchscale.config.vocabulary import CellKey
from batchscale.measure.device.compiled_programs import steps_to_fill
from batchscale.measure.throughput.timed_loops import build
from batchscale.measure.training.learner import make_learner

ROUNDS = 10
ROUND_SECONDS = 0.1


@pytest.mark.parametrize("batch_size", [1, 64, 1024])
@pytest.mark.parametrize("model", ["linear", "mlp", "lenet"])
def test_train_step(benchmark, session, model, batch_size):
    workload = msgspec.structs.replace(session.experiment.workload, model=model)
    learner = make_learner(workload, session.dataset)
    work, _, seconds = build(learner, session.splits[0], CellKey(batch_size, "dispatch"))
    steps = steps_to_fill(ROUND_SECONDS, work)
    benchmark.group = f"{model}, {batch_size} examples a step"
    benchmark.pedantic(work, args=(steps,), rounds=ROUNDS)
    rate = batch_size * steps / benchmark.stats.stats.median
    benchmark.extra_info.update(steps=steps, examples_per_second=rate, compile_seconds=seconds)


def test_report(benchmark, reported):
    benchmark.pedantic(report.write_report, args=(reported,), rounds=3)
