"""Runs whose steps are not known: epochs of unknown size, or only the seconds of a clock."""

from __future__ import annotations

import html
import json
import re

import msgspec
import numpy as np
import pytest
import simulated_folder
from batchscale.analysis.compare.compare import compare
from batchscale.analysis.exchange.analyze import Known, write_folders
from batchscale.analysis.exchange.export import export
from batchscale.analysis.exchange.predict import predict
from batchscale.analysis.figures import training
from batchscale.analysis.figures.drawing import NothingToDrawError
from batchscale.analysis.frames import frames
from batchscale.analysis.frames.amounts import by_own_clocks
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.outside.runs import Asked
from batchscale.analysis.pages import report, tables
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.text import answer, captions, explain, method
from batchscale.errors import InputError
from batchscale.records.curves import Curve
from batchscale.records.row_types import Round, TimedEpoch, Trial

CLOCK = by_own_clocks("Times")
EPOCHS = {16: (3, 3, 4), 64: (4, 4, 4), 256: (6, 7, 7), 1024: (14, 15, 13)}
SECONDS_PER_EPOCH = {16: 20.0, 64: 8.0, 256: 5.0, 1024: 4.2}
BY_HAND = {16: 3 * 20.0, 64: 4 * 8.0, 256: 7 * 5.0, 1024: 14 * 4.2}
"""The median of the epochs times the median of the seconds per epoch."""
SPREAD = (0.99, 1.0, 1.02)

NEEDS = "batch_size,seed,epochs_to_target\n" + "".join(
    f"{size},{seed},{need}\n" for size, needs in EPOCHS.items() for seed, need in enumerate(needs)
)
POINTS = json.dumps(
    {f"point {size}": {"BS": size, "Epochs to converge": list(needs)} for size, needs in EPOCHS.items()}
)
SPEEDS = "batch_size,seconds_per_epoch,machine\n" + "".join(
    f"{size},{factor * slower * seconds:.6g},{machine}\n"
    for machine, slower in (("one", 1), ("two", 2))
    for size, seconds in SECONDS_PER_EPOCH.items()
    for factor in SPREAD
)
SPEEDS_OF_ONE = "".join(f"{line.rpartition(',')[0]}\n" for line in SPEEDS.splitlines() if not line.endswith("two"))
CROSSINGS = {16: (50, 72, 60), 64: (16, 25, 20), 256: (32, 50, 40)}
"""Seconds at which the loss of each run crosses the target; the loss falls as one over the root of the time."""
TYPICAL = {16: 60, 64: 20, 256: 40}
"""Where the mean of the logarithms of these curves crosses it: the geometric mean."""


def clocked(unit="seconds", more=""):
    """Curves of runs that are evaluated every 5 seconds, or every 5 steps of one second."""
    lines = [f"run,batch_size,{unit}{more and ',' + more},val_loss"]
    for size, seconds in CROSSINGS.items():
        for seed, crossing in enumerate(seconds):
            for at in range(5, 125, 5):
                score = 2.0 * (crossing / at) ** 0.5
                lines.append(f"b{size}s{seed},{size},{at}{more and f',{at}'},{score:.6f}")
    return "\n".join(lines) + "\n"


NAMED = Known(workload="mine")
LOSS = Known(target=2.0, scores=Asked(metric="loss"), workload="mine")


@pytest.fixture
def written(tmp_path):
    def write(runs, speeds=None, known=NAMED, name="out"):
        convergence = tmp_path / ("runs.json" if runs.startswith("{") else "runs.csv")
        convergence.write_text(runs)
        if speeds:
            (tmp_path / "speeds.csv").write_text(speeds)
        return write_folders([convergence], tmp_path / "speeds.csv" if speeds else None, tmp_path / name, known)

    return write


def sweep_of(folders, machine=None):
    return Sweep.of(frames.load(folders[machine] if machine else next(iter(folders.values()))))


def by_size(summary):
    return {cell.batch_size: cell for cell in summary.cells}


