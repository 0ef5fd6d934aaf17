"""Files that the tools themselves wrote are read to the last number; damaged ones are refused in one line."""

import struct
import tracemalloc
from decimal import Decimal
from pathlib import Path

import pytest
from batchscale.analysis.exchange.analyze import Known, write_folders
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.outside import parquet, recognise
from batchscale.analysis.outside.runs import Asked, Reading
from batchscale.analysis.summary.build import summarize
from batchscale.errors import InputError
from hypothesis import given
from hypothesis import strategies as st

SAMPLES = Path(__file__).with_name("samples")
EVENTS = "events.out.tfevents.1700000000.host"
STEPS = range(50, 301, 50)
SECONDS = {16: 0.01, 64: 0.02, 256: 0.05}


def check(runs):
    """Losses are 4 - step / 100; the clock is that of steps at `SECONDS`."""
    check_curves(runs)
    for run in runs:
        trained, seconds = run.clock
        assert seconds / trained == pytest.approx(SECONDS[run.batch_size], rel=1e-6)


def check_curves(runs):
    assert sorted((run.batch_size, run.seed) for run in runs) == [(b, seed) for b in SECONDS for seed in (0, 1)]
    for run in runs:
        assert run.learning_rate == 0.1
        assert [one.at for one in run.evaluations] == [*STEPS]
        assert [one.score for one in run.evaluations] == pytest.approx([4 - step / 100 for step in STEPS], rel=1e-6)


def first_and_typical(folder):
    """Return the epochs at the first evaluation at the target, by batch size, and the least time of the typical run."""
    found = summarize(Sweep.of(frames.load(folder)))
    first = {cell.batch_size: cell.first_evaluation_epochs for cell in found.cells}
    return first, found.time_optimal.batch_size, found.time_optimal.seconds


def test_event_files_of_tensorboard_end_in_the_time_that_a_hand_calculation_gives(tmp_path):
    """The loss is 2.5 after 150 steps; its line over steps bends over log steps, where the curve is smoothed."""
    known = Known(target=2.5, train_examples=1600, scores=Asked(metric="loss"))
    check(recognise.read([SAMPLES / "tensorboard"], known.scores).runs)
    (folder,) = write_folders([SAMPLES / "tensorboard"], None, tmp_path / "out", known).values()
    first, best, seconds = first_and_typical(folder)
    assert first == {size: 150 * size / 1600 for size in SECONDS}
    assert (best, seconds) == (16, pytest.approx(150 * 0.01, rel=0.1))


def test_event_files_of_lightnings_logger_take_their_settings_from_what_lightning_writes(tmp_path):
    """Its logger puts a folder for each version into that of the run, and a file of hyperparameters next to events."""
    one = (SAMPLES / "tensorboard" / "bs64-lr0.1-seed1" / EVENTS).read_bytes()
    for folder, settings in [("bs64-lr0.1-seed1", ""), ("unnamed", "batch_size: 64\nlr: 0.1\nseed: 1\n")]:
        version = tmp_path / folder / "version_0"
        version.mkdir(parents=True)
        (version / EVENTS).write_bytes(one)
        (version / "hparams.yaml").write_text(settings)
        (run,) = recognise.read([version / EVENTS], Asked(metric="loss")).runs
        assert (run.batch_size, run.learning_rate, run.seed) == (64, 0.1, 1)


def test_the_csv_logger_of_lightning_ends_in_the_time_that_a_hand_calculation_gives(tmp_path):
    """Each version is a run; its loss is 2.5 after 150 steps, so 64 takes 150 x 0.002 s, and 16 takes 150 x 0.01 s."""
    known = Known(target=2.5, train_examples=1600, scores=Asked(metric="loss"))
    check_curves(recognise.read([SAMPLES / "lightning"], known.scores).runs)
    (tmp_path / "t.csv").write_text("batch_size,seconds_per_step\n16,0.01\n64,0.002\n256,0.05\n")
    (folder,) = write_folders([SAMPLES / "lightning"], tmp_path / "t.csv", tmp_path / "out", known).values()
    first, best, seconds = first_and_typical(folder)
    assert first == {size: 150 * size / 1600 for size in SECONDS}
    assert (best, seconds) == (64, pytest.approx(150 * 0.002, rel=0.1))


def test_a_run_that_was_continued_is_one_run_although_it_has_two_files(tmp_path):
    folder = tmp_path / "bs16-seed0"
    folder.mkdir()
    whole = (SAMPLES / "tensorboard" / "bs16-lr0.1-seed0" / EVENTS).read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    (folder / EVENTS).write_bytes(whole)
    (folder / EVENTS.replace("17", "18")).write_bytes(whole[: length + 16])
    (run,) = recognise.read([tmp_path], Asked(metric="loss")).runs
    assert len(run.evaluations) == len(STEPS)


