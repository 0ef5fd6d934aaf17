"""The look of every figure: colours that survive colour blindness and print, line widths, type sizes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns

from batchscale.errors import InputError
from batchscale.printable import bare

PAGE_INCHES = 5.2
"""Width of the figures on a page: at 360 CSS pixels, a phone's width, text of 8 points is 8 pixels high."""
NARROWEST_INCHES, WIDEST_INCHES = 2.0, 20.0
DOTS_PER_INCH = 260

# A page replaces these four by its own light and dark colours, so nothing else may be drawn in exactly these.
INK, MUTED, GRID, PAPER = "#1c2024", "#5f6872", "#e3e6ea", "#fefefe"

# The palette of Okabe and Ito, safe for every common kind of colour blindness.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
)
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION)
SEQUENCE = "viridis"
BEST = VERMILLION

_BASE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.4,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "grid.linestyle": "-",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.8,
    "figure.facecolor": PAPER,
    "savefig.facecolor": "auto",
    "savefig.dpi": DOTS_PER_INCH,
    "svg.fonttype": "none",
    "svg.hashsalt": "batchscale",
    "pdf.fonttype": 42,
}


@contextmanager
def applied(width_inches: float | None = None, style: Path | None = None) -> Iterator[None]:
    """Draw inside this context in the style of this module, whatever the user's own matplotlib settings are.

    Args:
        width_inches: of a figure; `PAGE_INCHES` when None.
        style: a matplotlib style file, whose settings override all others.

    Raises:
        InputError: on a width outside 2 to 20 inches, or a style file that matplotlib cannot use.
    """
    width = PAGE_INCHES if width_inches is None else width_inches
    if not NARROWEST_INCHES <= width <= WIDEST_INCHES:
        raise InputError(f"width: {width} inches, expected {NARROWEST_INCHES:g} to {WIDEST_INCHES:g}")
    # Legend, axis labels and the foot need the same height at any width, the data a share of it.
    size = {"figure.figsize": (width, 1.6 + 0.33 * width)}
    settings: Any = {**sns.axes_style("ticks"), **_BASE, **size, **_read(style)}
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(settings)
        yield


def _read(style: Path | None) -> Mapping[Any, Any]:
    if style is None:
        return {}
    settings: Mapping[Any, Any] = {}
    path = str(style)
    try:
        with _intercepted_log() as complaints:
            settings = dict(mpl.rc_params_from_file(path, fail_on_error=True, use_default_template=False))
    except OSError as error:
        complaints = [error.strerror or str(error)]
    except ValueError as error:
        complaints = [str(error)]
    if complaints:
        complaint = bare(complaints[0].replace(f" in file {path}", "").replace(f" in file {path!r}", ""), 120)
        raise InputError(f"{style}: not a matplotlib style file ({complaint})")
    return settings


@contextmanager
def _intercepted_log() -> Iterator[list[str]]:
    """Collect the first line of what matplotlib logs, such as unknown keys, instead of printing it."""
    complaints: list[str] = []
    log = logging.getLogger("matplotlib")

    def intercept(record: logging.LogRecord) -> bool:
        complaints.append(record.getMessage().strip().partition("\n")[0])
        return False

    log.addFilter(intercept)
    try:
        yield complaints
    finally:
        log.removeFilter(intercept)