@pytest.mark.parametrize("runs", [NEEDS, POINTS], ids=["needs", "points of MLPerf"])
def test_epochs_and_seconds_per_epoch_join_without_the_size_of_an_epoch(written, runs):
    folders = written(runs, SPEEDS)
    summary = summarize(sweep_of(folders, "one"))
    cells = by_size(summary)
    for size, seconds in BY_HAND.items():
        assert cells[size].status == "ok"
        assert cells[size].time_to_target.median == pytest.approx(seconds)
        assert cells[size].epochs_to_target.median == np.median(EPOCHS[size])
        assert cells[size].seconds_per_epoch == pytest.approx(SECONDS_PER_EPOCH[size])
        assert cells[size].steps_to_target.median is None
        assert cells[size].steps_to_target.interval == (None, None)
        assert (cells[size].seconds_per_step, cells[size].examples_per_second, cells[size].regime) == (None,) * 3
    assert (summary.time_optimal.batch_size, summary.time_optimal.tied) == (64, [64, 256])
    assert summary.critical_batch_size is None
    assert summary.critical_batch_size_reason == summary.steps_reason
    assert summary.epochs_reason is None
    assert summary.throughput_optimal is None
    for line in (folders["one"] / "convergence.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert (row["train_examples"], row["steps"]) == (None, None)
        assert set(row["curve"]) == {"epochs", "scores"}


def test_the_size_of_an_epoch_changes_no_time_and_no_tie(written):
    unknown = summarize(sweep_of(written(NEEDS, SPEEDS), "one"))
    known = summarize(sweep_of(written(NEEDS, SPEEDS, Known(train_examples=2**20, workload="mine"), "known"), "one"))
    assert known.steps_reason is None
    assert known.time_optimal.tied == unknown.time_optimal.tied
    ours, theirs = unknown.time_optimal.recommended, known.time_optimal.recommended
    # A bound is a quantile of random draws, whose directions turn with the last digit of a covariance.
    assert (ours.batch_size, ours.bound) == (theirs.batch_size, pytest.approx(theirs.bound, abs=0.01))
    for size, cell in by_size(unknown).items():
        other = by_size(known)[size].time_to_target
        assert cell.time_to_target.median == pytest.approx(other.median)
        assert cell.time_to_target.interval == pytest.approx(other.interval, rel=1e-5)


def test_a_clock_alone_gives_the_time_that_is_read_from_it(written):
    sweep = sweep_of(written(clocked(), known=LOSS))
    summary = summarize(sweep, within=60.0)
    for size, seconds in TYPICAL.items():
        cell = by_size(summary)[size]
        assert cell.time_to_target.median == pytest.approx(seconds, rel=1e-3)
        absent = [cell.steps_to_target, cell.epochs_to_target]
        assert [one.median for one in absent] == [None, None]
        assert (cell.seconds_per_step, cell.seconds_per_epoch, cell.first_evaluation_epochs) == (None,) * 3
    assert summary.time_optimal.batch_size == 64
    assert summary.throughput_optimal_reason == "no batch size has timed rounds"
    assert summary.score_optimal.budget == "2.00 min by the runs' own clocks"
    assert summary.within.scores[64] == pytest.approx(2.0 * (20 / 60) ** 0.5, rel=0.1)
    assert [one.verdict for one in summary.verdicts if one.claim in (3, 9)] == ["undecided"] * 2


def test_a_clock_that_ticks_once_a_step_gives_the_times_of_steps_of_one_second(written):
    alone = summarize(sweep_of(written(clocked(), known=LOSS)))
    with_steps = summarize(sweep_of(written(clocked("step", more="seconds"), known=LOSS, name="steps")))
    assert with_steps.steps_reason is None
    assert alone.time_optimal.tied == with_steps.time_optimal.tied
    for size, cell in by_size(alone).items():
        assert cell.time_to_target.median == pytest.approx(by_size(with_steps)[size].time_to_target.median)


def test_words_name_what_was_counted_and_nothing_that_was_not(written):
    sweep = sweep_of(written(NEEDS, SPEEDS), "one")
    summary = summarize(sweep)
    (notice,) = answer.notices(summary)
    assert (
        notice
        == "Steps are not known: the files count training in epochs, and the examples in an epoch were not given."
    )
    assert (
        explain.explain(summary)
        .lines[0]
        .startswith("Batch size 64 needs 4.00 epochs to the target, at 8.00 s an epoch")
    )
    assert "256 at 4.57 s an epoch or less would be faster" in " ".join(explain.explain(summary).lines)
    assert "epochs to the target times seconds per epoch" in " ".join(method.paragraphs(sweep, summary))
    titles = [column.name for column in tables.batch_size_table(summary).columns]
    assert "Epoch" in titles
    assert not {"Step", "Examples/s", "Regime"} & set(titles)
    assert "seconds_per_epoch" in tables.flat(summary)[0]
    speed = next(one.numbers for one in summary.verdicts if one.claim == 2)
    assert speed == "20.0 s an epoch at batch size 16, 4.20 s at 1,024; the least is 4.20 s at 1,024."


def test_words_say_that_a_clock_includes_whatever_it_timed(written):
    sweep = sweep_of(written(clocked(), known=LOSS))
    summary = summarize(sweep)
    assert answer.notices(summary)[0] == CLOCK == answer.clock(summary)
    assert captions.origin(sweep.frames, summary).endswith("times by the runs' own clocks")
    lines = explain.explain(summary).lines
    assert lines[0] == "Batch size 64 needs 20.0 s to a validation loss of 2, the least of 3 batch sizes."
    assert lines[1] == "Against 16: 0.333 times the time."
    assert CLOCK in lines
    paragraphs = " ".join(method.paragraphs(sweep, summary))
    assert "the logarithm of the amount of training" in paragraphs
    assert "timed rounds" not in paragraphs
    titles = {column.name for column in tables.batch_size_table(summary).columns}
    assert not {"Step", "Epoch", "Examples/s", "Epochs to target", "First seen there", "Regime"} & titles
    assert "--throughput" not in report.reproduce(sweep.frames, summary)


def test_steps_take_the_place_of_epochs_that_are_not_known(written):
    runs = clocked("step", more="seconds")
    for examples, needs, other in ((None, "Steps", "Epochs"), (3200, "Epochs", "Steps")):
        known = msgspec.structs.replace(LOSS, train_examples=examples)
        table = tables.batch_size_table(summarize(sweep_of(written(runs, known=known))))
        titles = {column.name for column in table.columns}
        assert (f"{needs} to target" in titles, f"{other} to target" in titles) == (True, False)
        assert ("First seen there" in titles) == (needs == "Epochs")
        assert table.caption.startswith(f"{needs} and time after which")
        (at,) = tables.places(table, [f"{needs} to target"])
        of_64 = next(row for row in table.rows if row.anchor == "64")
        assert of_64.entries[at].value == pytest.approx(20 if needs == "Steps" else 20 * 64 / 3200, rel=1e-3)


def test_a_batch_size_alone_shows_no_scaling_of_steps(written):
    runs = [one for one in clocked("step", more="seconds").splitlines() if one.startswith(("run", "b64"))]
    summary = summarize(sweep_of(written("\n".join(runs), known=LOSS)))
    assert {cell.regime for cell in summary.cells} == {None}
    assert "the only batch size with a time" in explain.explain(summary).lines[0]


def test_speeds_of_other_batch_sizes_leave_the_curves_undrawn(written):
    folder = written(clocked("step"), "batch_size,seconds_per_step\n17,1\n", LOSS)["imported"]
    sweep = sweep_of({"one": folder})
    with pytest.raises(NothingToDrawError, match=r"epochs are not known: .* no batch size with curves was timed"):
        training.learning_curves(sweep, summarize(sweep))


REFUSED = {
    "seconds_per_step": (
        NEEDS,
        "seconds_per_step",
        r"seconds_per_step: the runs count epochs .* seconds_per_epoch, or",
    ),
    "examples_per_second": (NEEDS, "examples_per_second", r"examples_per_second: the runs count epochs"),
    "a clock and a table": (
        clocked(),
        "seconds_per_epoch",
        r"the seconds of their own clocks, expected runs that count",
    ),
    "before any training": (clocked() + "x,8,0,1\nx,8,9,1\n", None, "run x: 1 before any training, expected a target"),
    "two units": (clocked() + "x,8,,1\n", None, r"run x: seconds: empty next to a score, expected the clock at every"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_join_is_refused_in_one_line(written, tmp_path, name):
    runs, unit, reason = REFUSED[name]
    speeds = f"batch_size,{unit}\n16,1\n" if unit else None
    with pytest.raises(InputError, match=reason) as error:
        written(runs, speeds, LOSS if "val_loss" in runs else Known())
    assert str(error.value).isprintable()
    assert not (tmp_path / "out").exists()


def test_files_that_count_in_different_units_are_not_mixed(tmp_path):
    found = {"epoch": "a", "step": "b", "seconds": "c"}
    for unit, run in found.items():
        (tmp_path / f"{unit}.csv").write_text(f"run,batch_size,{unit},val_loss\n{run},16,10,3\n{run},16,20,1\n")
    (tmp_path / "final.csv").write_text("run,batch_size,val_loss\nd,16,1\n")
    for other in ("step", "seconds", "final"):
        files = [tmp_path / "epoch.csv", tmp_path / f"{other}.csv"]
        with pytest.raises(InputError, match=r"run .: .*, where .*epoch\.csv: run a has epochs, expected one unit"):
            write_folders(files, None, tmp_path / "out", LOSS)


def test_speeds_of_another_machine_join_by_the_epoch_alone(written, tmp_path):
    folders = written(NEEDS, SPEEDS)
    (tmp_path / "faster.csv").write_text("batch_size,seconds_per_epoch\n16,2\n64,6\n256,6\n1024,6\n")
    (found,) = predict(folders["one"], tmp_path / "faster.csv").values()
    assert (found.time_optimal.batch_size, found.time_optimal.seconds) == (16, pytest.approx(3 * 2))
    (tmp_path / "steps.csv").write_text("batch_size,seconds_per_step\n16,2\n")
    with pytest.raises(InputError, match="the runs count epochs of unknown size"):
        predict(folders["one"], tmp_path / "steps.csv")
    (twice,) = predict(folders["one"], folders["two"]).values()
    assert twice.time_optimal.seconds == pytest.approx(2 * BY_HAND[64])
    with pytest.raises(InputError, match="no timed rounds of steps"):
        export(folders["one"], "pytest-benchmark")


def test_folders_are_compared_by_their_times_and_the_kind_of_time_is_named(written):
    folders = written(NEEDS, SPEEDS)
    found = compare([folders["one"], folders["two"]])
    ratios = found.against[0].ratios
    assert {(one.quantity, one.outcome) for one in ratios} == {("time_to_target", "slower")}
    assert [one.value for one in ratios] == pytest.approx([2.0] * 4)
    clock, steps = (
        next(iter(folders.values()))
        for folders in (
            written(clocked(), known=LOSS, name="clock"),
            written(clocked("step", more="seconds"), known=LOSS, name="steps"),
        )
    )
    kinds = "time to the target: by the runs' own clocks against its steps times seconds per step"
    assert kinds in compare([clock, steps]).differences


def test_rows_that_contradict_each_other_are_refused():
    truth = simulated_folder.Truth()
    experiment, machine = simulated_folder.experiment(truth), simulated_folder.machine_file()
    rows = simulated_folder.rows(truth)
    trial = next(row for row in rows if isinstance(row, Trial))
    other = msgspec.structs.replace(trial, seed=10**6, curve=Curve(epochs=[1.0, 2.0], scores={"accuracy": [0.1, 0.2]}))
    with pytest.raises(InputError, match="counted in examples and in epochs in one folder, expected one unit"):
        frames.from_rows(experiment, machine, [trial, other])
    timed = next(row for row in rows if isinstance(row, Round))
    own = {name: getattr(timed, name) for name in TimedEpoch.__struct_fields__}
    with pytest.raises(InputError, match="1 of steps and 1 of epochs in one folder, expected one kind"):
        frames.from_rows(experiment, machine, [timed, TimedEpoch(**own)])
    with pytest.raises(ValueError, match="training counted in examples and in steps and in epochs"):
        Curve(examples=[1], steps=[1], epochs=[1.0], scores={"accuracy": [0.5]})
    with pytest.raises(ValueError, match=r"lists of different lengths: 2 seconds, 1 scores\.accuracy"):
        Curve(seconds=[1.0, 2.0], scores={"accuracy": [0.5]})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runs", "speeds", "drawn"),
    [
        (NEEDS, SPEEDS_OF_ONE, {"time", "epochs"}),
        (clocked(), None, {"time", "learning_curves", "best_score", "time_budgets"}),
    ],
    ids=["epochs", "clock"],
)
def test_the_page_draws_what_is_known_and_gives_the_reason_for_the_rest(written, runs, speeds, drawn):
    (folder,) = written(runs, speeds, LOSS if speeds is None else NAMED).values()
    summary = report.write_report(folder)
    files = {path.stem.removesuffix("_to_target") for path in (folder / "figures").glob("*.png")}
    assert files == drawn
    page = (folder / report.NAME).read_text()
    assert f"Steps to the target: {summary.steps_reason}." in re.sub(r"<[^>]*>", "", html.unescape(page))
    assert (CLOCK in html.unescape(page)) == (speeds is None)
    for name in ("trials.csv", "rounds.csv", "cells.csv"):
        assert "nan" not in (folder / name).read_text().lower()
