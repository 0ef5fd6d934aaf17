"""Parts of `summary.json`: the batch size to take, with its bound or for a time, and the limits of the machine."""

from __future__ import annotations

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
        tied: the batch sizes that cannot be told from it at the 95% level, itself included.
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
