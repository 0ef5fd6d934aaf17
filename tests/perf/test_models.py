"""Mapped lanes of a byte decoder and of ResNet-8 against their best single run at any batch size."""

from __future__ import annotations

import pytest
import standard_study
from batchscale.measure.session import Session
from races import Speed, race

SCREENING_ROUNDS = 2
ROUNDS = 7
FINALISTS = 2
SINGLE_BATCH_SIZES = [4, 16, 32, 64, 256]
RESNET8 = {
    "dataset": "synthetic_images",
    "dataset_options": {"shape": [28, 28, 1], "classes": 10},
    "model": "resnet",
    "optimizer": "momentum",
}


@pytest.mark.parametrize(
    ("name", "workload", "target"),
    [("decoder", standard_study.DECODER, {"loss": 1.0}), ("resnet8", RESNET8, {"accuracy": 0.9})],
)
def test_lanes_over_the_best_single_run(benchmark, record, tmp_path, name, workload, target):
    session = standard_study.session_of(tmp_path, workload=workload, target=target, batch_sizes={"values": [16, 64]})
    speeds = benchmark.pedantic(_race, args=(session,), rounds=1)
    lanes, single = speeds.pop("lanes"), max(speeds.values())
    tokens = session.dataset.tokens_per_example or 1
    rates = {"lanes per second": lanes.wall * tokens, "single per second": single.wall * tokens}
    single_core = max(speed.processor for speed in speeds.values())
    details = {"by processor time": lanes.processor / single_core, **rates}
    record(f"{name}_lanes_over_single", lanes.wall / single.wall, details)


def _race(session: Session) -> dict[str, Speed]:
    singles = standard_study.every_way_alone(session, SINGLE_BATCH_SIZES)
    trial = race(singles, SCREENING_ROUNDS)
    finalists = sorted(singles, key=lambda name: trial[name].wall)[-FINALISTS:]
    (*_, tier) = standard_study.tiers(session)
    contestants = {name: singles[name] for name in finalists} | {"lanes": standard_study.as_lanes(session, tier)}
    return race(contestants, ROUNDS)
