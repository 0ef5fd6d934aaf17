from __future__ import annotations

import json
import os

import numpy as np
import pytest
import simulated_folder
from batchscale.analysis.compare.compare import compare
from batchscale.analysis.exchange.analyze import Known, write_folders, write_together
from batchscale.analysis.exchange.predict import predict
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.outside.tables import read_needs, read_timings
from batchscale.analysis.summary.build import summarize
from batchscale.errors import InputError
from hypothesis import given, settings
from hypothesis import strategies as st

NEEDS = "batch_size,seed,epochs_to_target\n16,0,2\n16,1,2.1\n64,0,2.2\n64,1,2.3\n256,0,4\n256,1,4.1\n1024,0,\n1024,1,\n"
SPEEDS = "batch_size,examples_per_second\n" + "".join(
    f"{size},{size / (1e-3 + 1e-5 * size) * factor:.6g}\n" for size in (16, 64, 256, 4096) for factor in (0.99, 1, 1.01)
)


@pytest.fixture
def tables(tmp_path):
    def write(needs=NEEDS, speeds=SPEEDS):
        (tmp_path / "c.csv").write_text(needs)
        (tmp_path / "t.csv").write_text(speeds)
        return (tmp_path / "c.csv",), tmp_path / "t.csv", tmp_path / "out"

    return write


def answer(paths, train_examples=10_000, target=0.95):
    known = Known(train_examples=train_examples, target=target, tokens_per_example=50)
    folders = write_folders(*paths, known)
    return summarize(Sweep.of(frames.load(next(iter(folders.values())))))


def by_size(found):
    return {cell.batch_size: cell for cell in found.cells}


def test_tables_are_joined_like_measurements(tables):
    found = answer(tables())
    cells = by_size(found)
    assert found.time_optimal.batch_size == 256
    assert cells[256].time_to_target.median == pytest.approx(4.05 * 10_000 / 256 * (1e-3 + 1e-5 * 256), rel=1e-3)
    assert cells[16].epochs_to_target.median == pytest.approx(2.05)
    assert cells[1024].status == "not_reached"
    assert cells[4096].status == "not_measured"
    assert cells[4096].examples_per_second is not None
    assert found.throughput_optimal.batch_size == 4096


def test_speeds_of_other_batch_sizes_are_named_with_those_that_reached_the_target(tables):
    found = answer(tables("batch_size,seed,epochs_to_target\n8,0,2\n32,0,3\n"))
    assert found.time_optimal_reason == (
        "no batch size that reached the target was timed: 8 and 32 reached it, 16, 64, 256 and 4096 had timed rounds"
    )


def test_every_batch_size_with_the_least_need_is_named(tables):
    needs = "batch_size,seed,epochs_to_target\n16,0,2\n64,0,2\n256,0,4\n"
    assert answer(tables(needs)).verdicts[2].numbers.endswith("(95%: unknown); 16, 64 needed the fewest.")


def test_nothing_is_invented(tables, tmp_path):
    found = answer(tables("batch_size,seed,steps_to_target\n16,0,900\n64,0,300\n"), train_examples=None, target=None)
    assert found.goal is None
    assert found.train_examples is None
    assert found.score_optimal is None
    assert found.score_optimal_by_steps is None
    for cell in found.cells:
        assert cell.epochs_to_target.median is None
        assert cell.best_learning_rate is None
        assert cell.best_score.median is None
        assert cell.joules_to_target is None
        assert cell.loop is None
    assert found.time_optimal is not None
    for line in (tmp_path / "out" / "convergence.jsonl").read_text().splitlines():
        assert json.loads(line)["learning_rate"] is None


def test_units_agree(tables):
    size, epochs, train_examples = 64, 2.5, 6400
    per_unit = {"epochs_to_target": epochs, "steps_to_target": 250, "examples_to_target": 16_000}
    speeds = {
        "examples_per_second": 3200,
        "tokens_per_second": 160_000,
        "seconds_per_step": 0.02,
        "seconds_per_epoch": 2,
    }
    answers = [
        by_size(
            answer(
                tables(f"batch_size,seed,{unit}\n{size},0,{need}\n", f"batch_size,{speed}\n{size},{value}\n"),
                train_examples,
            )
        )[size].time_to_target.median
        for unit, need in per_unit.items()
        for speed, value in speeds.items()
    ]
    np.testing.assert_allclose(answers, 5.0)


