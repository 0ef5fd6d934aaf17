"""Minutes to a study: the richest one on a fixed ladder whose estimated cost fits, from speeds just measured."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import msgspec

from batchscale.config.experiment import Experiment
from batchscale.errors import InputError


class Rung(msgspec.Struct, frozen=True):
    """One level of thoroughness."""

    epochs_factor: float
    search: int
    confirm: int
    span: int


LADDER = [
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


def climb(experiment: Experiment, rung: Rung) -> Experiment:
    """The experiment at a rung; a learning rate that is given, and not searched, stays so."""
    replace, rate = msgspec.structs.replace, experiment.learning_rate
    span, warmup_epochs = rung.span if rate.span else 0, rate.warmup_epochs * rung.epochs_factor
    return replace(
        experiment,
        seeds=replace(experiment.seeds, search=rung.search, confirm=rung.confirm),
        learning_rate=replace(rate, span=span, warmup_epochs=warmup_epochs),
        budget=replace(
            experiment.budget,
            epochs=experiment.budget.epochs * rung.epochs_factor,
            max_epochs=experiment.max_epochs * rung.epochs_factor,
        ),
    )


def fit(experiment: Experiment, minutes: float, seconds: Callable[[Experiment], float]) -> Experiment:
    """The richest rung that fits into `minutes`, the lowest one where none does; named after the minutes.

    A rung that cannot be planned, as its trials would be evaluated too often, fits into none.
    """
    chosen = climb(experiment, LADDER[0])
    for rung in LADDER:
        scaled = climb(experiment, rung)
        with suppress(InputError):
            chosen = scaled if seconds(scaled) <= minutes * 60 else chosen
    return named(chosen, minutes)


def named(experiment: Experiment, minutes: float) -> Experiment:
    """As `lenet_mnist_30min`: a scaled study has its own folder, so it never mixes with the unscaled one."""
    shown = f"{minutes:.2f}".rstrip("0").rstrip(".").replace(".", "p")
    return msgspec.structs.replace(experiment, name=f"{experiment.name[:28]}_{shown}min")


def scaled_like(experiment: Experiment, known: Experiment) -> Experiment | None:
    """The experiment at the rung that `known` was scaled to; None where no rung of it is that study."""
    for rung in LADDER:
        scaled = climb(experiment, rung)
        same = (scaled.fingerprint, scaled.seeds, scaled.learning_rate.span)
        if same == (known.fingerprint, known.seeds, known.learning_rate.span):
            return scaled
    return None


def scaled_before(experiment: Experiment, known: Experiment) -> Experiment:
    """The experiment as `known`, found in a results folder, was scaled from it.

    Raises:
        InputError: when the experiment was edited since, so that no rung of it is the protocol of `known`.
    """
    if scaled := scaled_like(experiment, known):
        return msgspec.structs.replace(scaled, name=known.name)
    raise InputError(
        f"{known.name}: was scaled from {experiment.name} before that was edited;"
        f" undo the edit, name other minutes, or give another --results"
    )


def described(experiment: Experiment) -> str:
    """What was chosen, in words."""
    beside = "".join(f" x {len(tried)} of {option}" for option, tried in sorted(experiment.search.items()))
    return (
        f"{experiment.learning_rate.grid_size} learning rates{beside},"
        f" {experiment.seeds.search} search and {experiment.seeds.confirm} confirmation seeds,"
        f" {experiment.budget.epochs:g} epochs (up to {experiment.max_epochs:g} for the target)"
    )
