"""Figures: drawn where there are rows, readable, and honest about where they come from."""

from __future__ import annotations

import dataclasses
import itertools
import re

import matplotlib as mpl
import msgspec
import numpy as np
import pytest
import simulated_folder
from batchscale.analysis import figures
from batchscale.analysis.figures import drawing, style
from batchscale.analysis.figures.drawing import NothingToDrawError
from batchscale.analysis.figures.registry import PLOTS
from batchscale.analysis.frames import frames
from batchscale.analysis.frames.schema import COLUMNS, only
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.summary_types import Estimate
from batchscale.errors import InputError
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg

WIDTHS = (style.ONE_COLUMN_INCHES, style.TWO_COLUMNS_INCHES)


@pytest.fixture(scope="module")
def drawn(measured, summarized):
    found = {}
    for width in WIDTHS:
        with style.applied(width):
            for plot in PLOTS:
                figure = plot.draw(measured, summarized)
                FigureCanvasAgg(figure).draw()
                found[plot.name, width] = figure
    return found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_no_text_is_cut_off_or_overlaps(drawn, plot, width):
    figure = drawn[plot.name, width]
    renderer = FigureCanvasAgg(figure).get_renderer()
    page = figure.bbox.padded(1.5)
    assert len(figure.legends) == any(axes.get_legend_handles_labels()[1] for axes in figure.axes)
    texts = [figure._supxlabel, *(text for one in figure.legends for text in one.get_texts())]
    for axes in figure.axes:
        texts += [axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            boxes = [tick.label1.get_window_extent(renderer) for tick in ticks if tick.label1.get_visible()]
            assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    for text in texts:
        if text.get_text():
            box = text.get_window_extent(renderer)
            assert page.containsx(box.x0), text.get_text()
            assert page.containsx(box.x1), text.get_text()
            assert page.containsy(box.y0), text.get_text()
            assert page.containsy(box.y1), text.get_text()


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_every_figure_says_machine_workload_seeds_and_source(drawn, plot):
    foot = drawn[plot.name, style.TWO_COLUMNS_INCHES]._supxlabel.get_text().replace("\n", " ")
    seeds = "1 search seed" if plot.name in ("best_learning_rate", "rate_map", "searched_options") else "4 seeds"
    for said in ("simulated-cpu", "hyperbola on simulated", "momentum", seeds, "convergence measured here"):
        assert said in foot


def test_memory_shows_the_largest_that_fits_and_what_there_is(drawn, measured, summarized):
    axes = drawn["memory", style.TWO_COLUMNS_INCHES].axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    largest = summarized.max_batch_size
    assert lines["largest that fits: 3000"].get_ydata()[0] == largest.predicted_bytes / 2**20
    assert lines["memory that was free"].get_ydata()[0] == largest.memory_bytes / 2**20
    (plot,) = [plot for plot in PLOTS if plot.name == "memory"]
    assert "3000 is the largest that fits" in plot.finding(measured, summarized)


@pytest.mark.parametrize("name", ["throughput", "step_time"])
def test_batches_in_microbatches_are_drawn_apart(tmp_path, name):
    simulated_folder.write(tmp_path, batch_sizes=(16, 64, 256, 1024), out_of_memory=(1024,), microbatches=4)
    found = frames.load(tmp_path)
    with style.applied():
        (plot,) = [plot for plot in PLOTS if plot.name == name]
        axes = plot.draw(found, summarize(Sweep.of(found))).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["scan, in microbatches"].get_xdata()) == [1024]
    assert 1024 not in lines["scan: many steps per call"].get_xdata()
    assert axes.get_xlim()[1] > 1024


def test_a_perfect_accuracy_has_no_place_on_an_axis_of_errors(measured, summarized):
    (plot,) = [plot for plot in PLOTS if plot.name == "best_accuracy"]
    perfect = Estimate(median=1.0, interval=(1.0, 1.0))

    def all_with(**changes):
        cells = [msgspec.structs.replace(cell, **changes) for cell in summarized.cells]
        return msgspec.structs.replace(summarized, cells=cells)

    with style.applied():
        (axes,) = plot.draw(measured, all_with(best_accuracy=perfect)).axes
        labels = {line.get_label() for line in axes.get_lines()}
        assert f"within {summarized.accuracy_optimal_by_steps.budget}" in labels
        assert f"within {summarized.accuracy_optimal.budget}" not in labels
        with pytest.raises(NothingToDrawError, match="classified all validation examples correctly"):
            plot.draw(measured, all_with(best_accuracy=perfect, best_accuracy_by_steps=perfect))


def test_a_joined_figure_says_from_where(measured):
    joined = dataclasses.replace(measured, convergence_from="far-away-gpu")
    with style.applied():
        figure = PLOTS[0].draw(joined, summarize(Sweep.of(joined)))
    assert "convergence joined from far-away-gpu" in figure._supxlabel.get_text()


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_without_rows_there_is_a_reason_and_no_figure(measured, plot):
    empty = {name: only(getattr(measured, name), np.zeros(len(getattr(measured, name)), bool)) for name in COLUMNS}
    nothing = dataclasses.replace(measured, **empty, searched=(), train_examples=None)
    with style.applied(), pytest.raises(NothingToDrawError, match=r"\w+ \w+"):
        plot.draw(nothing, summarize(Sweep.of(nothing)))


