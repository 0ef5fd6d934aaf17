"""Figures: drawn where there are rows, readable, and marked with where they come from."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re

import matplotlib as mpl
import msgspec
import numpy as np
import pytest
import simulated_folder
from batchscale.analysis import figures
from batchscale.analysis.exchange.analyze import Known, write_folders
from batchscale.analysis.figures import PLOTS, drawing, style
from batchscale.analysis.figures.drawing import NothingToDrawError
from batchscale.analysis.figures.training import STRETCHES_PER_OCTAVE, gradient_noise_scale
from batchscale.analysis.frames import frames
from batchscale.analysis.frames.schema import COLUMNS, only
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.outside.runs import Asked
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.summary_types import Estimate
from batchscale.errors import InputError
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg

ONE_COLUMN_INCHES, TWO_COLUMNS_INCHES = 3.3, 6.9
WIDTHS = (ONE_COLUMN_INCHES, style.PAGE_INCHES, TWO_COLUMNS_INCHES)


@pytest.fixture(scope="module")
def drawn(sweep, summarized):
    found = {}
    # Labels name the target: one of three digits makes them long.
    summarized = msgspec.structs.replace(summarized, goal=summarized.goal.at(0.985))
    for width in WIDTHS:
        with style.applied(width):
            for plot in PLOTS:
                figure = plot.draw(sweep, summarized)
                FigureCanvasAgg(figure)
                figure.draw_without_rendering()
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
    foot = drawn[plot.name, style.PAGE_INCHES]._supxlabel.get_text().replace("\n", " ")
    seeds = "1 search seed" if plot.name in ("best_learning_rate", "rate_map", "searched_options") else "4 seeds"
    for words in ("simulated-cpu", "hyperbola on simulated", "momentum", seeds, "convergence measured here"):
        assert words in foot


def test_memory_shows_the_largest_that_fits_and_what_there_is(drawn, sweep, summarized):
    axes = drawn["memory", style.PAGE_INCHES].axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    largest = summarized.max_batch_size
    assert lines["largest that fits: 3000"].get_ydata()[0] == largest.predicted_bytes / 2**20
    assert lines["free memory"].get_ydata()[0] == largest.memory_bytes / 2**20
    (plot,) = [plot for plot in PLOTS if plot.name == "memory"]
    assert "3000 is the largest that fits" in plot.alt_text(sweep, summarized)


@pytest.mark.parametrize("name", ["throughput", "step_time"])
def test_batches_in_microbatches_are_drawn_apart(tmp_path, name):
    simulated_folder.write(tmp_path, batch_sizes=(16, 64, 256, 1024), out_of_memory=(1024,), microbatches=4)
    found = Sweep.of(frames.load(tmp_path))
    with style.applied():
        (plot,) = [plot for plot in PLOTS if plot.name == name]
        axes = plot.draw(found, summarize(found)).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["scan, in microbatches"].get_xdata()) == [1024]
    assert 1024 not in lines["scan: many steps per call"].get_xdata()
    assert axes.get_xlim()[1] > 1024


def test_values_that_differ_by_rounding_share_an_axis_of_two_decades():
    with style.applied():
        _, (axes,) = drawing.sheet()
        axes.plot([8, 16], [100.0, math.nextafter(100.0, 200.0)])
        drawing.log_axis(axes, "examples per second")
    assert axes.get_ylim() == pytest.approx((10, 1000))


def test_a_perfect_accuracy_has_no_place_on_an_axis_of_errors(sweep, summarized):
    (plot,) = [plot for plot in PLOTS if plot.name == "best_score"]
    perfect = Estimate(median=1.0, interval=(1.0, 1.0))

    def all_with(**changes):
        cells = [msgspec.structs.replace(cell, **changes) for cell in summarized.cells]
        return msgspec.structs.replace(summarized, cells=cells)

    with style.applied():
        (axes,) = plot.draw(sweep, all_with(best_score=perfect)).axes
        labels = {line.get_label() for line in axes.get_lines()}
        assert f"within {summarized.score_optimal_by_steps.budget}" in labels
        assert f"within {summarized.score_optimal.budget}" not in labels
        with pytest.raises(NothingToDrawError, match="reached the ideal accuracy"):
            plot.draw(sweep, all_with(best_score=perfect, best_score_by_steps=perfect))


def test_a_perfect_seed_and_another_have_half_the_error_of_the_other(tmp_path):
    """The median over two seeds is their mean, so a seed with errors of 28, 14 and 10% gives 14, 7 and 5%."""
    accuracies = {0: (0.72, 0.86, 0.9), 1: (1, 1, 1)}
    rows = [
        f"{size},0.1,{seed},{8 * step},{score}"
        for size in (8, 16)
        for seed, scores in accuracies.items()
        for step, score in enumerate(scores, 1)
    ]
    (tmp_path / "c.csv").write_text("\n".join(["batch_size,learning_rate,seed,step,accuracy", *rows]) + "\n")
    known = Known(target=0.95, scores=Asked(metric="accuracy"), train_examples=64)
    (folder,) = write_folders([tmp_path / "c.csv"], None, tmp_path / "out", known).values()
    found = Sweep.of(frames.load(folder))
    (plot,) = [plot for plot in PLOTS if plot.name == "learning_curves"]
    with style.applied():
        axes = plot.draw(found, summarize(found)).axes[0]
    drawn = [line.get_ydata() for line in axes.get_lines() if len(line.get_ydata()) == 3]
    assert len(drawn) == 2
    for one in drawn:
        assert list(one) == pytest.approx([14, 7, 5])


def test_a_joined_figure_says_from_where(measured):
    joined = Sweep.of(dataclasses.replace(measured, convergence_from="far-away-gpu"))
    with style.applied():
        figure = PLOTS[0].draw(joined, summarize(joined))
    assert "convergence joined from far-away-gpu" in figure._supxlabel.get_text().replace("\n", " ")


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_without_rows_there_is_a_reason_and_no_figure(measured, plot):
    empty = {name: only(getattr(measured, name), np.zeros(len(getattr(measured, name)), bool)) for name in COLUMNS}
    nothing = Sweep.of(dataclasses.replace(measured, **empty, searched=(), train_examples=None))
    with style.applied(), pytest.raises(NothingToDrawError, match=r"\w+ \w+"):
        plot.draw(nothing, summarize(nothing))


def test_a_fixed_rate_is_not_drawn_as_one_that_was_tuned(sweep, summarized):
    fixed = [msgspec.structs.replace(cell, claims_on="fixed") for cell in summarized.cells]
    (rates,) = figures.choose(["best_learning_rate"])
    with style.applied(), pytest.raises(NothingToDrawError, match="not tuned at two or more"):
        rates.draw(sweep, msgspec.structs.replace(summarized, cells=fixed))


def test_noise_estimates_that_are_close_in_training_are_averaged_before_the_division(sweep, summarized):
    trials, per_stretch, stretches = sweep.frames.noise["trial"].unique(), 4, 16
    count = per_stretch * stretches
    each = {
        "epochs": 2 ** ((np.arange(count) + 0.5) / per_stretch / STRETCHES_PER_OCTAVE),
        "gradient_squared": np.tile([3.0, -1.0], count // 2),
        "noise_trace": np.tile([50.0, 150.0], count // 2),
    }
    known = sweep.frames.noise.drop_duplicates("trial")
    noise = known.loc[known.index.repeat(count)].assign(
        **{name: np.tile(series, len(trials)) for name, series in each.items()}
    )
    noisy = Sweep.of(dataclasses.replace(sweep.frames, noise=noise.reset_index(drop=True)))
    (axes, _) = gradient_noise_scale(noisy, summarized).axes
    curves = [line.get_ydata() for line in axes.lines if line.get_marker() == "o"]
    assert len(curves) == len(set(known["batch_size"]))
    for curve in curves:
        np.testing.assert_allclose(curve, np.full(stretches, 100.0))


def test_energy_is_never_invented(measured):
    unmetered = Sweep.of(dataclasses.replace(measured, rounds=measured.rounds.assign(joules=np.nan)))
    (energy,) = figures.choose(["energy"])
    with style.applied(), pytest.raises(NothingToDrawError, match="energy"):
        energy.draw(unmetered, summarize(unmetered))


def test_alternative_texts_name_the_optimum(sweep, summarized):
    alt_text = PLOTS[0].alt_text(sweep, summarized)
    assert alt_text.startswith(f"Batch size {summarized.time_optimal.batch_size} is the fastest:")


def test_nothing_is_left_in_pyplot_or_in_the_settings(sweep, summarized, tmp_path):
    before = dict(mpl.rcParams)
    figures.write_figures(sweep, summarized, tmp_path, only=["time_to_target"], formats=["svg", "pdf"], width=3.3)
    assert pyplot.get_fignums() == []
    assert dict(mpl.rcParams) == before
    assert {path.name for path in tmp_path.iterdir()} == {"time_to_target.svg", "time_to_target.pdf"}


def test_the_same_rows_give_the_same_bytes(sweep, summarized, tmp_path):
    written = [
        figures.write_figures(sweep, summarized, tmp_path / name, only=["steps_to_target"], formats=["svg", "png"])
        for name in ("one", "two")
    ]
    assert [path.read_bytes() for path in written[0]] == [path.read_bytes() for path in written[1]]


def test_the_user_s_own_settings_change_no_figure(sweep, summarized, tmp_path):
    """A matplotlibrc may ask for LaTeX, which is not there, or for another layout."""
    (path,) = figures.write_figures(sweep, summarized, tmp_path / "one", only=["steps_to_target"], formats=["svg"])
    own = {"text.usetex": True, "figure.autolayout": True, "savefig.bbox": "tight", "lines.linestyle": ":"}
    with mpl.rc_context(own):
        (other,) = figures.write_figures(sweep, summarized, tmp_path / "two", only=["steps_to_target"], formats=["svg"])
    assert path.read_bytes() == other.read_bytes()


def test_a_style_file_has_the_last_word(tmp_path):
    chosen = tmp_path / "paper.mplstyle"
    chosen.write_text("font.size: 5\n")
    with style.applied(style=chosen):
        assert mpl.rcParams["font.size"] == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("font.size: 5\nfont.colour: red\n", "Bad key font.colour, line 2"),
        ("lines.linewidth: thick\n", "lines.linewidth: Could not convert 'thick' to float"),
        ("font.size 5\n", "Missing colon, line 1"),
        ('font.family "it\'s"\n', """Missing colon, line 1 ('font.family "it\\\'s"')"""),
        ("backend: nonsense\n", "backend"),
    ],
)
def test_a_wrong_style_file_is_one_line_that_names_it(tmp_path, caplog, text, words):
    chosen = tmp_path / "paper.mplstyle"
    chosen.write_text(text)
    with pytest.raises(InputError, match=re.escape(f"{chosen}: not a matplotlib style file (")) as caught:
        style.applied(style=chosen).__enter__()
    assert words in str(caught.value)
    assert str(caught.value).count(str(chosen)) == 1
    assert "\n" not in str(caught.value)
    assert not caplog.records


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"only": ["nonsense\x1b[31m"]}, r"figure: 'nonsense\\x1b\[31m' is unknown, expected one of time_to_target"),
        ({"formats": ["bmp"]}, "format: 'bmp' is unknown, expected one of png, svg, pdf"),
        ({"width": 0.1}, "width: 0.1 inches, expected 2 to 20"),
        ({"width": float("nan")}, "width: nan"),
        ({"only": ["data_parallel"]}, "cannot be drawn, only one device"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(sweep, summarized, tmp_path, options, words):
    alone = msgspec.structs.replace(summarized, data_parallel=[])
    with pytest.raises(InputError, match=words) as caught:
        figures.write_figures(sweep, alone, tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_a_missing_style_file_is_named(sweep, summarized, tmp_path):
    with pytest.raises(InputError, match=r"absent\.mplstyle"):
        figures.write_figures(sweep, summarized, tmp_path, style_file=tmp_path / "absent.mplstyle")


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


def test_needs_that_only_rounding_tells_apart_make_a_level_frontier_and_no_warning(sweep, summarized):
    cells = [cell for cell in summarized.cells if cell.batch_size in (32, 128)]
    steps = [Estimate(median=40.0, interval=(None, None)), Estimate(median=10.000000000000002, interval=(None, None))]
    level = [msgspec.structs.replace(cell, steps_to_target=need) for cell, need in zip(cells, steps, strict=True)]
    changed = msgspec.structs.replace(summarized, cells=level, critical_batch_size=None)
    (plot,) = figures.choose(["frontier"])
    low, high = plot.draw(sweep, changed).axes[0].get_ylim()
    assert low < 1280 < high