def test_the_history_of_wandb_is_read_from_parquet():
    pytest.importorskip("pyarrow")
    check(recognise.read([SAMPLES / "parquet"], Asked(metric="loss", column="val/loss")).runs)


def test_parquet_without_its_reader_is_one_line(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(parquet.importlib, "import_module", absent)
    with pytest.raises(InputError, match=r"history\.parquet: Parquet needs pyarrow, expected it installed"):
        recognise.read([SAMPLES / "parquet"], Asked(metric="loss"))


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"PAR1" + bytes(100), b"PAR1" + b"\xff" * 40 + b"PAR1"])
def test_damaged_parquet_is_one_line(tmp_path, damage):
    pytest.importorskip("pyarrow")
    (tmp_path / "bs16.parquet").write_bytes(damage)
    with pytest.raises(InputError) as error:
        recognise.read([tmp_path / "bs16.parquet"], Asked(metric="loss"))
    assert len(str(error.value).splitlines()) == 1


def test_a_text_that_every_row_of_parquet_repeats_is_kept_once(tmp_path):
    """Its file has 5 kB; every row by itself would need 16 GB. Categories of pandas and decimals are read too."""
    arrow, written = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = 400
    long = arrow.DictionaryArray.from_arrays(arrow.array([0] * rows, arrow.int32()), arrow.array(["x" * 40_000_000]))
    run = arrow.array(["bs16-lr0.1"] * rows).dictionary_encode()
    losses = arrow.array([Decimal(rows - at) / 100 for at in range(rows)])
    columns = {"_step": range(rows), "run": run, "val/loss": losses, "note": long, "system": [{"gpu": 1}] * rows}
    written.write_table(arrow.table(columns), tmp_path / "h.parquet", compression="zstd", store_schema=False)
    tracemalloc.start()
    (found,) = recognise.read([tmp_path / "h.parquet"], Asked(metric="loss", column="val/loss")).runs
    assert tracemalloc.get_traced_memory()[1] < 400e6
    tracemalloc.stop()
    assert (found.batch_size, found.learning_rate) == (16, 0.1)
    assert [one.score for one in found.evaluations] == [(rows - at) / 100 for at in range(rows)]


def test_the_trainers_own_file_gives_its_batch_size_by_name_and_its_clock():
    (run,) = recognise.read([SAMPLES / "trainer"], Asked()).runs
    assert (run.batch_size, run.seed, run.clock) == (64, 0, (300, 6.0))
    assert [one.score for one in run.evaluations] == pytest.approx([4 - step / 100 for step in STEPS])


def outcome(folder, data):
    """Read an event file; refusals are one line that names the file."""
    folder.mkdir(exist_ok=True)
    (folder / EVENTS).write_bytes(data)
    try:
        found = recognise.read([folder / EVENTS], Asked(metric="loss", column="val/loss", batch_size=16))
    except InputError as refused:
        message = str(refused)
    else:
        assert isinstance(found, Reading)
        return found
    assert len(message.splitlines()) == 1
    assert str(folder) in message
    return None


@given(st.data())
def test_no_byte_of_an_event_file_ends_in_a_traceback(tmp_path_factory, data):
    whole = (SAMPLES / "tensorboard" / f"bs16-lr0.1-seed{data.draw(st.sampled_from([0, 1]))}" / EVENTS).read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + data.draw(st.binary(max_size=12)) + whole[at + data.draw(st.integers(0, 3)) :]
    outcome(tmp_path_factory.getbasetemp() / "changed", changed)


def test_a_run_that_still_writes_is_read_up_to_its_last_whole_event(tmp_path):
    whole = (SAMPLES / "tensorboard" / "bs16-lr0.1-seed0" / EVENTS).read_bytes()
    counts = [len(found.runs[0].evaluations) for end in range(len(whole)) if (found := outcome(tmp_path, whole[:end]))]
    assert sorted(set(counts)) == [1, 2, 3, 4, 5]
    assert counts == sorted(counts)


def test_an_event_that_claims_to_be_huge_is_refused_before_it_is_read(tmp_path):
    (tmp_path / EVENTS).write_bytes(struct.pack("<Q", 1 << 40) + bytes(4))
    with pytest.raises(InputError, match="an event of 1099511627776 bytes, expected at most 16777216"):
        recognise.read([tmp_path], Asked(metric="loss"))
