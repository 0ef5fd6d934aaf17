"""The answer in words: the fastest and the most accurate batch size with interval, ties and caveats, and the optima."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from batchscale.analysis import number_format
from batchscale.analysis.frames.amounts import by_own_clocks
from batchscale.analysis.summary_parts import RateShape, Recommended, TimeBudget
from batchscale.analysis.summary_types import (
    BatchSizeSummary,
    CostOptimal,
    Optimum,
    ScoreOptimal,
    Summary,
    TimeOptimal,
)
from batchscale.statistics.effects import Source
from batchscale.statistics.estimate import Interval

LISTED_TIES = 3


@dataclass(frozen=True)
class Fact:
    """One number of the answer.

    Attributes:
        name: of the optimum, such as "Most accurate".
        value: the batch size, or a dash where it is not known.
        more: the value reached there and how, or why it is not known.
    """

    name: str
    value: str
    more: str


def answer(summary: Summary) -> list[str]:
    """Return a paragraph each on the batch size for speed, for the best score, and for the best score in a time."""
    return [
        *filter(None, [_fastest(summary), _best_score(summary), by_time(summary), surface(summary), asked(summary)])
    ]


def by_time(summary: Summary) -> str:
    """Return which batch size has the best score at times of training, or is tied with it; empty where unknown."""
    stretches = list(_stretches(summary.time_budgets))
    if len({size for one in summary.time_budgets for size in one.scores}) < 2:
        return ""
    each = [f"{size} {_from_to(first, last)}" for size, first, last in stretches]
    return f"Score against time of training: the best batch size, or one tied with it, is {number_format.listed(each)}."


def _stretches(budgets: Sequence[TimeBudget]) -> Iterator[tuple[int, float, float]]:
    """Yield batch sizes, each with the first and the last time of the longest stretch in which it is tied."""
    at = 0
    while at < len(budgets):
        shared = set(budgets[at].tied)
        end = at + 1
        while end < len(budgets) and shared & set(budgets[end].tied):
            shared &= set(budgets[end].tied)
            end += 1
        wins = Counter(one.batch_size for one in budgets[at:end])
        size = max(sorted(shared), key=lambda one: wins[one])
        yield size, budgets[at].seconds, budgets[end - 1].seconds
        at = end


def _from_to(first: float, last: float) -> str:
    ends = list(dict.fromkeys(map(number_format.seconds, (first, last))))
    return f"from {ends[0]} to {ends[1]}" if len(ends) > 1 else f"at {ends[0]}"


def asked(summary: Summary) -> str:
    """Return the batch size with the best score within the time that was asked for; empty where none was."""
    found, goal = summary.within, summary.goal or summary.scored
    if found is None or goal is None:
        return ""
    size = number_format.batch_size(found.batch_size, summary.tokens_per_example)
    rate = "" if found.learning_rate is None else f" at learning rate {number_format.number(found.learning_rate)}"
    best = f"batch size {size}{rate} reaches the best {number_format.validated(goal)}"
    others = [one for one in found.tied if one != found.batch_size]
    ties = f"Tied with it: {number_format.listed(others)}." if others else "No other batch size is tied with it."
    ended = [size for size in found.ended if size in found.tied]
    doubt = f" Runs at {number_format.batch_sizes(ended)} ended before; longer runs may be better." if ended else ""
    score = number_format.score(goal, found.score)
    return f"Within {number_format.seconds(found.seconds)} of training, {best}, {score}. {ties}{doubt}"


def notices(summary: Summary) -> list[str]:
    """Return what a reader must know before believing the answer."""
    found = [summary.notice] if summary.notice else []
    if summary.convergence_from:
        speeds = f"from {summary.speeds_from}" if summary.speeds_from else "measured here"
        found.append(f"The training runs were made on {summary.convergence_from} and are joined with speeds {speeds}.")
    if summary.trained_on:
        last, before = summary.convergence_from or "this machine", ", then ".join(summary.trained_on)
        found.append(f"Part of the training was done before {last} continued the run: {before}.")
    found += [clocked] if (clocked := clock(summary)) else []
    if summary.counted_in in ("epochs", "seconds") and summary.steps_reason:
        found.append(number_format.sentence(summary.steps_reason))
    optimistic = "the runs that also chose the learning rates, so they are slightly optimistic."
    if summary.claims_on == "search":
        found.append(f"The claims rest on {optimistic}")
    elif sizes := [cell.batch_size for cell in summary.cells if cell.claims_on == "search"]:
        found.append(f"The claims on {number_format.batch_sizes(sizes)} rest on {optimistic}")
    if sizes := [cell.batch_size for cell in summary.cells if cell.claims_on == "fixed"]:
        at = number_format.batch_sizes(sizes)
        found.append(f"The claims on {at} rest on runs at the fixed rate, which was not tuned.")
    return found


def clock(summary: Summary) -> str:
    """Return that times are those of the runs' own clocks; empty where steps or epochs were timed."""
    return by_own_clocks("Times") if summary.counted_in == "seconds" else ""