def test_energy_is_never_invented(measured):
    unmetered = dataclasses.replace(measured, rounds=measured.rounds.assign(joules=np.nan))
    (energy,) = figures.choose(["energy"])
    with style.applied(), pytest.raises(NothingToDrawError, match="energy"):
        energy.draw(unmetered, summarize(Sweep.of(unmetered)))


def test_findings_name_the_optimum(measured, summarized):
    finding = PLOTS[0].finding(measured, summarized)
    assert finding.startswith(f"Batch size {summarized.time_optimal.batch_size}:")


def test_nothing_is_left_in_pyplot_or_in_the_settings(measured, summarized, tmp_path):
    before = dict(mpl.rcParams)
    figures.write_figures(measured, summarized, tmp_path, only=["time_to_target"], formats=["svg", "pdf"], width=3.3)
    assert pyplot.get_fignums() == []
    assert dict(mpl.rcParams) == before
    assert {path.name for path in tmp_path.iterdir()} == {"time_to_target.svg", "time_to_target.pdf"}


def test_the_same_rows_give_the_same_bytes(measured, summarized, tmp_path):
    written = [
        figures.write_figures(measured, summarized, tmp_path / name, only=["steps_to_target"], formats=["svg", "png"])
        for name in ("one", "two")
    ]
    assert [path.read_bytes() for path in written[0]] == [path.read_bytes() for path in written[1]]


def test_a_style_file_has_the_last_word(measured, summarized, tmp_path):
    chosen = tmp_path / "paper.mplstyle"
    chosen.write_text("font.size: 5\n")
    with style.applied(style=chosen):
        assert mpl.rcParams["font.size"] == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("font.size: 5\nfont.colour: red\n", "Bad key font.colour, line 2"),
        ("lines.linewidth: thick\n", "lines.linewidth: Could not convert 'thick' to float"),
        ("font.size 5\n", "Missing colon"),
        ("backend: nonsense\n", "backend"),
    ],
)
def test_a_wrong_style_file_is_one_line_that_names_it(tmp_path, caplog, text, said):
    chosen = tmp_path / "paper.mplstyle"
    chosen.write_text(text)
    with pytest.raises(InputError, match=re.escape(f"{chosen}: not a matplotlib style file (")) as caught:
        style.applied(style=chosen).__enter__()
    assert said in str(caught.value).replace("\\'", "'")
    assert "\n" not in str(caught.value)
    assert not caplog.records


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"only": ["nonsense\x1b[31m"]}, r"figure 'nonsense\\x1b\[31m' is none of time_to_target"),
        ({"formats": ["bmp"]}, "format 'bmp' is none of png, svg, pdf"),
        ({"width": 0.1}, "width: 0.1 inches is not within"),
        ({"width": float("nan")}, "width: nan"),
        ({"only": ["data_parallel"]}, "cannot be drawn, only one device"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(measured, summarized, tmp_path, options, said):
    alone = msgspec.structs.replace(summarized, data_parallel=[])
    with pytest.raises(InputError, match=said) as caught:
        figures.write_figures(measured, alone, tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_a_missing_style_file_is_named(measured, summarized, tmp_path):
    with pytest.raises(InputError, match=r"absent\.mplstyle"):
        figures.write_figures(measured, summarized, tmp_path, style_file=tmp_path / "absent.mplstyle")


@given(st.lists(st.integers(1, 2**20), min_size=1, max_size=40, unique=True), st.floats(1, 12))
def test_batch_size_labels_keep_the_first_and_never_crowd(sizes, width):
    ordered = sorted(sizes)
    kept = drawing.spaced(ordered, width)
    assert kept[0] == ordered[0]
    assert kept == sorted(set(kept) & set(ordered))
    inches_per_octave = width / (np.log2(ordered[-1] / ordered[0]) + 1)
    for left, right in itertools.pairwise(kept):
        room = np.log2(right / left) * inches_per_octave
        assert room >= len(str(right)) * drawing.LABEL_INCHES_PER_CHARACTER * 0.5


def test_powers_of_two_keep_an_even_stride():
    kept = drawing.spaced([2**power for power in range(13)], 2.6)
    assert len({right / left for left, right in itertools.pairwise(kept)}) == 1


def test_needs_that_only_rounding_tells_apart_make_a_level_frontier_and_no_warning(measured, summarized):
    cells = [cell for cell in summarized.cells if cell.batch_size in (32, 128)]
    steps = [Estimate(median=40.0, interval=(None, None)), Estimate(median=10.000000000000002, interval=(None, None))]
    level = [msgspec.structs.replace(cell, steps_to_target=need) for cell, need in zip(cells, steps, strict=True)]
    told = msgspec.structs.replace(summarized, cells=level, critical_batch_size=None)
    (plot,) = figures.choose(["frontier"])
    low, high = plot.draw(measured, told).axes[0].get_ylim()
    assert low < 1280 < high
