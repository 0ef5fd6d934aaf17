"""The two studies next to the usual ways to write them: PyTorch eager and compiled, and JAX with Flax's own layers.

Run by `make peers`. Every way trains the same networks on the same data; a study takes the harmonic mean of its speeds
over batch sizes, because each batch size has equally many examples to train.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import harmonic_mean

import peer_torch
import pytest
import standard_study
from batchscale.measure.session import Session
from plain_models import PlainDecoder, PlainLeNet, plain_learner
from races import Contestant, race

ROUNDS = 7
WAYS = {"PyTorch eager": False, "torch.compile": True}
PLAIN = "JAX with Flax's layers"


@pytest.mark.filterwarnings("default")  # PyTorch's compiler warns of its own deprecated parts
@pytest.mark.parametrize(
    ("study", "torch_run", "network"),
    [("LeNet", peer_torch.lenet_run, PlainLeNet), ("decoder", peer_torch.decoder_run, PlainDecoder)],
)
def test_a_study_next_to_the_usual_ways(benchmark, record, session, tmp_path, study, torch_run, network):
    session = session if study == "LeNet" else decoder_session(tmp_path)
    speeds = benchmark.pedantic(_race, args=(session, torch_run, network), rounds=1)
    record.details["torch"] = str(peer_torch.torch.__version__)
    lanes = speeds.pop("lanes")
    for way, speed in speeds.items():
        record(f"{study}: over {way}", lanes / speed, {"examples per second": speed, "of the lanes": lanes})


def decoder_session(folder: Path) -> Session:
    return standard_study.session_of(
        folder, workload=standard_study.DECODER, target={"loss": 1.0}, batch_sizes={"values": [1, 4, 16, 64, 256]}
    )


def _race(session: Session, torch_run: Callable, network: type) -> dict[str, float]:
    """Examples per second of the whole study, by way."""
    sizes = session.batch_sizes
    tiers = standard_study.tiers(session)
    contestants = {("lanes", str(tier.tier.batch_sizes)): standard_study.as_lanes(session, tier) for tier in tiers}
    plain = plain_learner(network)
    for size in sizes:
        contestants[PLAIN, str(size)] = standard_study.alone(session, plain, size)
        for way, compiled in WAYS.items():
            work = torch_run(session.dataset, size, compiled=compiled)
            contestants[way, str(size)] = Contestant.slices(work, size, standard_study.SLICE_SECONDS)
    found = race({" | ".join(key): one for key, one in contestants.items()}, ROUNDS)
    weights = {str(tier.tier.batch_sizes): len(tier.tier.batch_sizes) for tier in tiers}
    by_way: dict[str, list[tuple[float, int]]] = {}
    for way, part in contestants:
        by_way.setdefault(way, []).append((found[f"{way} | {part}"].wall, weights.get(part, 1)))
    return {way: harmonic_mean(*zip(*speeds, strict=True)) for way, speeds in by_way.items()}
