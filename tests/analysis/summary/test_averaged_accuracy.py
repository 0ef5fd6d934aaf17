"""Averaged parameters as they are read: in the same budget, seed by seed, and nowhere where no average was kept."""

from __future__ import annotations

import csv
from dataclasses import replace

import msgspec
import pytest
import simulated_folder
from batchscale.analysis import figures
from batchscale.analysis.figures import choose, style
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics import observations
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.pages import report, tables
from batchscale.analysis.summary import build
from batchscale.analysis.text import captions, method
from batchscale.config.goal import Goal
from batchscale.records.row_types import Curve
from simulated_answers import answered, cell
from simulated_rows import change, made, trained

(PLOT,) = choose(["best_score"])
COLUMN = "Averaged parameters"
SMALL = {"batch_sizes": (16, 64, 256), "confirm_seeds": 3}


@pytest.fixture(scope="module")
def without():
    """The summary of runs that kept no averages."""
    return answered()


def drawn(measured, summarized):
    """The figure's series by their names in the legend."""
    with style.applied():
        axes = PLOT.draw(Sweep.of(measured), summarized).axes[0]
    return {line.get_label(): line for line in axes.get_lines()}


@pytest.mark.parametrize(
    ("gain", "said"),
    [(0.0, "has no clear effect"), (0.004, "helps"), (-0.004, "hurts")],
)
def test_a_gain_of_every_seed_is_found_however_much_seeds_differ(gain, said):
    found = answered(averaging_gain=gain, ceiling=0.97, ceiling_noise=0.006)
    for one in found.cells:
        assert one.best_averaged_score.median == pytest.approx(one.best_score.median + gain, abs=1e-12)
        low, high = one.best_score.interval
        assert high - low > 0.004
        assert one.averaged_score_gain.median == pytest.approx(gain, abs=1e-12)
        assert one.averaged_score_gain.interval == pytest.approx((gain, gain), abs=1e-5)
    best = found.score_optimal.batch_size
    told = captions.averaging(found)
    assert told.startswith(
        f"Averaging the parameters {said} at batch size {best}: {100 * gain:+.2f} percentage points ("
    )
    assert PLOT.alt_text(None, found).endswith(told)
    assert PLOT.remark(found) == told


def test_an_average_as_good_in_every_seed_is_as_good_in_the_median():
    for one in answered(averaging_gain=0.0).cells:
        assert one.best_averaged_score.median == one.best_score.median
        assert one.best_averaged_score.interval == one.best_score.interval


def test_averaging_changes_no_other_answer(without):
    with_averages = answered(averaging_gain=0.004)
    unmeasured = [change(one, best_averaged_score=None, averaged_score_gain=None) for one in with_averages.cells]
    assert change(with_averages, cells=unmeasured) == without


GOAL = Goal(metric="accuracy", threshold=0.95)


def test_averages_count_within_the_budget_alone_and_are_unknown_where_nothing_was_evaluated():
    late = Curve(
        examples=[16, 40_000, 40_016],
        steps=[1, 2500, 2501],
        accuracy=[0.5, 0.7, 0.9],
        loss=[None] * 3,
        ema_accuracy=[0.1, 0.75, 0.99],
    )
    runs = made([trained([], seed=1), change(trained(seed=2), curve=late), trained([0.8], seed=3)]).trials
    assert runs["best_averaged_score"].tolist() == pytest.approx([float("nan"), 0.75, float("nan")], nan_ok=True)
    assert sorted(observations.best_averaged_scores(GOAL, runs).high) == [-0.75]
    assert sorted(observations.averaged_score_gains(GOAL, runs).high) == pytest.approx([-0.05])
    assert made([trained([], seed=1), trained([0.8], seed=3)]).trials["best_averaged_score"].isna().all()


def test_a_summary_from_before_averages_stays_readable(without, tmp_path):
    old = msgspec.to_builtins(without)
    for one in old["cells"]:
        del one["best_averaged_score"], one["averaged_score_gain"]
    (tmp_path / "summary.json").write_bytes(msgspec.json.encode(old))
    assert build.read(tmp_path) == without


def test_averages_are_drawn_where_they_were_measured(measured, summarized):
    series = drawn(measured, summarized)["within 20 epochs, averaged parameters"]
    assert list(series.get_xdata()) == [one.batch_size for one in summarized.cells]
    errors = [100 - 100 * one.best_averaged_score.median for one in summarized.cells]
    assert list(series.get_ydata()) == pytest.approx(errors)


