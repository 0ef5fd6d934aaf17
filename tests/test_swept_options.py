"""Options swept beside the learning rate: each is compared at its own best rate, and the best is told everywhere."""

import numpy as np
import pytest
import simulate
from conftest import RICH

from bench.analysis import cell_table, figures, frames, summarize
from bench.analysis.columns import only, values
from bench.analysis.figures import options
from bench.analysis.figures.canvas import NothingToDrawError
from bench.analysis.figures.rates import searched_points

MOMENTUM = "momentum"


def test_a_value_is_worth_what_its_best_rate_makes_of_it(measured):
    best, points = options.at_best(searched_points(measured), MOMENTUM), searched_points(measured)
    assert len(best) == len(RICH.batch_sizes) * len(RICH.momenta)
    for size, value, epochs in zip(best["batch_size"], best["value"], best["epochs"], strict=True):
        own = only(points, (points["batch_size"] == size) & (points["options"] == ((MOMENTUM, value),)))
        assert len(own) == 5
        assert epochs == values(own, "epochs").min()
    slow, fast = (values(only(best, best["value"] == value), "epochs") for value in (0.5, 0.9))
    assert np.median(slow / fast) == pytest.approx(RICH.momenta[0.5], rel=0.15)


def test_the_best_value_is_told_in_summary_table_csv_and_beside_the_figure(measured, summarized):
    searched = [cell for cell in summarized.cells if cell.best_learning_rate is not None]
    assert len(searched) == len(RICH.batch_sizes)
    assert all(cell.best_options == RICH.best_options for cell in searched)
    (plot,) = figures.choose(["swept_options"])
    assert plot.finding(measured, summarized).startswith("Best momentum: 0.9 at 4, 8, ")
    column = [column.title for column in cell_table.COLUMNS].index("Learning rate")
    assert all("momentum 0.9" in line.cells[column].text for line in cell_table.table(summarized).rows)
    names, rows = cell_table.flat(summarized)
    assert {row[names.index("best_options")] for row in rows} == {"momentum 0.9"}
    assert {row[names.index("best_options_for_accuracy")] for row in rows} <= {"momentum 0.9", "momentum 0.5"}


def test_a_line_for_each_value_and_none_without_a_sweep(measured, summarized, tmp_path):
    figure = options.swept_options(measured, summarized)
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert labels == ["momentum 0.5", "momentum 0.9"]
    simulate.write(tmp_path, simulate.Truth())
    plain = frames.load(tmp_path)
    with pytest.raises(NothingToDrawError, match="no optimizer options were swept"):
        options.swept_options(plain, summarize.summarize(plain))


def test_a_value_that_never_reaches_the_target_has_no_line(tmp_path):
    simulate.write(tmp_path, simulate.Truth(momenta={0.0: 1e6, 0.9: 1.0}))
    found = frames.load(tmp_path)
    missed, reached = options.swept_options(found, summarize.summarize(found)).axes[0].lines
    assert np.isnan(missed.get_ydata()).all()
    assert np.isfinite(reached.get_ydata()).all()
