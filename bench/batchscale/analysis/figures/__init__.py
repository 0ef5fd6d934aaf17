"""Every figure of a results folder: the table that names them, and how they are drawn and written."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from batchscale.analysis.figures import answer, hardware, learning_rates, style, training
from batchscale.analysis.figures.drawing import NothingToDrawError, add_tokens
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary_types import Summary
from batchscale.analysis.text import captions
from batchscale.analysis.text.answer import clock
from batchscale.errors import InputError
from batchscale.printable import printable
from batchscale.records import row_files

Format = Literal["png", "svg", "pdf"]
FORMATS: tuple[Format, ...] = ("png", "svg", "pdf")

# Dates in the files would make the same rows give different bytes.
_METADATA: dict[Format, dict[str, str | None]] = {
    "png": {"Software": "batchscale"},
    "svg": {"Date": None, "Creator": "batchscale"},
    "pdf": {"CreationDate": None, "Creator": "batchscale"},
}


@dataclass(frozen=True)
class Plot:
    """One figure of the table.

    Attributes:
        title: above the figure on a page.
        draw: raises NothingToDrawError where the rows that it needs were not measured.
        alt_text: states in words what is drawn.
        remark: what these measurements in particular show; may be empty.
    """

    title: str
    draw: Callable[[Sweep, Summary], Figure]
    alt_text: Callable[[Sweep, Summary], str]
    remark: Callable[[Summary], str] = captions.no_remark

    @property
    def name(self) -> str:
        """The stem of its files, and its name for `--only`."""
        return self.draw.__name__

    @property
    def caption(self) -> str:
        """How to read the figure."""
        return captions.CAPTIONS[self.name]


PLOTS = (
    Plot(
        "Time to the target",
        answer.time_to_target,
        captions.time_to_target,
        clock,
    ),
    Plot(
        "Best score",
        answer.best_score,
        captions.best_score,
        captions.averaging,
    ),
    Plot(
        "Score within a time",
        answer.time_budgets,
        captions.time_budgets,
        captions.ended_runs,
    ),
    Plot(
        "Throughput",
        hardware.throughput,
        captions.throughput,
        captions.drift,
    ),
    Plot(
        "Step time",
        hardware.step_time,
        captions.step_time,
    ),
    Plot(
        "Steps to the target",
        training.steps_to_target,
        captions.steps_to_target,
    ),
    Plot(
        "Epochs to the target",
        training.epochs_to_target,
        captions.epochs_to_target,
    ),
    Plot(
        "Steps against examples",
        training.frontier,
        captions.frontier,
    ),
    Plot(
        "Learning curves",
        training.learning_curves,
        captions.learning_curves,
    ),
    Plot(
        "Best learning rate",
        learning_rates.best_learning_rate,
        captions.best_learning_rate,
        captions.rates_by_neighbours,
    ),
    Plot(
        "Every learning rate",
        learning_rates.rate_map,
        captions.rate_map,
    ),
    Plot(
        "Other optimizer options",
        learning_rates.searched_options,
        captions.searched_options,
    ),
    Plot(
        "Gradient noise scale",
        training.gradient_noise_scale,
        captions.gradient_noise_scale,
        captions.without_gradient_noise,
    ),
    Plot(
        "Gradient variance",
        training.gradient_variance,
        captions.gradient_variance,
    ),
    Plot(
        "Memory",
        hardware.memory,
        captions.memory,
    ),
    Plot(
        "Roofline",
        hardware.roofline,
        captions.roofline,
        captions.step_limits,
    ),
    Plot(
        "Energy",
        hardware.energy,
        captions.energy,
    ),
    Plot(
        "Several devices",
        hardware.data_parallel,
        captions.data_parallel,
    ),
)


@dataclass(frozen=True)
class Drawing:
    """One plot drawn and encoded, or the reason why it cannot be.

    Attributes:
        files: its bytes by format; empty where it cannot be drawn.
        reason: why not.
    """

    plot: Plot
    files: dict[Format, bytes]
    reason: str = ""


def draw(sweep: Sweep, summary: Summary, plots: Sequence[Plot], formats: Sequence[Format]) -> Iterator[Drawing]:
    """Draw each plot once and encode it in every format, in the style in force; call inside `style.applied`."""
    for plot in plots:
        try:
            figure = plot.draw(sweep, summary)
            add_tokens(figure, summary)
        except NothingToDrawError as missing:
            yield Drawing(plot, {}, str(missing))
        else:
            yield Drawing(plot, encode(figure, formats))


def encode(figure: Figure, formats: Sequence[Format]) -> dict[Format, bytes]:
    """Return a figure as the bytes of files: PNG, SVG with its text as text, or PDF."""
    files: dict[Format, bytes] = {}
    for form in formats:
        file = io.BytesIO()
        figure.savefig(file, format=form, metadata=_METADATA[form])
        figure.set_layout_engine("none")  # the same layout in every format, computed once
        files[form] = file.getvalue()
    return files


def choose(only: Sequence[str] | None) -> list[Plot]:
    """Return the plots named, or all if none is named.

    Raises:
        InputError: on an unknown name; lists the known ones.
    """
    named = {plot.name: plot for plot in PLOTS}
    for name in only or ():
        if name not in named:
            raise InputError(f"figure: {printable(name)} is unknown, expected one of {', '.join(named)}")
    return [named[name] for name in only] if only else list(PLOTS)


def write_figures(
    sweep: Sweep,
    summary: Summary,
    folder: Path,
    only: Sequence[str] | None = None,
    formats: Sequence[str] = ("png", "svg"),
    width: float | None = None,
    style_file: Path | None = None,
) -> list[Path]:
    """Write figures into `folder` and return the files. A plot without data writes none.

    Args:
        sweep: of the results folder.
        summary: of the same sweep.
        folder: created if it is missing.
        only: names of plots; all when None.
        formats: names out of FORMATS.
        width: in inches.
        style_file: a matplotlib style file.

    Raises:
        InputError: on an unknown figure or format, an unusable width or style, or a figure named in `only` that the
            rows cannot give.
    """
    plots, written = choose(only), []
    forms: list[Format] = [_known(form) for form in formats]
    with style.applied(width, style_file):
        for drawing in draw(sweep, summary, plots, forms):
            if not drawing.files and only:
                raise InputError(f"figure {drawing.plot.name}: cannot be drawn, {drawing.reason}")
            written += write(drawing, folder)
    return written


def write(drawing: Drawing, folder: Path) -> list[Path]:
    """Write the files of one drawing and return them."""
    written = []
    for form, content in drawing.files.items():
        written.append(folder / f"{drawing.plot.name}.{form}")
        row_files.write_whole(written[-1], content)
    return written


def _known(form: str) -> Format:
    for known in FORMATS:
        if form == known:
            return known
    raise InputError(f"format: {printable(form)} is unknown, expected one of {', '.join(FORMATS)}")
