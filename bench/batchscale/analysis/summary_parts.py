"""Parts of `summary.json`: the batch size to take, with its bound or for a time, limits of the machine, and costs."""

from __future__ import annotations

from typing import Literal

import msgspec

from batchscale.statistics.effects import Source
from batchscale.statistics.estimate import Interval


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every type in a summary."""


class Recommended(Part, frozen=True, kw_only=True):
    """The batch size with the least bound on how much slower it can be than the best of those measured.

    Attributes:
        batch_size: the batch size to take.
        learning_rate, options: the rate and the searched options at which it was compared; a null rate is unknown.
        bound: how much slower than the best of those measured it is at most, as a fraction; null where nothing bounds
            it, which `reason` explains.
        reason: what the bound rests on, in words.
        error_shares: the share of each source in the variance that the bound rests on.
        bound_after_doubling: the bound to expect if the seeds, or the blocks of timed rounds, were doubled.
        seconds_of_doubling: what that would take on this machine, for the batch sizes that are tied; absent where the
            folder does not show it.
        level: confidence of the bound and of the tied set together.
    """

    batch_size: int
    learning_rate: float | None
    options: dict[str, float] = {}
    bound: float | None
    reason: str
    error_shares: dict[Source, float] = {}
    bound_after_doubling: dict[Source, float] = {}
    seconds_of_doubling: dict[Source, float] = {}
    level: float = 0.95


class LookMade(Part, frozen=True, kw_only=True):
    """One look of a study: a comparison that decided which batch sizes got more seeds.

    Attributes:
        number: number of the look, from 1.
        seeds: seeds of every batch size that was compared.
        alpha: the chance of an error that it was allowed.
        compared: the batch sizes that were left before it.
        out: those of them that cannot be the fastest to the target.
        added: batch sizes between others that joined after it.
    """

    number: int
    seeds: int
    alpha: float
    compared: list[int]
    out: list[int]
    added: list[int]


class Looks(Part, frozen=True, kw_only=True):
    """How the seeds of a study were spent.

    Attributes:
        made: every look, in order.
        stop: why no look follows; null while the study goes on.
        tolerance: the bound at which the study ends, as a fraction.
        spent: the share of the training allowed for the times to the target that was used; above 1 where the first
            seeds alone took more.
    """

    made: list[LookMade]
    stop: str | None
    tolerance: float
    spent: float


class TimeBudget(Part, frozen=True, kw_only=True):
    """The batch size with the best validation score within a time of training, from curves and speeds.

    Attributes:
        seconds: the time.
        batch_size: the one whose typical run has the best score within it.
        learning_rate: its rate there; null where tables do not give it.
        score: that score.
        tied: the batch sizes that are not significantly worse at the 95% level, itself included.
        ended: batch sizes whose runs ended before, so that longer runs may be better.
        scores: the score of the typical run at each batch size that was evaluated within it.
    """

    seconds: float
    batch_size: int
    learning_rate: float | None = None
    score: float
    tied: list[int]
    ended: list[int] = []
    scores: dict[int, float] = {}


class Ranged(Part, frozen=True, kw_only=True):
    """A fitted value with its 95% interval."""

    value: float
    interval: Interval


class ScoreSurface(Part, frozen=True, kw_only=True):
    """A parabola over log batch size and log rate, fitted to the final scores of a grid; its residual is the noise.

    Attributes:
        batch_size, learning_rate: where the score is best; an end of an interval outside of the grid is null.
        score: the score there.
        exponent: power of the batch size that the best rate is proportional to.
        noise: standard deviation of the score of a run about the surface.
        runs, left_out: runs that were fitted; runs that diverged or are too far from the best.
    """

    batch_size: Ranged
    learning_rate: Ranged
    score: Ranged
    exponent: Ranged
    noise: float
    runs: int
    left_out: int

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the noise: the parabola has six coefficients."""
        return self.runs - 6


Shape = Literal["rises then falls", "rises", "falls", "falls then rises", "undecided"]
"""How the best rate moves with the batch size: by the slopes at both ends, each with a 95% interval without 0."""


class RateShape(Part, frozen=True, kw_only=True):
    """A parabola through log best rate over log batch size (the test of a hump by Lind and Mehlum, 2010).

    Attributes:
        shape: what both slopes together show.
        first_slope, last_slope: the exponent of the rate at the smallest and at the largest batch size.
        turning_point: the batch size at which the rate turns; null where it does not.
    """

    shape: Shape
    first_slope: Ranged
    last_slope: Ranged
    turning_point: float | None


class Ceilings(Part, frozen=True, kw_only=True):
    """The best rates of a short calibration of the machine; null where they were not measured.

    Matrix products are in the precision that was trained in; bytes copied count as read and as written.
    """

    matmul_flops_per_second: float | None = None
    copy_bytes_per_second: float | None = None
    timer_resolution_seconds: float | None = None


class Exponent(Part, frozen=True, kw_only=True):
    """The power `value` of B that a quantity is proportional to, its 95% interval, and the batch sizes fitted."""

    value: float
    interval: Interval
    batch_sizes: list[int]


Rule = Literal["sqrt", "linear", "none", "sqrt or linear", "neither", "undecided"]
"""The rules for scaling a learning rate with the batch size that the measured exponent allows."""


class LearningRates(Part, frozen=True, kw_only=True):
    """How the best learning rate changes with the batch size.

    Attributes:
        overall: power of the batch size that the best rate is proportional to; null with fewer than three batch sizes.
        rule: the scaling rules that the interval of `overall` allows.
        shape: whether the rate rises and then falls; null with fewer than five batch sizes.
        at_grid_edge: batch sizes whose best rate is at the edge of the rates tried.
        effective: True where momentum was also searched: rates are then rate / (1 - momentum).
        by_neighbours: batch sizes whose rate comes from the others, since no trial there reached the target.
    """

    overall: Exponent | None
    rule: Rule
    shape: RateShape | None = None
    at_grid_edge: list[int]
    effective: bool = False
    by_neighbours: list[int] = msgspec.field(default_factory=list)


class Totals(Part, frozen=True, kw_only=True):
    """The cost of measuring, for programs that plan more of it.

    Attributes:
        compilations: programs compiled in all stages.
        compile_seconds: time to compile the timed programs.
        throughput_seconds, convergence_seconds: time of each stage.
        trials, trained_examples: training runs, and the examples of all of them.
    """

    compilations: int
    compile_seconds: float
    throughput_seconds: float
    convergence_seconds: float
    trials: int
    trained_examples: int