def facts(summary: Summary) -> list[Fact]:
    """Return the optima, one fact each."""
    known = [_time, _cost, _score, _throughput, _largest, _energy, _critical]
    return [fact for fact in (one(summary) for one in known) if fact]


def target(summary: Summary) -> str:
    """Return the target as the end of "epochs to ...", such as "97% validation accuracy"."""
    return "the target" if summary.goal is None else number_format.goal(summary.goal)


def tied(best: Optimum, summary: Summary) -> str:
    """Return a sentence on the batch sizes tied with the best; a long unbroken run is named by its ends."""
    others = [size for size in best.tied if size != best.batch_size]
    if not others:
        return "No other batch size is tied with it."
    low, high = min(best.tied), max(best.tied)
    run = {cell.batch_size for cell in summary.cells if low <= cell.batch_size <= high}
    every = len(others) > LISTED_TIES and run == {*others, best.batch_size}
    named = f"all others from {low} to {high}" if every else number_format.listed(others)
    return f"Tied with it (no significant difference): {named}."


def edge(best: Optimum) -> str:
    """Return a warning, after a space, where the best is at an end of the batch sizes tried; else nothing."""
    size = f" Batch size {best.batch_size} is the"
    if best.edge == "memory":
        return f"{size} largest that fits in memory."
    if best.edge == "only":
        return f"{size} only one tried, so another may be better."
    if not best.at_edge:
        return ""
    beyond = {"smallest": "a smaller one", "largest": "a larger one"}.get(best.edge or "", "one beyond it")
    return f"{size} {best.edge or 'last'} one tried, so {beyond} may be better."


def _fastest(summary: Summary) -> str:
    best = summary.time_optimal
    if best is None:
        reason = summary.time_optimal_reason or "the rows do not show it"
        untimed = any(cell.status == "not_measured" and cell.seeds_reached for cell in summary.cells)
        speeds = "; speeds are still to be measured, or to be given with --throughput" if untimed else ""
        fastest = f"The batch size that reaches {target(summary)} fastest on {summary.machine}"
        return f"{fastest} is not known: {reason}{speeds}.{_easier(summary)}"
    seconds = number_format.seconds(best.seconds)
    interval = number_format.with_level(number_format.seconds_between(best.interval, best.seconds))
    size = number_format.batch_size(best.batch_size, summary.tokens_per_example)
    reached = f"batch size {size} reaches {target(summary)} fastest, in {seconds} ({interval})."
    cost = f" The training costs {_price(summary.cost_optimal)}." if summary.cost_optimal else ""
    return f"On {summary.machine}, {reached}{cost}{edge(best)} {tied(best, summary)}{_advice(best)}{_ended(summary)}"


def _easier(summary: Summary) -> str:
    """Return, after a space, the answer for the hardest of the easier targets that has one."""
    goal = summary.goal
    if goal is None:
        return ""
    easier = [one for one in summary.further_targets if goal.better(goal.threshold, one.threshold)]
    known = [(one, one.time_optimal) for one in easier if one.time_optimal]
    if not known:
        return ""
    hardest, best = max(known, key=lambda one: goal.rising(one[0].threshold))
    reached = number_format.goal(goal.at(hardest.threshold))
    size, seconds = number_format.batch_size(best.batch_size, summary.tokens_per_example), best.seconds
    interval = number_format.with_level(number_format.seconds_between(best.interval, seconds))
    fastest = f"Batch size {size} reaches {reached} fastest, in {number_format.seconds(seconds)} ({interval})."
    unsure = f" Only search seeds, which also chose its learning rate, show this of batch size {size}."
    return f" {fastest}{edge(best)} {tied(best, summary)}{unsure * (best.batch_size in hardest.unconfirmed)}"


STOPS: dict[str, str] = {
    "none left": "no batch size is left whose typical run reaches the target",
    "one left": "one batch size is left",
    "within an octave": "the batch sizes that are left are within a factor of two",
    "budget": (
        "the training that it may spend does not suffice for another look; a larger `seeds.confirm`, or more minutes"
        " where --budget is given, allows one"
    ),
    "last look": "it plans no further look",
}


def _ended(summary: Summary) -> str:
    """Return, after a space, why a study with looks ended, or that it has not."""
    looks = summary.looks
    if looks is None:
        return ""
    last = looks.made[-1]
    seeds = f"look {last.number}, at {number_format.seeds(last.seeds, last.seeds)}"
    if looks.stop is None:
        return f" The study has not ended; its last comparison was {seeds}."
    within = f"one batch size is at most {100 * looks.tolerance:g}% slower than the best"
    saved = "" if looks.spent >= 1 else f", with {number_format.percent(looks.spent)} of the planned training"
    return f" The study ended after {seeds}{saved}: {STOPS.get(looks.stop, within)}."


