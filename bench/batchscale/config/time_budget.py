"""Scale an experiment to a number of minutes: take the richest rung of a fixed ladder whose estimated time fits.

A study with looks spends the minutes that are left on more confirmation seeds.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress

import msgspec

from batchscale.config.experiment import MOST_LOOKS, Experiment
from batchscale.errors import InputError


class Rung(msgspec.Struct, frozen=True):
    """One level of thoroughness.

    Attributes:
        epochs_factor: Factor of all durations: budget, longest training, warm-up.
        search: Number of search seeds.
        confirm: Number of confirmation seeds.
        span: Number of learning rates on either side of the anchor.
    """

    epochs_factor: float
    search: int
    confirm: int
    span: int


LADDER = [
    # epochs_factor, search, confirm, span
    Rung(0.25, 1, 2, 1),
    Rung(0.5, 1, 2, 1),
    Rung(1, 1, 2, 1),
    Rung(1, 1, 3, 2),
    Rung(1, 1, 5, 2),
    Rung(1, 2, 5, 2),
    Rung(2, 2, 5, 2),
    Rung(2, 2, 7, 2),
    Rung(3, 2, 7, 2),
    Rung(4, 2, 7, 3),
    Rung(5, 3, 10, 3),
    Rung(8, 3, 10, 3),
    Rung(12, 3, 10, 3),
    Rung(20, 3, 10, 3),
    Rung(20, 4, 20, 3),
    Rung(40, 4, 20, 3),
    Rung(80, 5, 30, 4),
]

MOST_SEEDS = 96
"""Confirmation seeds, on average over batch sizes, that a study with looks may get beyond those of its rung."""
LONGEST_WITH_LOOKS = 4
"""Factor of the durations of a study with looks, at most: its runs end soon after the target, and seeds decide more."""
SHARE_OF_LAST_LOOK = 3
"""The last look compares this many times the average seeds: those that are out by then leave theirs to the others."""


def climb(experiment: Experiment, rung: Rung) -> Experiment:
    """Return the experiment at a rung; if it has a single learning rate (span 0), it keeps that one."""
    replace, rate = msgspec.structs.replace, experiment.learning_rate
    span, warmup_epochs = rung.span if rate.span else 0, rate.warmup_epochs * rung.epochs_factor
    seeded = with_seeds(experiment, rung.confirm)
    return replace(
        seeded,
        seeds=replace(seeded.seeds, search=rung.search),
        learning_rate=replace(rate, span=span, warmup_epochs=warmup_epochs),
        budget=replace(
            experiment.budget,
            epochs=experiment.budget.epochs * rung.epochs_factor,
            max_epochs=experiment.max_epochs * rung.epochs_factor,
        ),
    )


def with_seeds(experiment: Experiment, confirm: int) -> Experiment:
    """Return the experiment with a number of confirmation seeds; a study with looks gets the looks to spend them at."""
    replace, table = msgspec.structs.replace, experiment.confirm
    if table:
        looks = list(table.looks)
        while looks[-1] < SHARE_OF_LAST_LOOK * confirm and len(looks) < MOST_LOOKS:
            looks.append(2 * looks[-1])
        table = replace(table, looks=looks)
    return replace(experiment, seeds=replace(experiment.seeds, confirm=confirm), confirm=table)


def fit(experiment: Experiment, minutes: float, seconds: Callable[[Experiment], float]) -> Experiment:
    """Return the experiment at the richest rung that fits into `minutes`, named after the minutes.

    The lowest rung is returned if none fits. A rung that cannot be planned, because its trials would be evaluated too
    often, never fits. A study with looks trains at most `LONGEST_WITH_LOOKS` times as long, and gets as many
    confirmation seeds as still fit.

    Args:
        experiment: The experiment to scale.
        minutes: The time that the study may take.
        seconds: Estimates how long an experiment takes here.
    """

    def fits(scaled: Experiment) -> bool:
        with suppress(InputError):
            return seconds(scaled) <= minutes * 60
        return False

    longest = LONGEST_WITH_LOOKS if experiment.confirm else math.inf
    rungs = [climb(experiment, rung) for rung in LADDER if rung.epochs_factor <= longest]
    chosen = next((scaled for scaled in reversed(rungs) if fits(scaled)), rungs[0])
    if experiment.confirm:
        counts = range(chosen.seeds.confirm + 1, MOST_SEEDS + 1)
        more = bisect_left(counts, True, key=lambda count: not fits(with_seeds(chosen, count)))
        chosen = with_seeds(chosen, chosen.seeds.confirm + more)
    return named(chosen, minutes)


def named(experiment: Experiment, minutes: float) -> Experiment:
    """Name an experiment after its minutes, as in `lenet_mnist_30min`.

    The name gives it its own results folder, so that its rows never mix with those of the unscaled experiment.
    """
    shown = f"{minutes:.2f}".rstrip("0").rstrip(".").replace(".", "p")
    return msgspec.structs.replace(experiment, name=f"{experiment.name[:28]}_{shown}min")


def scaled_like(experiment: Experiment, known: Experiment) -> Experiment | None:
    """Return the experiment at the rung that `known` was scaled to; None if no rung gives the study `known`."""
    for rung in LADDER:
        scaled = climb(experiment, rung)
        if experiment.confirm and scaled.seeds.confirm <= known.seeds.confirm:
            scaled = with_seeds(scaled, known.seeds.confirm)
        same = (scaled.fingerprint, scaled.seeds, scaled.learning_rate.span)
        if same == (known.fingerprint, known.seeds, known.learning_rate.span):
            return scaled
    return None


def scaled_before(experiment: Experiment, known: Experiment) -> Experiment:
    """Scale the experiment as `known`, found in a results folder, was scaled from it.

    Raises:
        InputError: if the experiment was edited since, so that none of its rungs gives the protocol of `known`.
    """
    if scaled := scaled_like(experiment, known):
        return msgspec.structs.replace(scaled, name=known.name)
    raise InputError(
        f"{known.name}: was scaled from {experiment.name}, which has been edited since;"
        f" undo the edit, name other minutes, or give another --results"
    )


def described(experiment: Experiment) -> str:
    """Describe in words how large the study is."""
    options = "".join(f" x {len(tried)} of {option}" for option, tried in sorted(experiment.search.items()))
    seeds = f"{experiment.seeds.search} search and {experiment.seeds.confirm} confirmation seeds"
    at_looks = " on average, spent at looks" if experiment.confirm else ""
    return (
        f"{experiment.learning_rate.grid_size} learning rates{options},"
        f" {seeds}{at_looks},"
        f" {experiment.budget.epochs:g} epochs (up to {experiment.max_epochs:g} for the target)"
    )
