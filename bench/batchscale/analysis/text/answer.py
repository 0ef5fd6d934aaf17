"""The answer in two sentences, with its interval, its ties and its caveats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from batchscale.analysis import number_format
from batchscale.analysis.summary_types import BatchSizeSummary, CostOptimal, Summary
from batchscale.analysis.text.alt_text import edge, tied


@dataclass(frozen=True)
class Fact:
    """One number of the answer and what to know about it."""

    name: str
    value: str
    more: str


def answer(summary: Summary) -> list[str]:
    """What to train with for speed, and what for accuracy."""
    return [_fastest(summary), _most_accurate(summary)]


def notices(summary: Summary) -> list[str]:
    """What a reader must know before believing the answer."""
    found = [summary.notice] if summary.notice else []
    if summary.convergence_from:
        speeds = f"from {summary.speeds_from}" if summary.speeds_from else "measured here"
        found.append(f"The training runs were made on {summary.convergence_from} and joined with speeds {speeds}.")
    chosen_by = "the runs that also chose the learning rates, so they flatter a little."
    if summary.claims_on == "search":
        found.append(f"These claims rest on {chosen_by}")
    elif sizes := [cell.batch_size for cell in summary.cells if cell.claims_on == "search"]:
        found.append(f"Claims on batch size{'s' * (len(sizes) > 1)} {number_format.listed(sizes)} rest on {chosen_by}")
    return found


def facts(summary: Summary) -> list[Fact]:
    """The optima side by side."""
    known = [_time, _cost, _accuracy, _throughput, _largest, _energy, _critical]
    return [fact for fact in (one(summary) for one in known) if fact]


def target(summary: Summary) -> str:
    """The target with its article."""
    reached = summary.target_accuracy
    return "the target" if reached is None else f"{number_format.target(reached)} validation accuracy"


def _fastest(summary: Summary) -> str:
    best = summary.time_optimal
    if best is None:
        reason = summary.time_optimal_reason or "the rows do not say"
        return f"Which batch size reaches {target(summary)} fastest on {summary.machine} is not known: {reason}."
    reached = (
        f"batch size {best.batch_size} reaches {target(summary)} fastest, in {number_format.seconds(best.seconds)}"
    )
    interval = number_format.with_level(number_format.seconds_between(best.interval, best.seconds))
    cost = f"; that costs {_price(summary.cost_optimal)}" if summary.cost_optimal else ""
    return f"On {summary.machine}, {reached} ({interval}){edge(best)}; {tied(best, summary)}{cost}."


def _most_accurate(summary: Summary) -> str:
    best = summary.accuracy_optimal
    if best is None:
        reason = summary.accuracy_optimal_reason or "the rows do not say"
        return f"Which batch size gives the best accuracy is not known: {reason}."
    interval = number_format.with_level(number_format.between(best.interval, number_format.accuracy))
    reached = f"{best.batch_size} gives the best accuracy, {number_format.accuracy(best.accuracy)} ({interval})"
    return f"Within {best.budget}, {reached}{edge(best)}; {tied(best, summary)}."


def _time(summary: Summary) -> Fact | None:
    best = summary.time_optimal
    if best is None:
        return Fact("Fastest to the target", "—", f"{summary.time_optimal_reason or 'not measured'}")
    fitted = f"; the fits say {number_format.number(best.fitted_batch_size, 2)}" if best.fitted_batch_size else ""
    cell = _cell(summary, best.batch_size)
    recipe = _recipe(cell.best_learning_rate, cell.best_options, cell.at_grid_edge)
    more = f"{number_format.seconds(best.seconds)}{recipe}{fitted}"
    return Fact("Fastest to the target", str(best.batch_size), more)


def _cell(summary: Summary, batch_size: int) -> BatchSizeSummary:
    return next(cell for cell in summary.cells if cell.batch_size == batch_size)


def _recipe(learning_rate: float | None, options: Mapping[str, float], at_edge: bool | None) -> str:
    """What the best runs were trained with; the fastest and the most accurate may differ in it."""
    if learning_rate is None:
        return ""
    beyond = ", at the edge of the rates tried" if at_edge else ""
    return f" at learning rate {number_format.point(learning_rate, options)}{beyond}"


def _cost(summary: Summary) -> Fact | None:
    best = summary.cost_optimal
    return Fact("Cheapest to the target", str(best.batch_size), _price(best)) if best else None


def _price(best: CostOptimal) -> str:
    """The cost in the currency of the price, which has no name here."""
    return f"{number_format.number(best.cost)} at {best.price_per_hour:g} an hour"


def _accuracy(summary: Summary) -> Fact | None:
    best = summary.accuracy_optimal
    if best is None:
        return None
    cell = _cell(summary, best.batch_size)
    rate, options = cell.best_learning_rate_for_accuracy, cell.best_options_for_accuracy
    recipe = _recipe(rate, options, cell.at_grid_edge_for_accuracy)
    return Fact(
        "Most accurate", str(best.batch_size), f"{number_format.accuracy(best.accuracy)} within {best.budget}{recipe}"
    )


def _throughput(summary: Summary) -> Fact | None:
    best = summary.throughput_optimal
    if best is None:
        return None
    near = (
        f"; {best.smallest_within_5_percent} is within 5%" if best.smallest_within_5_percent != best.batch_size else ""
    )
    more = f"{number_format.examples_per_second(best.examples_per_second)}{near}"
    return Fact("Most examples per second", str(best.batch_size), more)


def _largest(summary: Summary) -> Fact | None:
    found = summary.max_batch_size
    if found is None:
        return None
    ends = "the whole training set" if found.bound == "training_set" else "memory ends there"
    needs = f"{number_format.mebibytes(found.predicted_bytes)} of " if found.predicted_bytes else ""
    doubt = "" if found.confirmed else "; predicted, not confirmed by a step"
    more = f"{ends}, {needs}{number_format.mebibytes(found.memory_bytes)}{doubt}"
    return Fact("Largest that fits", str(found.batch_size), more)


def _energy(summary: Summary) -> Fact | None:
    best = summary.energy_optimal
    return Fact("Least energy to the target", str(best.batch_size), number_format.joules(best.joules)) if best else None


def _critical(summary: Summary) -> Fact | None:
    fit = summary.critical_batch_size
    if fit is None:
        return Fact("Critical batch size", "—", summary.critical_batch_size_reason or "not measured")
    interval = number_format.with_level(
        number_format.between(fit.interval, lambda value: number_format.number(value, 2))
    )
    more = f"{interval}; twice the examples of a small batch"
    return Fact("Critical batch size", number_format.number(fit.value, 2), more)
