"""Which lowering a batch size is timed under: the fastest of those tried at a size near it, if that fits."""

import pytest
from batchscale.config.vocabulary import CellKey
from batchscale.measure.control.progress import SECONDS_PER_LOWERING
from batchscale.measure.control.signals import Stopped
from batchscale.measure.throughput import lowering_choice, rounds
from batchscale.records.row_types import Compilation
from fake_throughput import Pretended
from tiny_workload import MODEL_OPTIONS

SIZES = [4, 8, 16, 32, 64]


def convolving(monkeypatch, folder, sizes=SIZES):
    """A pretended stage whose model has several lowerings, with its trials planned by `count_trials`."""
    workload = {"model": "lenet", "model_options": MODEL_OPTIONS["lenet"]}
    return Pretended(monkeypatch, folder=folder, workload=workload, batch_sizes={"values": sizes})


def choose(made, keys):
    session = made.timing.session
    trials = lowering_choice.count_trials(session, keys)
    session.progress.plan(lowering_choice.TRIALS, trials, 1 / SECONDS_PER_LOWERING)
    made.timing.lowerings = lowering_choice.choose(made.timing, keys)
    return made.timing.lowerings


def test_every_size_is_timed_under_the_lowering_that_won_near_it(tmp_path, monkeypatch):
    faster = {4: "patches", 16: "banded", 64: "banded"}
    tried = []

    def speed(_, key, lowering):
        tried.append((key.batch_size, key.loop, lowering))
        return 2.0 if (faster[key.batch_size] == lowering) == (key.precision == "float32") else 1.0

    monkeypatch.setattr(rounds, "examples_per_second", speed)
    made = convolving(monkeypatch, tmp_path)
    choose(made, [CellKey(size, "dispatch") for size in (64, 8, 4, 16, 32, 64)])
    lowering = made.timing.lowering
    chosen = {size: lowering(CellKey(size, "dispatch")) for size in SIZES}
    assert chosen == {4: "patches", 8: "patches", 16: "banded", 32: "banded", 64: "banded"}
    assert lowering(CellKey(64, "dispatch", devices=2, accumulation=4)) == "patches", "a device's part at once"
    assert sorted(tried) == [(size, "scan", lowering) for size in (4, 16, 64) for lowering in ("banded", "patches")]
    choose(made, [CellKey(16, "dispatch", precision="bfloat16")])
    assert lowering(CellKey(16, "dispatch", precision="bfloat16")) == "patches", "each precision has its own"


def test_what_is_chosen_is_one_plain_dict_that_a_later_run_reads_from_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "examples_per_second", lambda *given: {"patches": 1.0, "banded": 2.0}[given[-1]])
    found = choose(convolving(monkeypatch, tmp_path), [CellKey(size, "scan") for size in SIZES])
    assert found == {(size, "float32"): "banded" for size in (4, 16, 64)}
    monkeypatch.setattr(rounds, "examples_per_second", lambda *_: pytest.fail("tried again"))
    again = convolving(monkeypatch, tmp_path)
    assert choose(again, [CellKey(64, "scan")]) == found, "with those of cells that may yet need microbatches"
    assert again.timing.lowering(CellKey(64, "scan", accumulation=16)) == "banded"


def test_a_model_with_one_lowering_tries_none(tmp_path, monkeypatch):
    made = Pretended(monkeypatch, folder=tmp_path)
    assert choose(made, [CellKey(8, "scan")]) == {}
    assert made.timing.lowering(CellKey(8, "scan")) is None
    assert made.built == []


def test_a_stop_is_heard_before_each_trial(tmp_path, monkeypatch):
    made = convolving(monkeypatch, tmp_path)
    made.stop_at = 2
    with pytest.raises(Stopped):
        choose(made, [CellKey(size, "scan") for size in SIZES])
    assert {key.batch_size for key in made.built} == {4}


def test_the_time_left_counts_the_trials_that_are_still_to_make(tmp_path, monkeypatch):
    made = convolving(monkeypatch, tmp_path, [4, 8, 16])
    monkeypatch.setattr(rounds, "examples_per_second", lambda *_: 1.0)
    keys = [CellKey(size, "scan") for size in (4, 8, 16)]
    assert lowering_choice.count_trials(made.timing.session, keys) == 2 * 2
    progress = made.timing.session.progress
    progress.items.clear()
    choose(made, keys)
    assert progress.items[progress.prefix, lowering_choice.TRIALS].done == 2 * 2
    assert progress.remaining_seconds() == 0
    assert lowering_choice.count_trials(made.timing.session, keys) == 0


def test_what_a_trial_compiled_is_timed_and_what_lost_is_let_go(tmp_path, monkeypatch):
    made = convolving(monkeypatch, tmp_path, [4, 16, 64])
    keys = [CellKey(size, loop) for size in (4, 16, 64) for loop in ("dispatch", "scan")]
    choose(made, keys)
    assert {key for key, _ in made.timing.programs} == {CellKey(size, "scan") for size in (4, 16, 64)}
    assert len(made.timing.programs) == 3, "what lost is let go"
    made.measure(keys)
    for size in (4, 16, 64):
        built = [key.loop for key in made.built if key.batch_size == size]
        assert built == ["scan", "scan", "dispatch"], "one program for each lowering, one of which is the cell's"
    assert made.timing.compilations == len(made.built) == 9
    assert made.timing.programs == {}
    rows = [row for row in made.rows if isinstance(row, Compilation)]
    assert [(row.batch_size, row.loop, row.compile_seconds) for row in rows] == [
        (key.batch_size, key.loop, 0.25) for key in keys
    ]


def test_nothing_that_may_not_fit_is_tried(monkeypatch):
    made = Pretended(monkeypatch)
    made.timing.memory_bytes = 100_000
    with pytest.raises(MemoryError, match="64000 bytes may not fit"):
        rounds.examples_per_second(made.timing, CellKey(64, "scan"), None)
    per_second = rounds.examples_per_second(made.timing, CellKey(8, "scan"), None)
    assert per_second == pytest.approx(8 / made.seconds_per_step(CellKey(8, "scan")))