def test_equal_timings_are_rounds_of_their_own(tables):
    found = answer(tables(speeds="batch_size,seconds_per_step\n" + "16,0.012\n64,0.02\n64,0.02\n64,0.03\n" * 2))
    cells = by_size(found)
    assert cells[16].seconds_per_step == pytest.approx(0.012)
    assert cells[64].seconds_per_step == pytest.approx(0.02), "the median of six rounds, not of two values"
    assert found.time_optimal is not None


def test_several_machines_get_an_answer_each(tables):
    lines = ["batch_size,seconds_per_step,machine,watts"]
    for machine, fixed, watts in (("Fast GPU", 1e-2, 300), ("slow cpu", 1e-6, 50)):
        lines += [f"{size},{fixed + 1e-4 * size},{machine},{watts}" for size in (16, 64, 256)]
    paths = tables(speeds="\n".join(lines) + "\n")
    folders = write_folders(*paths, Known(train_examples=10_000))
    write_together(paths[2], {name: summarize(Sweep.of(frames.load(folder))) for name, folder in folders.items()})
    found = json.loads((paths[2] / "summary.json").read_text())["machines"]
    assert set(found) == set(folders) == {"Fast GPU", "slow cpu"}
    assert found["Fast GPU"]["time_optimal"]["batch_size"] == 256
    assert found["slow cpu"]["time_optimal"]["batch_size"] == 16
    energy = found["slow cpu"]["energy_optimal"]
    assert {"batch_size", "joules", "interval", "tied", "at_edge"} <= set(energy)
    assert energy["joules"] == pytest.approx(50 * found["slow cpu"]["time_optimal"]["seconds"])


PUBLISHED = {
    5000: (1.0, None, None),
    2000: (1.068, None, None),
    1000: (1.16, 135, 2.12),
    500: (1.38, 78, 1.48),
    256: (1.75, 41, 1.0),
    100: (3.016, 45, 1.874),
    50: (5.027, 24, 1.7),
    20: (8.513, 9, 1.082),
    10: (13.773, 9, 1.729),
    5: (24.055, None, None),
    2: (None, None, None),
    1: (None, None, None),
}
"""By batch size, the relative time of 200 epochs, the epochs to 99% and the relative time to 99%.

LeNet on MNIST by Cheng Yin, 2015 (zhuanlan.zhihu.com/p/32673260).
"""


def test_a_published_table_gets_a_sane_answer(tables):
    needs = "".join(f"{size},0,{epochs or ''}\n" for size, (_, epochs, _) in PUBLISHED.items())
    speeds = "".join(f"{size},{seconds}\n" for size, (seconds, _, _) in PUBLISHED.items() if seconds)
    found = answer(
        tables("batch_size,seed,epochs_to_target\n" + needs, "batch_size,seconds_per_epoch\n" + speeds), 50_000, 0.99
    )
    cells = by_size(found)
    assert found.time_optimal.batch_size == 256
    for size, (_, _, ratio) in PUBLISHED.items():
        if ratio:
            assert cells[size].time_to_target.median / found.time_optimal.seconds == pytest.approx(ratio, rel=0.04)
    assert {20, 256} <= set(found.time_optimal.tied), "single runs cannot tell 7% apart"


def test_rates_of_a_table_are_chosen_among(tables):
    needs = "batch_size,seed,epochs_to_target,learning_rate\n16,0,5,0.1\n16,0,3,0.2\n16,0,4,0.4\n"
    found = answer(tables(needs))
    cell = by_size(found)[16]
    assert cell.best_learning_rate == 0.2
    assert cell.epochs_to_target.median == pytest.approx(3)
    assert found.claims_on == "search"


