"""Every figure of a results folder: one function each, one table that names them, one call that writes them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from batchscale.analysis.figures import style
from batchscale.analysis.figures.drawing import NothingToDrawError
from batchscale.analysis.figures.registry import PLOTS, Plot
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.summary_types import Summary
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
class Drawing:
    """What became of one plot: a figure, or the reason why there is none."""

    plot: Plot
    figure: Figure | None
    reason: str = ""


def draw(frames: Frames, summary: Summary, plots: Iterable[Plot] | None = None) -> Iterator[Drawing]:
    """Draw these plots (all of them when None) in the style in force; call inside `style.applied`."""
    for plot in PLOTS if plots is None else plots:
        try:
            yield Drawing(plot, plot.draw(frames, summary))
        except NothingToDrawError as missing:
            yield Drawing(plot, None, str(missing))


def encode(figure: Figure, form: Format) -> bytes:
    """The figure as a file's bytes: PNG at 200 dots per inch, SVG with its text as text, or PDF."""
    file = io.BytesIO()
    figure.savefig(file, format=form, metadata=_METADATA[form])
    return file.getvalue()


def choose(only: Sequence[str] | None) -> list[Plot]:
    """The plots named, all without names.

    Raises:
        InputError: on a name that is none; lists those there are.
    """
    named = {plot.name: plot for plot in PLOTS}
    for name in only or ():
        if name not in named:
            raise InputError(f"figure {printable(name)} is none of {', '.join(named)}")
    return [named[name] for name in only] if only else list(PLOTS)


def write_figures(
    frames: Frames,
    summary: Summary,
    folder: Path,
    only: Sequence[str] | None = None,
    formats: Sequence[str] = ("png", "svg"),
    width: float | None = None,
    style_file: Path | None = None,
) -> list[Path]:
    """Write figures into `folder`, `width` inches wide; returns the files. A plot without data writes none.

    Raises:
        InputError: on an unknown figure or format, an unusable width or style, or a figure named in `only` that the
            rows cannot give.
    """
    plots, written = choose(only), []
    forms: list[Format] = [_known(form) for form in formats]
    with style.applied(width, style_file):
        for drawing in draw(frames, summary, plots):
            if drawing.figure is None and only:
                raise InputError(f"figure {drawing.plot.name}: cannot be drawn, {drawing.reason}")
            if drawing.figure:
                written += [_write(drawing.figure, folder / f"{drawing.plot.name}.{form}", form) for form in forms]
    return written


def _write(figure: Figure, path: Path, form: Format) -> Path:
    row_files.write_whole(path, encode(figure, form))
    return path


def _known(form: str) -> Format:
    for known in FORMATS:
        if form == known:
            return known
    raise InputError(f"format {printable(form)} is none of {', '.join(FORMATS)}")