def test_averages_are_on_the_page_and_in_its_tables(reported, summarized):
    page = (reported / report.NAME).read_text(encoding="utf-8")
    assert f">{COLUMN}</th>" in page
    assert captions.averaging(summarized) in page
    assert "best_averaged_score" in (reported / "trials.csv").read_text().splitlines()[0]
    with (reported / "cells.csv").open(newline="") as file:
        for row, one in zip(csv.DictReader(file), summarized.cells, strict=True):
            told = [float(row[f"best_averaged_score{end}"]) for end in ("", "_low", "_high")]
            assert told == [one.best_averaged_score.median, *one.best_averaged_score.interval]
            assert float(row["averaged_score_gain"]) == one.averaged_score_gain.median


def of_counts(counts, seeds=2, examples=200):
    """Runs of which as many examples were classified as `counts` says by parameters and by their average."""
    rows = []
    for size, (own, averaged) in counts.items():
        shares = {"accuracy": [own / examples], "ema_accuracy": [averaged / examples]}
        curve = Curve(examples=[100 * size], steps=[100], loss=[1.0], **shares)
        rows += [
            change(trained(seed=seed), batch_size=size, curve=curve, validation_examples=examples)
            for seed in range(seeds)
        ]
    return answered(averaging_gain=0.002, rows=rows)


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_one_example_more_or_less_is_never_beyond_what_seeds_do(seeds):
    counts = {16: (180, 179), 32: (160, 159), 64: (150, 149), 128: (150, 149), 256: (140, 139)}
    found = of_counts(counts, seeds)
    best = cell(found, 16)
    assert found.score_optimal.batch_size == 16
    low, high = best.averaged_score_gain.interval
    assert best.averaged_score_gain.median == pytest.approx(-1 / 200)
    assert low < -1 / 200 < 0 < high
    low, high = best.best_score.interval
    assert low < 0.9 - 1 / 200
    assert high > 0.9 + 1 / 200
    said = captions.averaging(found)
    assert ("no clear effect" in said) == (seeds > 1)
    assert ("on one seed" in said) == (seeds == 1)


def test_without_averages_nothing_of_them_appears(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "PLOTS", (PLOT,))
    simulated_folder.write(tmp_path, batch_sizes=(16, 64, 256), confirm_seeds=3)
    found = report.write_report(tmp_path)
    page = (tmp_path / report.NAME).read_text(encoding="utf-8")
    assert captions.averaging(found) == ""
    for name in ("cells.csv", "trials.csv"):
        assert "averaged" not in (tmp_path / name).read_text().splitlines()[0]
    for said in (COLUMN, "averaged parameters", "Averaging", "moving average"):
        assert said not in page
    assert not [label for label in drawn(frames.load(tmp_path), found) if "averaged" in label]


def test_a_batch_size_without_an_average_is_left_blank_beside_one_with_it():
    rows = [
        change(row, curve=change(row.curve, averaged_scores={})) if getattr(row, "batch_size", 0) != 64 else row
        for row in simulated_folder.rows(simulated_folder.Truth(averaging_gain=0.002))
        if hasattr(row, "curve")
    ]
    found = answered(averaging_gain=0.002, rows=rows)
    assert {one.batch_size for one in found.cells if one.best_averaged_score} == {64}
    table = tables.batch_size_table(found)
    titles = [column.title for column in table.columns]
    texts = {row.anchor: row.entries[titles.index(COLUMN)].text for row in table.rows}
    assert {anchor for anchor, text in texts.items() if text != "—"} == {"64"}
    assert {len(row.entries) for row in table.rows} == {len(titles)}


@pytest.mark.parametrize(("epochs", "said"), [(1.0, "over 1 epoch was"), (0.25, "over 0.25 epochs was")])
def test_the_method_says_over_how_many_epochs_and_that_nothing_rests_on_it(measured, summarized, epochs, said):
    evaluation = change(measured.experiment.evaluation, averaging_epochs=epochs)
    kept = replace(measured, experiment=change(measured.experiment, evaluation=evaluation))
    told = " ".join(method.paragraphs(Sweep.of(kept), summarized))
    assert f"An exponential moving average of the parameters {said} evaluated too" in told
    assert "claims rest on the parameters themselves" in told


def test_the_only_seed_has_no_interval_and_no_verdict():
    found = answered(averaging_gain=0.004, confirm_seeds=1, batch_sizes=(16, 64))
    assert found.cells[0].averaged_score_gain.interval == (None, None)
    assert "+0.40 percentage points on one seed, which may be noise" in captions.averaging(found)