WRONG_NEEDS = {
    "batch_size,seed\n1,1\n": (1, "epochs_to_target", "missing column"),
    "seed,epochs_to_target\n1,1\n": (1, "batch_size", "missing column"),
    "batch_size,seed,epochs_to_target,steps_to_target\n1,1,1,1\n": (1, "steps_to_target", "second unit"),
    "batch_size,seed,epochs_to_target,colour\n1,1,1,1\n": (1, "colour", "unknown column"),
    "batch_size,seed,seed,epochs_to_target\n1,1,1,1\n": (1, "seed", "given twice"),
    "batch_size,seed,epochs_to_target\n16,0,-2\n": (2, "epochs_to_target", "negative"),
    "batch_size,seed,epochs_to_target\n16,0,0\n": (2, "epochs_to_target", "out of range"),
    "batch_size,seed,epochs_to_target\n16,0,two\n": (2, "epochs_to_target", "not a plain number"),
    "batch_size,seed,epochs_to_target\n16,0,3 epochs\n": (2, "epochs_to_target", "not a plain number"),
    "batch_size,seed,epochs_to_target\n16,0,nan\n": (2, "epochs_to_target", "not a plain number"),
    "batch_size,seed,epochs_to_target\n16,0,inf\n": (
        2,
        "epochs_to_target",
        "leave the field empty for a run that missed",
    ),
    "batch_size,seed,epochs_to_target\n16,0,1_000\n": (2, "epochs_to_target", "not a plain number"),
    "batch_size,seed,epochs_to_target\n16,0,1e300\n": (2, "epochs_to_target", "out of range"),
    "batch_size,seed,epochs_to_target,learning_rate\n16,0,2,2e9\n": (2, "learning_rate", "expected 1e-12 to 1e+09"),
    "batch_size,seed,epochs_to_target\n16.5,0,2\n": (2, "batch_size", "not a whole number"),
    "batch_size,seed,epochs_to_target\n0,0,2\n": (2, "batch_size", "not a whole number"),
    "batch_size,seed,epochs_to_target\n16,x,2\n": (2, "seed", "not a whole number"),
    "batch_size,seed,epochs_to_target\n16,0,2\n16,0,3\n": (3, "seed", "second row"),
    "batch_size,seed,epochs_to_target\n16,0\n": (2, "epochs_to_target", "2 fields"),
    "batch_size,seed,epochs_to_target\n16,0,2,9\n": (2, "epochs_to_target", "4 fields"),
    "batch_size,seed,epochs_to_target\n": (2, "batch_size", "no rows"),
    "": (1, "batch_size", "missing column"),
}
WRONG_SPEEDS = {
    "batch_size,examples_per_second\n16,0.0\n": (
        2,
        "examples_per_second",
        "leave the field empty",
    ),
    "batch_size,examples_per_second\n16,-1\n": (2, "examples_per_second", "negative"),
    "batch_size,examples_per_second,seconds_per_step\n16,5,1\n": (1, "seconds_per_step", "second unit"),
    "batch_size,examples_per_second,machine\n16,5,\n": (2, "machine", "not a name"),
    "batch_size,examples_per_second,machine\n16,5,\x1b[31m\n": (2, "machine", "not a name"),
    "batch_size,examples_per_second,watts\n16,5,hot\n": (2, "watts", "not a plain number"),
}


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [("c.csv", text, where) for text, where in WRONG_NEEDS.items()]
    + [("t.csv", text, where) for text, where in WRONG_SPEEDS.items()],
)
def test_a_wrong_table_is_one_line_naming_file_row_and_column(tables, name, text, where):
    paths = tables(**{"needs" if name == "c.csv" else "speeds": text})
    row, column, said = where
    with pytest.raises(InputError) as error:
        write_folders(*paths, Known(train_examples=100))
    message = str(error.value)
    assert f"{name}: row {row}: {column}: " in message
    assert said in message
    assert message.isprintable()
    assert not paths[2].exists()


def test_conversions_ask_for_the_training_set(tables):
    with pytest.raises(InputError, match=r"t\.csv.*examples_per_second.*epochs.*--train-examples"):
        write_folders(*tables())
    paths = tables("batch_size,seed,steps_to_target\n16,0,9\n", "batch_size,seconds_per_epoch\n16,1\n")
    with pytest.raises(InputError, match=r"t\.csv.*seconds_per_epoch.*--train-examples"):
        write_folders(*paths)


@pytest.mark.parametrize("options", [{"target": 99}, {"target": 0}, {"evaluated_every": 0}])
def test_wrong_options_are_refused(tables, options):
    with pytest.raises(InputError, match="--"):
        write_folders(*tables(), Known(**{"train_examples": 10, **options}))


