"""The convergence engine against the same trials one after another: the ratios that `make perf` promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import harmonic_mean

import pytest
import standard_study
from batchscale.measure.convergence.stage import TierSearch
from batchscale.measure.session import Session
from plain_models import plain_learner
from races import Speed, race

SCREENING_ROUNDS = 2
ROUNDS = 7
FINALISTS = 3
WIDE = {"cpu": [16, 64, 256], "gpu": [256, 1024, 4096], "tpu": [256, 1024, 4096]}
"""Batch sizes where single runs are fastest; every way to run them is screened, and the best are raced."""
OURS, PLAIN = "alone {} dispatch xla", "plain {}"
"""Single runs of our model, and of one from Flax's own layers."""


def test_engine_ratios(benchmark, session, record):
    tiers = standard_study.tiers(session)
    speeds = benchmark.pedantic(_race, args=(session, tiers), rounds=1)
    wall, processor = ({name: speed[unit] for name, speed in speeds.items()} for unit in (0, 1))
    found, by_processor, over_plain = ratios(wall, tiers), ratios(processor, tiers), ratios(wall, tiers, PLAIN)
    benchmark.extra_info.update(found)
    for name, value in found.items():
        record(name, value, {"by processor time": by_processor[name], "over Flax's layers": over_plain[name]})
    record.details["examples_per_second"] = {name: speed._asdict() for name, speed in speeds.items()}


def test_lanes_over_devices(benchmark, session, record):
    """Each device with a part of the lanes, against one device with one such part: the speed that it keeps."""
    count = session.host.lane_devices
    if count == 1:
        pytest.skip("one device")
    tiers = standard_study.tiers(session)
    alone = standard_study.tiers(standard_study.on_one_device(session))
    contestants = {}
    for tier, one in zip(tiers, alone, strict=True):
        contestants[_name(tier)] = standard_study.as_lanes(session, tier)
        contestants[f"one device {_name(tier)}"] = standard_study.part_of_one_device(session, tier, one)
    speeds = benchmark.pedantic(race, args=(contestants, ROUNDS), rounds=1)
    kept = {_name(one): speeds[_name(one)].wall / speeds[f"one device {_name(one)}"].wall / count for one in tiers}
    record("lanes_over_devices", min(kept.values()), kept)


def _race(session: Session, tiers: Sequence[TierSearch]) -> dict[str, Speed]:
    screened = standard_study.every_way_alone(session, WIDE[session.host.machine.platform])
    trial = race(screened, SCREENING_ROUNDS)
    finalists = sorted(screened, key=lambda name: trial[name].wall)[-FINALISTS:]
    contestants = {name: screened[name] for name in finalists}
    contestants |= {_name(tier): standard_study.as_lanes(session, tier) for tier in tiers}
    for name, learner in ((OURS, session.learner("float32", "xla")), (PLAIN, plain_learner())):
        for size in standard_study.BATCH_SIZES:
            contestants[name.format(size)] = standard_study.alone(session, learner, size)
    return race(contestants, ROUNDS)


def ratios(speeds: Mapping[str, float], tiers: Sequence[TierSearch], single: str = OURS) -> dict[str, float]:
    """Ratios of examples per second; every batch size of the study has equally many examples to train."""
    by_tier = harmonic_mean([speeds[_name(tier)] for tier in tiers], [len(tier.tier.batch_sizes) for tier in tiers])
    one_by_one = harmonic_mean([speeds[single.format(size)] for size in standard_study.BATCH_SIZES])
    widest, narrowest = tiers[-1], tiers[0]
    family = single.split(maxsplit=1)[0]
    return {
        "study_speedup": by_tier / one_by_one,
        "lanes_over_single": speeds[_name(widest)] / max(speeds[name] for name in speeds if name.startswith(family)),
        "small_batch_speedup": speeds[_name(narrowest)] / speeds[single.format(1)],
    }


def _name(tier: TierSearch) -> str:
    way = f"{tier.tuned.lowering}, {tier.tier_training.full[1]} wide"
    return f"lanes {tier.tier.batch_sizes} microbatch {tier.tier.microbatch_size} {way}"