def _advice(best: TimeOptimal) -> str:
    """Return, after a space, the batch size to take, how much slower than the best it can be, and why."""
    found = best.recommended
    if found is None:
        return ""
    rate = (
        ""
        if found.learning_rate is None
        else f" at learning rate {number_format.point(found.learning_rate, found.options)}"
    )
    take = f"Take {found.batch_size}{rate}"
    if found.bound is None:
        return f" {take}; {found.reason}."
    if not found.error_shares:
        return f" {take}: no other of those measured is as fast (95%)."
    slower = f"at most {number_format.percent(found.bound)} slower than the best of those measured (95%)"
    return f" {take}: {slower}. {more(found)}"


MORE: dict[Source, str] = {
    "seeds": "twice the seeds{more} would",
    "rounds": "twice the timed rounds{more} would",
    "blocks": "timing in as many further blocks{more} would",
}


def more(found: Recommended) -> str:
    """Return what the doubt comes from, and what more data would buy."""
    bounds = found.bound_after_doubling
    if not bounds or found.bound is None:
        return number_format.sentence(found.reason)
    source = min(bounds, key=bounds.__getitem__)
    takes = found.seconds_of_doubling.get(source)
    about = f" (about {number_format.duration(takes)} more)" if takes else ""
    bought = f"{MORE[source].format(more=about)} lower the bound to {number_format.percent(bounds[source])}"
    return number_format.sentence(f"{found.reason}; {bought}")


def _best_score(summary: Summary) -> str:
    best, goal = summary.score_optimal, summary.goal or summary.scored
    metric = number_format.validated(goal) if goal else "validation score"
    if best is None or goal is None:
        reason = summary.score_optimal_reason or "the rows do not show it"
        return f"The batch size with the best {metric} is not known: {reason}."
    interval = number_format.with_level(number_format.between(best.interval, partial(number_format.score, goal)))
    score = f"{number_format.score(goal, best.score)} ({interval})"
    size = number_format.batch_size(best.batch_size, summary.tokens_per_example)
    reached = f"batch size {size} reaches the best {metric}, {score}."
    ties = f"{tied(best, summary)}{_tolerance(best)}"
    return f"{within(best)}, {reached}{edge(best)} {ties}{levelling(best, summary)}"


def _tolerance(best: ScoreOptimal) -> str:
    """Return, after a space, the batch sizes whose score is as good within the tolerance that was given."""
    if best.tolerance is None:
        return ""
    others = [size for size in best.within_tolerance or [] if size != best.batch_size]
    share = f"the tolerance of {100 * best.tolerance:g}% of that score"
    return f" Within {share}: {number_format.listed(others)}." if others else f" No other is within {share}."


def surface(summary: Summary) -> str:
    """Return where the surface of final scores is best, or why none was fitted; empty where none is asked for."""
    found, goal = summary.score_surface, summary.goal or summary.scored
    if goal is None or (found is None and summary.goal is not None):
        return ""
    if found is None:
        return f"No surface of scores over batch size and rate: {summary.score_surface_reason}."
    best = found.batch_size, found.learning_rate
    size, rate = (f"{number_format.number(one.value)} ({_inside(one.interval)})" for one in best)
    runs = f"{found.runs} runs" if not found.left_out else f"{found.runs} of {found.runs + found.left_out} runs"
    power = number_format.exponent(found.exponent.value)
    ends = number_format.between(found.exponent.interval, number_format.exponent)
    score, noise = (number_format.score(goal, one) for one in (found.score.value, found.noise))
    return (
        f"A smooth surface through {runs} has its best {number_format.metric(goal)}, {score}, at batch size {size} and"
        f" learning rate {rate}. On it the best rate grows as B^{power} (95% interval {ends})."
        f" A run varies about it by {noise} (standard deviation)."
    )


def _inside(interval: Interval) -> str:
    """Return an interval in words; an end that is null is outside of the grid."""
    low, high = interval
    first, last = ("the end of the grid" if end is None else number_format.number(end) for end in (low, high))
    return f"95% interval {first} to {last}"


def within(best: ScoreOptimal) -> str:
    """Return the budget of a claim on the best score, and whether it reaches beyond that budget."""
    if best.claim == "levelled off":
        return f"Within {best.budget}, which let every curve level off"
    if best.budget.startswith("the "):
        return f"Within {best.budget}"
    return f"Within this budget of {best.budget}" if best.budget else "Within this budget"