def test_machines_that_would_share_a_folder_are_refused(tables):
    with pytest.raises(InputError, match="machine"):
        write_folders(
            *tables(speeds="batch_size,seconds_per_step,machine\n16,1,A b\n16,1,a-B\n"), Known(train_examples=10)
        )


def test_measurements_are_never_overwritten(tables):
    paths = tables()
    simulated_folder.write(paths[2], batch_sizes=(16,))
    before = (paths[2] / "convergence.jsonl").read_bytes()
    with pytest.raises(InputError, match="not made from tables"):
        write_folders(*paths, Known(train_examples=100))
    assert (paths[2] / "convergence.jsonl").read_bytes() == before


def test_analysing_again_replaces_what_tables_said(tables):
    answer(tables())
    again = answer(tables("batch_size,seed,epochs_to_target\n16,0,2\n"))
    assert by_size(again)[256].status == "not_measured"


@pytest.mark.parametrize("read", [read_needs, read_timings])
@pytest.mark.parametrize("make", [lambda path: path.mkdir(), os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_table_that_is_no_file_is_refused_and_never_waited_for(tmp_path, read, make):
    make(tmp_path / "t.csv")
    with pytest.raises(InputError, match=r"t\.csv: cannot be read \(not a regular file\)"):
        read(tmp_path / "t.csv")


@pytest.mark.parametrize("read", [read_needs, read_timings])
@settings(max_examples=80, deadline=None)
@given(data=st.one_of(st.binary(max_size=200), st.text("batch_size,seed\n0123456789.-\"'\x00é", max_size=200)))
def test_no_bytes_make_anything_but_rows_or_an_input_error(tmp_path_factory, read, data):
    path = tmp_path_factory.mktemp("tables") / "any.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    refused = ""
    try:
        read(path)
    except InputError as error:
        refused = str(error)
    assert refused.isprintable()


def test_a_need_in_whole_epochs_was_observed_to_an_epoch(tables):
    needs = "batch_size,seed,epochs_to_target\n" + "".join(
        f"{size},{seed},4\n" for size in (16, 64) for seed in range(5)
    )
    found = answer(tables(needs, "batch_size,seconds_per_step\n16,0.002\n64,0.0085\n"))
    assert set(found.time_optimal.tied) == {16, 64}, "6 % apart, but an epoch of four is 25 %"
    low, high = by_size(found)[64].epochs_to_target.interval
    assert low < 3.3
    assert 3.9 < high < 4.3


def test_the_interval_between_evaluations_may_be_given(tables):
    needs = "batch_size,seed,epochs_to_target\n16,0,4\n16,1,4\n64,0,5\n64,1,5\n"
    folders = write_folders(*tables(needs), Known(train_examples=10_000, evaluated_every=2))
    crossed = Sweep.of(frames.load(folders["imported"])).crossed
    assert sorted(set(crossed["previous_examples"])) == [20_000, 30_000]


def test_the_common_step_of_three_needs_is_their_evaluation_interval(tables):
    needs = "batch_size,seed,steps_to_target\n16,0,300\n16,1,400\n16,2,700\n64,0,70\n64,1,70\n"
    (folder,) = write_folders(*tables(needs), Known()).values()
    rows = frames.load(folder).trials
    found = dict(zip(rows["examples_to_target"], rows["previous_examples"], strict=True))
    assert found == {300 * 16: 200 * 16, 400 * 16: 300 * 16, 700 * 16: 600 * 16, 70 * 64: 69 * 64}


def test_a_need_beyond_every_range_is_refused(tables):
    paths = tables("batch_size,seed,epochs_to_target\n16,0,1e12\n")
    with pytest.raises(InputError, match=r"c\.csv: epochs_to_target: 1e\+12 at .*: 1e\+18 examples"):
        write_folders(*paths, Known(train_examples=10**6))


def test_a_batch_size_that_did_not_fit_is_a_row(tables):
    needs = "batch_size,seed,epochs_to_target\n" + "".join(f"{size},{seed},2\n" for size in (16, 64) for seed in (0, 1))
    found = answer(tables(needs, "batch_size,examples_per_second\n16,1000\n64,4000\n256,OOM\n1024,\n"))
    cells = by_size(found)
    assert cells[256].status == cells[1024].status == "out_of_memory"
    assert found.time_optimal.batch_size == 64
    assert not found.time_optimal.at_edge, "the sweep ends where memory does"


@pytest.mark.parametrize("sizes", [(16, 64, 256, 1024), (16, 64, 256, 1024, 4096)])
def test_the_exponent_of_the_rate_knows_the_grid_of_the_table(tables, sizes):
    rates = (0.001, 0.01, 0.1, 1, 10)
    needs = "batch_size,seed,learning_rate,epochs_to_target\n" + "".join(
        f"{size},0,{rate},{2 + abs(np.log10(rate) + 1):g}\n" for size in sizes for rate in rates
    )
    found = answer(tables(needs, "batch_size,seconds_per_step\n16,0.1\n"))
    assert found.learning_rates.overall.value == pytest.approx(0, abs=0.05)
    assert found.learning_rates.overall.interval[1] > 0.4, "the rates are a decade apart"
    assert found.learning_rates.rule == "undecided"


@pytest.mark.parametrize("name", ["trials.csv", "rounds.csv", "notes.txt"])
def test_nothing_of_the_user_is_overwritten_or_removed(tables, name):
    paths = tables()
    paths[2].mkdir()
    mine = paths[2] / name
    mine.write_text("mine")
    with pytest.raises(InputError, match=f"--out: holds {name}, which was not made from tables"):
        write_folders(*paths, Known(train_examples=100))
    assert [*paths[2].iterdir()] == [mine]
    assert mine.read_text() == "mine"


def test_an_input_in_the_folder_of_the_answer_is_refused(tables):
    needs, speeds, out = tables()
    write_folders(needs, speeds, out, Known(train_examples=100))
    inside = out / "rounds.csv"
    inside.write_text(SPEEDS)
    with pytest.raises(InputError, match=r"rounds\.csv: is in the folder --out"):
        write_folders(needs, inside, out, Known(train_examples=100))
    assert inside.read_text() == SPEEDS


def test_no_answer_of_an_earlier_call_stays(tables):
    one = "batch_size,seconds_per_step\n16,1\n"
    two = "batch_size,seconds_per_step,machine\n16,1,fast\n16,2,slow\n"
    needs, speeds, out = tables(speeds=one)
    write_folders(needs, speeds, out, Known(train_examples=100), price_per_hour=2)
    (out / "figures").mkdir()
    (out / "report.html").write_text("old")
    speeds.write_text(two)
    write_folders(needs, speeds, out, Known(train_examples=100))
    assert sorted(path.name for path in out.iterdir()) == ["fast", "slow"]
    speeds.write_text(one)
    write_folders(needs, speeds, out, Known(train_examples=100))
    assert not (out / "fast").exists()
    assert not (out / "price.json").exists()


def test_more_batch_sizes_than_an_experiment_holds_name_their_table(tables):
    speeds = "batch_size,seconds_per_step\n" + "".join(f"{size},1\n" for size in range(1, 101))
    with pytest.raises(InputError, match=r"t\.csv: batch_size: 100 different sizes, expected at most 64"):
        write_folders(*tables(speeds=speeds), Known(train_examples=100))


@pytest.mark.parametrize("workload", ["", "No Blanks", "x" * 41, "../up"])
def test_a_strange_name_of_a_workload_is_refused(tables, workload):
    with pytest.raises(InputError, match=r"--workload: .* expected a lower-case letter"):
        write_folders(*tables(), Known(train_examples=100, workload=workload))


def test_folders_of_unnamed_workloads_are_neither_compared_nor_joined(tables, tmp_path):
    needs, speeds, _ = tables()
    for name, workload in (("a", None), ("b", None), ("c", "mine"), ("d", "mine")):
        write_folders(needs, speeds, tmp_path / name, Known(train_examples=100, workload=workload))
    with pytest.raises(InputError, match=r"a: made from tables of an unnamed workload, expected analyze --workload"):
        compare([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(InputError, match="unnamed workload"):
        predict(tmp_path / "a", tmp_path / "b")
    assert predict(tmp_path / "c", tmp_path / "d")
