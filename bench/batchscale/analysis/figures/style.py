"""How every figure looks: colours that survive colour blindness and print, line widths, type sizes."""

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

TWO_COLUMNS_INCHES = 6.9
ONE_COLUMN_INCHES = 3.3
NARROWEST_INCHES, WIDEST_INCHES = 2.0, 20.0
NARROW_BELOW_INCHES = 5.0
DOTS_PER_INCH = 200

# The page swaps these four for its own light and dark colours, so nothing else may be drawn in exactly them.
INK, MUTED, GRID, PAPER = "#1c2024", "#5f6872", "#e3e6ea", "#fefefe"

# Okabe and Ito's palette, safe for every common kind of colour blindness.
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
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "figure.facecolor": PAPER,
    "savefig.facecolor": "auto",
    "savefig.dpi": DOTS_PER_INCH,
    "svg.fonttype": "none",
    "svg.hashsalt": "batchscale",
    "pdf.fonttype": 42,
}


@contextmanager
def applied(width_inches: float | None = None, style: Path | None = None) -> Iterator[None]:
    """Draw inside this context in the house style at `width_inches`; a matplotlib style file has the last word.

    Raises:
        InputError: on a width outside 2 to 20 inches, or a style file matplotlib cannot use.
    """
    width = TWO_COLUMNS_INCHES if width_inches is None else width_inches
    if not NARROWEST_INCHES <= width <= WIDEST_INCHES:
        raise InputError(f"width: {width} inches is not within {NARROWEST_INCHES:g} to {WIDEST_INCHES:g}")
    settings: Any = {**sns.axes_style("ticks"), **_BASE, **_sizes(width), **_read(style)}
    with mpl.rc_context(settings):
        yield


def _sizes(width_inches: float) -> dict[str, Any]:
    narrow = {"font.size": 7, "axes.labelsize": 7, "xtick.labelsize": 6.5, "ytick.labelsize": 6.5}
    narrow |= {"legend.fontsize": 6.5, "lines.linewidth": 1.2, "lines.markersize": 3.2, "axes.titlesize": 7}
    height = width_inches * (0.56 if width_inches >= NARROW_BELOW_INCHES else 0.85)
    return (narrow if width_inches < NARROW_BELOW_INCHES else {}) | {"figure.figsize": (width_inches, height)}


def _read(style: Path | None) -> Mapping[Any, Any]:
    if style is None:
        return {}
    settings: Mapping[Any, Any] = {}
    try:
        with _overheard() as complaints:
            settings = dict(mpl.rc_params_from_file(style, fail_on_error=True, use_default_template=False))
    except (OSError, ValueError) as error:
        complaints = [str(error)]
    if complaints:
        said = bare(complaints[0].replace(f" in file {style}", ""), 120)
        raise InputError(f"{style}: not a matplotlib style file ({said})")
    return settings


@contextmanager
def _overheard() -> Iterator[list[str]]:
    """What matplotlib only logs, such as unknown keys; the first line of each complaint, none of it printed."""
    complaints: list[str] = []
    log = logging.getLogger("matplotlib")

    def overhear(record: logging.LogRecord) -> bool:
        complaints.append(record.getMessage().strip().partition("\n")[0])
        return False

    log.addFilter(overhear)
    try:
        yield complaints
    finally:
        log.removeFilter(overhear)
