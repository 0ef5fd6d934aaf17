"""The curve of a training run: its evaluations, and what the training before them is counted in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from batchscale.config.goal import METRICS, MetricName
from batchscale.config.vocabulary import LARGEST_EXAMPLES, Name

Count = Annotated[int, Meta(ge=0, le=LARGEST_EXAMPLES)]
LARGEST_AMOUNT = 1e30
Amount = Annotated[float, Meta(ge=0, le=LARGEST_AMOUNT)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Accuracy = Fraction


def equally_long(lists: Mapping[str, Sequence]) -> None:
    """Raise ValueError where lists differ in length."""
    if len(set(map(len, lists.values()))) > 1:
        found = ", ".join(f"{len(values)} {name}" for name, values in lists.items())
        raise ValueError(f"lists of different lengths: {found}")


ScoreKind = Literal["scores", "deviations", "test_scores", "averaged_scores"]
ScoreValue = Annotated[float, Meta(ge=-LARGEST_AMOUNT, le=LARGEST_AMOUNT)]
"""A score, which may be negative: the loss of a density is."""
ScoreLists = Annotated[dict[Name, list[ScoreValue | None]], Meta(max_length=16)]
SCHEMA_1_SCORES: dict[str, tuple[ScoreKind, str]] = {
    "accuracy": ("scores", "accuracy"),
    "loss": ("scores", "loss"),
    "test_accuracy": ("test_scores", "accuracy"),
    "ema_accuracy": ("averaged_scores", "accuracy"),
}
"""Fields of a curve of schema 1, and the fields and names of their scores in schema 2."""


CountedIn = Literal["examples", "epochs", "seconds", "budgets"]
"""What the training before an evaluation is counted in. Only from examples do steps follow."""
UNITS: tuple[CountedIn, ...] = ("examples", "epochs", "seconds", "budgets")


class Curve(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Evaluations of one trial: equally long lists in the order of training.

    The training before an evaluation is counted in examples and steps. A file of another tool may hold only its epochs,
    its seconds or, for a final score, that the budget was used up; the curve then has that one list instead.

    A score is null where it is not finite. Rows of schema 1 hold `accuracy`, `loss`, `test_accuracy` and `ema_accuracy`
    instead of the dictionaries; reading moves them there.

    Attributes:
        examples: Examples trained before the evaluation.
        steps: Optimizer steps taken before the evaluation: `examples` // batch size.
        epochs: Epochs trained before it, where the examples in an epoch are not known.
        seconds: Reading of the run's clock at the evaluation, where neither steps nor epochs are known.
        budgets: Share of the run's budget before it, where nothing more is known: 1 at its end.
        scores: Mean of each score over the examples of the validation split, by name.
        deviations: Standard deviation of each score over these examples, by name; empty in rows of schema 1.
        test_scores: Scores on the test split, if every evaluation tests.
        averaged_scores: Validation scores of an exponential moving average of the parameters, if one is kept.
    """

    examples: list[Count] = []
    steps: list[Count] = []
    epochs: list[Amount] | None = None
    seconds: list[Amount] | None = None
    budgets: list[Fraction] | None = None
    scores: ScoreLists = {}
    deviations: Annotated[dict[Name, list[Amount | None]], Meta(max_length=16)] = {}
    test_scores: ScoreLists = {}
    averaged_scores: ScoreLists = {}
    accuracy: list[Accuracy] | None = None
    loss: list[Amount | None] | None = None
    test_accuracy: list[Accuracy] | None = None
    ema_accuracy: list[Accuracy] | None = None

    def __post_init__(self) -> None:
        for old, (new, name) in SCHEMA_1_SCORES.items():
            if (values := getattr(self, old)) is not None:
                msgspec.structs.force_setattr(self, new, {**getattr(self, new), name: values})
                msgspec.structs.force_setattr(self, old, None)
        if not self.scores:
            raise ValueError("no scores, expected at least one list of scores")
        if len(self.axes) > 1 + ("steps" in self.axes):
            raise ValueError(f"training counted in {' and in '.join(self.axes)}, expected one of them")
        lists: dict[str, Sequence] = {**self.axes}
        for field in ("scores", "deviations", "test_scores", "averaged_scores"):
            lists |= {f"{field}.{name}": values for name, values in getattr(self, field).items()}
        equally_long(lists)
        if any(score is not None and not 0 <= score <= 1 for score in self.scores.get("accuracy", ())):
            raise ValueError("scores.accuracy: a value below 0 or above 1, expected numbers from 0 to 1")

    @property
    def axes(self) -> dict[str, Sequence[float]]:
        """The lists that count the training before each evaluation, by name."""
        others: dict[str, Sequence[float] | None] = {
            "epochs": self.epochs,
            "seconds": self.seconds,
            "budgets": self.budgets,
        }
        found = {name: values for name, values in others.items() if values is not None}
        if found and not self.examples and not self.steps:
            return found
        return {"examples": self.examples, "steps": self.steps, **found}

    @property
    def counted_in(self) -> CountedIn:
        """What the training before an evaluation is counted in."""
        return next(unit for unit in UNITS if unit in self.axes)

    @property
    def trained(self) -> Sequence[float]:
        """Training before each evaluation, in `counted_in`."""
        return self.axes[self.counted_in]

    def at(self, places: Iterable[int], name: str) -> Curve:
        """Return the score `name` at some of the evaluations."""
        kept, scores = list(places), self.scores.get(name) or [None] * len(self.trained)
        axes = {axis: [values[place] for place in kept] for axis, values in self.axes.items()}
        return msgspec.convert({**axes, "scores": {name: [scores[place] for place in kept]}}, Curve)

    def values(self, metric: MetricName, of: ScoreKind = "scores") -> list[float]:
        """Return the evaluations of one metric in the order of training; NaN where there is none.

        Args:
            metric: The metric, such as "accuracy".
            of: The validation split, the test split, the averaged parameters, or the deviations over examples.
        """
        kind = METRICS[metric]
        found = getattr(self, of).get(kind.measured_as)
        if found is None:
            return [math.nan] * len(self.trained)
        return [math.nan if score is None else kind.scale * score for score in found]

    def variances(self, metric: MetricName) -> list[float]:
        """Return the variance of a metric over the examples of the validation split at each evaluation.

        Rows of schema 1 hold none. Their accuracies are means of zeros and ones, whose variance is p (1 - p).
        """
        if metric == "accuracy" and metric not in self.deviations:
            return [score * (1 - score) for score in self.values(metric)]
        return [deviation**2 for deviation in self.values(metric, "deviations")]
