"""Every way in which a step was compiled and timed, those that failed included, one line each."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from batchscale.analysis import number_format
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import CELL, values
from batchscale.analysis.metrics import hardware
from batchscale.analysis.pages.text_table import Column, Entry, Grid, Line, said
from batchscale.analysis.statistics.intervals import finite

ALWAYS = ("batch_size", "loop")
"""What else tells ways apart is shown where it differs."""
TITLES = {
    "batch_size": "Batch size",
    "loop": "Loop",
    "input": "Input from",
    "precision": "Precision",
    "devices": "Devices",
    "accumulation": "Microbatches a step",
}
FACTS = (
    Column("Status", text=True),
    Column("Examples/s"),
    Column("Slowest to fastest round"),
    Column("FLOP/s, of peak"),
    Column("Memory"),
    Column("Why not", prose=True),
)
CAPTION = (
    "Medians over rounds. The answer rests on the faster loop of each batch size on one device that holds the data, in"
    " the precision that was trained in; the peak is that of matrix products in each line's own precision."
)


def table(frames: Frames) -> Grid | None:
    """Every way by batch size; None where nothing was compiled here."""
    if frames.compilations.empty:
        return None
    rounds = {key: values(rows, "examples_per_second") for key, rows in frames.rounds.groupby(list(CELL))}
    known = frames.compilations.sort_values(list(CELL), kind="stable")
    shown = [name for name in CELL if name in ALWAYS or len(known[name].unique()) > 1]
    columns = [Column(TITLES[name], text=CELL[name] == "object") for name in shown]
    facts = FACTS if any(isinstance(message, str) for message in known["message"]) else FACTS[:-1]
    lines = [Line(line[: len(columns) + len(facts)]) for line in _lines(frames, known, rounds, shown)]
    return Grid(CAPTION, [*columns, *facts], lines)


def _lines(
    frames: Frames, known: pd.DataFrame, rounds: Mapping[Hashable, np.ndarray], shown: Sequence[str]
) -> Iterator[list[Entry]]:
    for way in known.to_dict("records"):
        speeds = rounds.get(tuple(way[name] for name in CELL), np.array([]))
        yield [*(_told(way[name]) for name in shown), *_facts(frames, way, speeds)]


def _told(value: str | int) -> Entry:
    return Entry(value) if isinstance(value, str) else Entry(number_format.whole(value), value)


def _facts(frames: Frames, way: Mapping[Hashable, Any], speeds: np.ndarray) -> list[Entry]:
    median = float(np.median(speeds)) if len(speeds) else None
    needed = way["predicted_bytes"] if np.isfinite(way["predicted_bytes"]) else way["peak_bytes"]
    return [
        Entry(way["status"].replace("_", " ")),
        said(median, number_format.short),
        Entry(number_format.between([speeds.min(), speeds.max()], number_format.short) if len(speeds) else "—"),
        _arithmetic(frames, way, median),
        said(needed, number_format.mebibytes),
        Entry(way["message"] or ""),
    ]


def _arithmetic(frames: Frames, way: Mapping[Hashable, Any], per_second: float | None) -> Entry:
    """The rate, and its share of what so many devices could do; virtual ones share one processor."""
    rate = finite(way["flops_per_example"] * per_second) if per_second else None
    alone = hardware.peak(frames, way["precision"])
    if rate is None or alone is None:
        return said(rate, number_format.flops_per_second)
    devices = 1 if frames.machine.machine.virtual_devices else way["devices"]
    return Entry(f"{number_format.flops_per_second(rate)}, {number_format.percent(rate / (devices * alone))}", rate)
