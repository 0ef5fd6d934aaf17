"""Why the answer is what it is, in at most ten lines: steps, speed, ties, and what would change it."""

from __future__ import annotations

from typing import Literal

import msgspec

from batchscale.analysis import number_format
from batchscale.analysis.frames.amounts import Amounts
from batchscale.analysis.summary_types import BatchSizeSummary, Summary
from batchscale.analysis.text import answer
from batchscale.errors import InputError

MOST_LINES = 10

REGIMES = {
    "below_useful_range": "it needs more examples than a larger batch size does",
    "perfect_scaling": "up to this batch size, twice the batch size needs about half the steps",
    "diminishing_returns": "up to this batch size, twice the batch size saves less than half of the steps",
    "saturated": "at this batch size, a larger one saves almost no steps",
}
LIMITS = {
    "arithmetic": "the arithmetic of the machine",
    "copying": "copying bytes",
    "fixed_cost": "the fixed cost of a step, which a larger batch size would share",
}


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a batch size is, or is not, the fastest to the target.

    Attributes:
        batch_size: the batch size that is explained; null where none reached the target.
        lines: at most ten sentences.
    """

    schema: Literal[1] = 1
    batch_size: int | None
    lines: list[str]


def explain(summary: Summary, batch_size: int | None = None) -> Explanation:
    """Explain a batch size, by default the fastest to the target.

    Raises:
        InputError: when this batch size was not measured.
    """
    best = summary.time_optimal
    wanted = batch_size or (best.batch_size if best else None)
    if batch_size is not None and batch_size not in (sizes := [cell.batch_size for cell in summary.cells]):
        raise InputError(f"--batch-size: {batch_size} was not measured, expected one of {number_format.listed(sizes)}")
    cell = next((one for one in summary.cells if one.batch_size == wanted), None)
    if cell is None:
        return Explanation(batch_size=None, lines=answer.answer(summary)[:1])
    if cell not in (timed := summary.known("time_to_target")):
        reason = f": {cell.message}" if cell.message else ""
        status = cell.status.replace("_", " ")
        lines = [f"Batch size {cell.batch_size} has no time to {answer.target(summary)}; it is {status}{reason}."]
        return Explanation(batch_size=wanted, lines=[*lines, *answer.answer(summary)[:1]])
    at = timed.index(cell)
    neighbours = [*timed[max(0, at - 1) : at], *timed[at + 1 : at + 2]]
    lines = [
        _time(summary, cell, timed),
        *(_against(summary, cell, other) for other in neighbours),
        *_regime(cell),
        *_limit(cell),
        _rate(cell),
        _ties(summary, cell),
        *_change(summary, cell, neighbours),
        *_doubt(summary, cell),
    ]
    return Explanation(batch_size=wanted, lines=lines[:MOST_LINES])


def decided(summary: Summary) -> bool:
    """Return True if no other batch size is tied with the fastest, which is not at an end of the sweep."""
    best = summary.time_optimal
    return best is not None and not best.at_edge and best.tied == [best.batch_size]


def how_undecided(summary: Summary) -> str:
    """Return how much the answer leaves open, in one sentence."""
    best, name = summary.time_optimal, summary.experiment
    if best is None:
        return f"{name}: undecided; {summary.time_optimal_reason or 'the rows do not show it'}."
    if decided(summary):
        return f"{name}: decided; no other batch size measured is as fast as {best.batch_size} (95%)."
    found = best.recommended
    bound = ""
    if found is not None and found.bound is not None:
        bound = f"; {found.batch_size} is at most {number_format.percent(found.bound)} slower than the best"
    several = f"{len(best.tied)} of {len(summary.known('time_to_target'))} batch sizes are tied"
    ties = (
        f"{several} ({number_format.listed(best.tied)})" if len(best.tied) > 1 else f"{best.batch_size} is the fastest"
    )
    return f"{name}: undecided; {ties}{bound}.{answer.edge(best)}"


def _median(cell: BatchSizeSummary, quantity: str) -> float:
    return getattr(cell, quantity).median


def _timed(summary: Summary) -> str | None:
    """Return what times are explained by: "step" or "epoch"; None where a clock shows the time itself."""
    unit = Amounts(summary.counted_in).timed_in
    return unit and unit.removesuffix("s")


def _time(summary: Summary, cell: BatchSizeSummary, timed: list[BatchSizeSummary]) -> str:
    seconds = _median(cell, "time_to_target")
    least = min(_median(one, "time_to_target") for one in timed)
    place = "the least" if seconds <= least else f"{number_format.number(seconds / least)} times the least"
    place = f"{place} of {len(timed)} batch sizes" if len(timed) > 1 else "the only batch size with a time"
    time, to_target = number_format.seconds(seconds), f"to {answer.target(summary)}"
    unit = _timed(summary)
    if unit is None:
        return f"Batch size {cell.batch_size} needs {time} {to_target}, {place}."
    needed = _median(cell, f"{unit}s_to_target")
    return (
        f"Batch size {cell.batch_size} needs {number_format.number(needed)} {unit}s {to_target},"
        f" at {number_format.seconds(seconds / needed)} {number_format.article(unit)} {unit}: {time}, {place}."
    )


def _against(summary: Summary, cell: BatchSizeSummary, other: BatchSizeSummary) -> str:
    """Return how steps, seconds per step and their product differ from those of a neighbour."""
    seconds = _median(cell, "time_to_target") / _median(other, "time_to_target")
    unit = _timed(summary)
    if unit is None:
        return f"Against {other.batch_size}: {number_format.number(seconds)} times the time."
    needed = _median(cell, f"{unit}s_to_target") / _median(other, f"{unit}s_to_target")
    proportion = f" (in proportion: {number_format.number(other.batch_size / cell.batch_size)})" * (unit == "step")
    return (
        f"Against {other.batch_size}: {number_format.number(needed)} times the {unit}s{proportion}"
        f" x {number_format.number(seconds / needed)} times the seconds per {unit}"
        f" = {number_format.number(seconds)} times the time."
    )


def _regime(cell: BatchSizeSummary) -> list[str]:
    return [f"Steps: {REGIMES[cell.regime]}."] if cell.regime else []


def _limit(cell: BatchSizeSummary) -> list[str]:
    if cell.limited_by is None or cell.limit_share is None:
        return []
    return [f"Speed: {number_format.percent(cell.limit_share)} of a step is explained by {LIMITS[cell.limited_by]}."]


def _rate(cell: BatchSizeSummary) -> str:
    seeds = f"{cell.seeds_reached} of {cell.seeds} runs reached the target"
    if cell.best_learning_rate is None:
        return f"Runs: {seeds}."
    edge = ", at the edge of the rates tried: another rate may be better" if cell.at_grid_edge else ""
    return f"Runs: {seeds}; learning rate {number_format.point(cell.best_learning_rate, cell.best_options)}{edge}."


def _ties(summary: Summary, cell: BatchSizeSummary) -> str:
    best = summary.time_optimal
    if best is None:
        return "Nothing is known about ties."
    if cell.batch_size == best.batch_size:
        return answer.tied(best, summary)
    if cell.batch_size in best.tied:
        return f"It is tied with the fastest, {best.batch_size}: no significant difference."
    return f"It is slower than the fastest, {best.batch_size}, beyond the noise (95%)."


def _change(summary: Summary, cell: BatchSizeSummary, neighbours: list[BatchSizeSummary]) -> list[str]:
    """Return what would change the answer: the speeds at which a neighbour would win, more data, other batch sizes."""
    best = summary.time_optimal
    if best is None or best.batch_size != cell.batch_size:
        return []
    time = _median(cell, "time_to_target")
    speeds = []
    if unit := _timed(summary):
        one = f"{number_format.article(unit)} {unit}"
        speeds = [
            f"{other.batch_size} at {number_format.seconds(time / _median(other, f'{unit}s_to_target'))} {one} or less"
            for other in neighbours
        ]
    faster = [f"What would change it: {' or '.join(speeds)} would be faster."] if speeds else []
    found = best.recommended
    advice = [f"Take {found.batch_size}. {answer.more(found)}"] if found else []
    beyond = [answer.edge(best).strip()] if answer.edge(best) else []
    return [*faster, *advice, *beyond]


def _doubt(summary: Summary, cell: BatchSizeSummary) -> list[str]:
    doubts = [number_format.sentence(cell.doubt)] if cell.doubt else []
    return [*doubts, *answer.notices(summary)]