def levelling(best: ScoreOptimal, summary: Summary) -> str:
    """Return, after a space, at which batch sizes longer training may be better; empty where at none."""
    if not best.still_improving:
        return ""
    if summary.counted_in == "budgets":
        return " Longer training may change this answer: one score of each run does not show whether it levelled off."
    every = len(best.still_improving) == len(summary.known("best_score")) > 1
    curves = "no curve" if every else f"the curve at {number_format.batch_sizes(best.still_improving)}"
    not_seen = "was seen to level off" if every else "was not seen to level off"
    return f" Longer training may change this answer: {curves} {not_seen}."


def _time(summary: Summary) -> Fact | None:
    best = summary.time_optimal
    if best is None:
        return Fact("Fastest to the target", "—", f"{summary.time_optimal_reason or 'not measured'}")
    fitted = f"; the fits put it at {number_format.number(best.fitted_batch_size, 2)}" if best.fitted_batch_size else ""
    cell = _cell(summary, best.batch_size)
    recipe = _recipe(cell.best_learning_rate, cell.best_options, cell.at_grid_edge)
    tokens = (
        f" and {number_format.short(need.median)} tokens" if (need := cell.tokens_to_target) and need.median else ""
    )
    more = f"{number_format.seconds(best.seconds)}{tokens}{recipe}{fitted}"
    return Fact("Fastest to the target", str(best.batch_size), more)


def _cell(summary: Summary, batch_size: int) -> BatchSizeSummary:
    return next(cell for cell in summary.cells if cell.batch_size == batch_size)


def _recipe(learning_rate: float | None, options: Mapping[str, float], at_edge: bool | None) -> str:
    """Return what the best runs were trained with, which may differ between the fastest and the most accurate."""
    if learning_rate is None:
        return ""
    beyond = ", at the edge of the rates tried" if at_edge else ""
    return f" at learning rate {number_format.point(learning_rate, options)}{beyond}"


def _cost(summary: Summary) -> Fact | None:
    best = summary.cost_optimal
    return Fact("Cheapest to the target", str(best.batch_size), _price(best)) if best else None


def _price(best: CostOptimal) -> str:
    """Return the cost in the currency of the price, whose name is not known."""
    return f"{number_format.number(best.cost)} at {best.price_per_hour:g} an hour"


def _score(summary: Summary) -> Fact | None:
    best, goal = summary.score_optimal, summary.goal or summary.scored
    if best is None or goal is None:
        return None
    cell = _cell(summary, best.batch_size)
    rate, options = cell.best_learning_rate_for_score, cell.best_options_for_score
    recipe = _recipe(rate, options, cell.at_grid_edge_for_score)
    title = "Most accurate" if goal.metric == "accuracy" and not goal.name else f"Best {number_format.metric(goal)}"
    claim = within(best)
    reached = f"{number_format.score(goal, best.score)} {claim[0].lower()}{claim[1:]}"
    return Fact(title, str(best.batch_size), f"{reached}{recipe}")


def _throughput(summary: Summary) -> Fact | None:
    best = summary.throughput_optimal
    if best is None:
        return None
    smallest = best.smallest_within_5_percent
    near = f"; {smallest} is the smallest within 5% of it" if smallest != best.batch_size else ""
    more = f"{number_format.examples_per_second(best.examples_per_second, summary.tokens_per_example)}{near}"
    return Fact(f"Most {summary.example}s per second", str(best.batch_size), more)


def _largest(summary: Summary) -> Fact | None:
    found = summary.max_batch_size
    if found is None:
        return None
    bound = "the whole training set" if found.bound == "training_set" else "limited by memory"
    memory = number_format.mebibytes(found.memory_bytes)
    needs = f"needs {number_format.mebibytes(found.predicted_bytes)} of {memory}" if found.predicted_bytes else memory
    doubt = "" if found.confirmed else "; predicted, not confirmed by a step"
    return Fact("Largest that fits", str(found.batch_size), f"{bound}; {needs}{doubt}")


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
    more = f"{interval}; needs twice the {summary.example}s of a small batch"
    return Fact("Critical batch size", number_format.number(fit.value, 2), more)


def turning(found: RateShape) -> str:
    """Return whether the best rate turns within the batch sizes, with the slopes at both ends."""
    first, last = (
        f"B^{number_format.exponent(one.value)} ({number_format.between(one.interval, number_format.exponent)})"
        for one in (found.first_slope, found.last_slope)
    )
    ends = f"as {first} at the smallest batch size and as {last} at the largest"
    turn = f", about batch size {number_format.number(found.turning_point, 2)}" if found.turning_point else ""
    if found.shape in ("rises then falls", "falls then rises"):
        return f"It {found.shape}{turn}: it grows {ends}."
    if found.shape == "undecided":
        return f"Whether it rises and then falls is undecided: it grows {ends}."
    return f"It {found.shape} over the whole range: it grows {ends}."
