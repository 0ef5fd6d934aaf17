"""Which lowering a batch size is timed under: the fastest of those tried at a size near it, if that fits."""

import pytest
from batchscale.config.vocabulary import CellKey
from batchscale.measure.control.progress import SECONDS_PER_LOWERING
from batchscale.measure.run import lowerings
from batchscale.measure.throughput import rounds
from batchscale.records.row_types import Compilation
from fake_laboratory import Pretended
from tiny_workload import session


def test_every_size_is_timed_under_the_lowering_that_won_near_it(tmp_path, monkeypatch):
    faster = {4: "patches", 16: "banded", 64: "banded"}
    tried = []

    def speed(_, key, lowering):
        tried.append((key.batch_size, key.loop, lowering))
        return 2.0 if (faster[key.batch_size] == lowering) == (key.precision == "float32") else 1.0

    monkeypatch.setattr(rounds, "examples_per_second", speed)
    made = session(tmp_path, workload={"model": "lenet"}, batch_sizes={"values": [4, 8, 16, 32, 64]})
    lowering_of = lowerings.of_cells(made, Pretended(monkeypatch).laboratory, [])
    chosen = {size: lowering_of(CellKey(size, "dispatch")) for size in (64, 8, 4, 16, 32, 64)}
    assert chosen == {4: "patches", 8: "patches", 16: "banded", 32: "banded", 64: "banded"}
    assert lowering_of(CellKey(64, "dispatch", devices=2, accumulation=4)) == "patches", "a device's part at once"
    assert sorted(tried) == [(size, "scan", lowering) for size in (4, 16, 64) for lowering in ("banded", "patches")]
    assert lowering_of(CellKey(16, "dispatch", precision="bfloat16")) == "patches", "each precision has its own"


def test_the_time_left_counts_the_trials_that_are_still_to_make(tmp_path, monkeypatch):
    made = session(tmp_path, workload={"model": "lenet"}, batch_sizes={"values": [4, 8, 16]})
    monkeypatch.setattr(rounds, "examples_per_second", lambda *_: 1.0)
    keys = [CellKey(size, "scan") for size in (4, 8, 16)]
    lowering_of = lowerings.of_cells(made, Pretended(monkeypatch).laboratory, keys)
    assert made.progress.remaining_seconds() == pytest.approx(4 * SECONDS_PER_LOWERING)
    for key in keys:
        lowering_of(key)
    assert made.progress.remaining_seconds() == 0
    lowerings.announce_of_cells(made, keys)
    assert made.progress.remaining_seconds() == 0


def test_what_a_trial_compiled_is_timed_and_what_lost_is_let_go(tmp_path, monkeypatch):
    pretended = Pretended(monkeypatch)
    laboratory = pretended.laboratory
    made = session(tmp_path, workload={"model": "lenet"}, batch_sizes={"values": [4, 16, 64]})
    keys = [CellKey(size, loop) for size in (4, 16, 64) for loop in ("dispatch", "scan")]
    rounds.measure(laboratory, keys, lowerings.of_cells(made, laboratory, keys))
    for size in (4, 16, 64):
        built = [key.loop for key in pretended.built if key.batch_size == size]
        assert built == ["scan", "scan", "dispatch"], "one program for each lowering, one of which is the cell's"
    assert laboratory.compilations == len(pretended.built) == 9
    assert len(laboratory.tried) == 1, "no more than lost the last choice"
    rows = [row for row in pretended.rows if isinstance(row, Compilation)]
    assert [(row.batch_size, row.loop, row.compile_seconds) for row in rows] == [
        (key.batch_size, key.loop, 0.25) for key in keys
    ]


def test_nothing_that_may_not_fit_is_tried(monkeypatch):
    made = Pretended(monkeypatch)
    made.laboratory.memory_bytes = 100_000
    with pytest.raises(MemoryError, match="64000 bytes may not fit"):
        rounds.examples_per_second(made.laboratory, CellKey(64, "scan"), None)
    per_second = rounds.examples_per_second(made.laboratory, CellKey(8, "scan"), None)
    assert per_second == pytest.approx(8 / made.seconds_per_step(CellKey(8, "scan")))
