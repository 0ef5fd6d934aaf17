"""What training is counted in, and which amounts follow from it: reading, metrics, pages and figures all ask here.

Runs that were measured here count examples, from which steps follow, and epochs where the training set is known. A file
of another tool may count epochs of unknown size, or only the seconds of a clock. Batch sizes are compared in that unit
then, and what does not follow from it is absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from batchscale.analysis import number_format
from batchscale.analysis.outside.lines import LEAST_AMOUNT
from batchscale.analysis.outside.runs import Unit
from batchscale.config.vocabulary import LARGEST_EXAMPLES
from batchscale.errors import InputError
from batchscale.records.curves import UNITS, CountedIn, Curve

Wanted = Literal["examples", "steps", "epochs", "tokens", "seconds"]

WHY: dict[CountedIn, str] = {
    "examples": "the examples in an epoch were not given",
    "epochs": "the files count training in epochs, and the examples in an epoch were not given",
    "seconds": "the files hold the seconds of the runs' clocks, and neither steps nor epochs",
    "budgets": "the files hold one score of each run, not when a target was reached",
}
"""Why an amount does not follow from what training is counted in."""


def by_own_clocks(what: str) -> str:
    """Return what times or speeds include that no stage of this package measured."""
    return f"{what} are those of the runs' own clocks, which include whatever they timed, such as evaluations."


@dataclass(frozen=True)
class Amounts:
    """What the training of a folder, or of some files, is counted in.

    Attributes:
        counted_in: the unit of all curves and of all that is compared.
        train_examples: examples in an epoch; None where they are not known.
        tokens_per_example: tokens of an example; None where the data is no text, or they are not known.
    """

    counted_in: CountedIn = "examples"
    train_examples: int | None = None
    tokens_per_example: int | None = None

    def per(self, wanted: Wanted, batch_size: int = 1) -> float:
        """Return how much training one step, epoch, ... is, in `counted_in`; NaN where it does not follow."""
        if wanted == self.counted_in:
            return 1.0
        if self.counted_in != "examples":
            return np.nan
        tokens = self.tokens_per_example
        known = {"steps": batch_size, "epochs": self.train_examples, "tokens": 1 / tokens if tokens else None}
        return float(known.get(wanted) or np.nan)

    def why_no(self, wanted: Literal["steps", "epochs"]) -> str | None:
        """Return in words why steps or epochs do not follow; None where they do."""
        return None if np.isfinite(self.per(wanted)) else f"{wanted} are not known: {WHY[self.counted_in]}"

    @property
    def shown(self) -> CountedIn:
        """The unit that readers see needs in: epochs where they are known."""
        return self.counted_in if self.why_no("epochs") else "epochs"

    @property
    def timed_in(self) -> Literal["steps", "epochs"] | None:
        """What must be timed to know the seconds of a training; None where it is counted in seconds, or not at all."""
        if self.counted_in == "examples":
            return "steps"
        return "epochs" if self.counted_in == "epochs" else None

    @property
    def timed_as(self) -> str:
        """What a time to the target is, in words."""
        if self.timed_in is None:
            return "by the runs' own clocks" if self.counted_in == "seconds" else "not known"
        return f"its {self.timed_in} times seconds per {self.timed_in.removesuffix('s')}"

    @property
    def least(self) -> float:
        """An amount of training that stands for none where logarithms are taken."""
        return 1.0 if self.counted_in == "examples" else LEAST_AMOUNT

    def trained(self, amount: float, unit: Unit | None, batch_size: int, where: str) -> float:
        """Convert an amount that a file holds; whole examples where these are counted.

        Raises:
            InputError: when the unit needs a number that is not known, or the examples are too many.
        """
        if self.counted_in != "examples":
            return 1.0 if unit is None else amount
        if unit == "tokens" and self.tokens_per_example is None:
            raise InputError(f"{where}: tokens: expected --tokens-per-example N, or 1 where batch sizes count tokens")
        factors = {"steps": batch_size, "tokens": 1 / (self.tokens_per_example or 1), "epochs": self.train_examples}
        examples = amount * (factors.get(unit or "") or 1)
        if examples > LARGEST_EXAMPLES:
            raise InputError(f"{where}: {examples:.3g} examples, expected at most {LARGEST_EXAMPLES:.0e}")
        return round(examples)

    def curve(self, trained: Sequence[float], batch_size: int, score: str, values: Sequence[float | None]) -> Curve:
        """Return the curve of a run: its training before each evaluation, and the values of a score there."""
        axes: dict[str, list[float]] = {self.counted_in: [*trained]}
        if self.counted_in == "examples":
            axes["steps"] = [at // batch_size for at in trained]
        return msgspec.convert({**axes, "scores": {score: [*values]}}, Curve)

    def words(self, amount: float) -> str:
        """Return an amount of training in words."""
        match self.counted_in:
            case "examples":
                return f"{amount:,.0f} examples"
            case "epochs":
                return number_format.epochs(amount)
            case "seconds":
                return f"{number_format.seconds(amount)} by the runs' own clocks"
            case "budgets":
                return "the budget of the runs"


def amounts_of(
    units: Iterable[tuple[Unit | None, str]], train_examples: int | None, tokens_per_example: int | None = None
) -> Amounts:
    """Decide what the runs of some files are counted in: examples, if these follow.

    Args:
        units: of each run, with the place where the file holds it.
        train_examples: examples in an epoch, to convert epochs.
        tokens_per_example: to convert tokens.

    Raises:
        InputError: when two runs do not count in the same unit.
    """
    found: dict[CountedIn, tuple[str, str]] = {}
    for unit, where in units:
        found.setdefault(_counted_in(unit, train_examples), (unit or "only its final score", where))
    if len(found) > 1:
        (first, there), (other, here) = list(found.values())[:2]
        convert = " (--train-examples N converts epochs)" if {"examples", "epochs"} <= set(found) else ""
        raise InputError(f"{here}: {other}, where {there} has {first}, expected one unit for all runs{convert}")
    counted: list[CountedIn] = [*found, UNITS[0]]
    return Amounts(counted[0], train_examples, tokens_per_example)


def _counted_in(unit: Unit | None, train_examples: int | None) -> CountedIn:
    if unit is None:
        return "budgets"
    if unit == "seconds" or (unit == "epochs" and train_examples is None):
        return unit
    return "examples"
