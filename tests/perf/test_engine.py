"""The convergence engine against the same trials one after another: the ratios that `make perf` promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import harmonic_mean

import standard_study
from races import Speed, race

from bench.measure.search import TierStudy
from bench.measure.session import Session

SCREENING_ROUNDS = 2
ROUNDS = 7
FINALISTS = 3
WIDE = {"cpu": [16, 64, 256], "gpu": [256, 1024, 4096], "tpu": [256, 1024, 4096]}
"""Batch sizes where single runs are fastest; every way to run them is screened, and the best are raced."""


def test_engine_ratios(benchmark, session, record):
    tiers = standard_study.tiers(session)
    speeds = benchmark.pedantic(_race, args=(session, tiers), rounds=1)
    wall, processor = (ratios({name: speed[unit] for name, speed in speeds.items()}, tiers) for unit in (0, 1))
    benchmark.extra_info.update(wall)
    for name, value in wall.items():
        record(name, value, {"by processor time": processor[name]})
    record.details["examples_per_second"] = {name: speed._asdict() for name, speed in speeds.items()}


def _race(session: Session, tiers: Sequence[TierStudy]) -> dict[str, Speed]:
    wide = WIDE[session.host.machine.platform]
    screened = standard_study.every_way_alone(session, wide)
    trial = race(screened, SCREENING_ROUNDS)
    finalists = sorted(screened, key=lambda name: trial[name].wall)[-FINALISTS:]
    return race(
        {_name(tier): standard_study.as_lanes(session, tier) for tier in tiers}
        | {_single(size): standard_study.alone(session, size) for size in standard_study.BATCH_SIZES}
        | {name: screened[name] for name in finalists},
        ROUNDS,
    )


def ratios(speeds: Mapping[str, float], tiers: Sequence[TierStudy]) -> dict[str, float]:
    """Ratios of examples per second; every batch size of the study has equally many examples to train."""
    by_tier = harmonic_mean([speeds[_name(tier)] for tier in tiers], [len(tier.tier.batch_sizes) for tier in tiers])
    one_by_one = harmonic_mean([speeds[_single(size)] for size in standard_study.BATCH_SIZES])
    widest, narrowest = tiers[-1], tiers[0]
    fastest_alone = max(speed for name, speed in speeds.items() if name.startswith("alone"))
    return {
        "study_speedup": by_tier / one_by_one,
        "lanes_over_single": speeds[_name(widest)] / fastest_alone,
        "small_batch_speedup": speeds[_name(narrowest)] / speeds[_single(1)],
    }


def _name(tier: TierStudy) -> str:
    return f"lanes B={tier.tier.batch_sizes} microbatch={tier.tier.microbatch_size} {tier.lowering}"


def _single(batch_size: int) -> str:
    return f"alone B={batch_size} dispatch xla"
