"""What a file of another tool says about its training runs, in one form for all formats."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from batchscale.analysis.outside.lines import LARGEST_AMOUNT, LARGEST_COUNT, LARGEST_RATE, LEAST_AMOUNT, NOT_NEGATIVE
from batchscale.config.experiment import LARGEST_BATCH_SIZE
from batchscale.config.goal import METRICS, MetricName
from batchscale.config.vocabulary import SCORE_NAME_PATTERN, OutsideForm
from batchscale.errors import InputError
from batchscale.printable import LONGEST_REASON, bare, printable

Unit = Literal["steps", "examples", "tokens", "epochs", "seconds"]
MOST_RUNS = 20_000
MOST_EVALUATIONS = 100_000
_IN_A_NAME = {
    # Not b16 or b_16, which end names of models (vit-b16, efficientnet-b2), and not 256k, which may count tokens.
    "batch_size": re.compile(
        r"(?:^|[^a-z])(?:(?:batch[_-]?size|global[_-]?batch|bsz|bs)[=_-]?|b=)(\d{1,9})(?![\d.]|e-?\d|[kmg](?![a-z]))"
    ),
    "learning_rate": re.compile(r"(?:^|[^a-z])(?:learning[_-]?rate|lr)[=_-]?(\d{1,9}(?:\.\d{1,12})?(?:e-?\d{1,2})?)"),
    "seed": re.compile(r"(?:^|[^a-z])seed[=_-]?(\d{1,9})(?!\d)"),
}
_PART_OF_A_RUN = re.compile(r"(checkpoint-|version_)\d{1,12}")
"""Folders in which the HF Trainer and Lightning divide the folder of a run."""
_NAMES: dict[MetricName, re.Pattern[str]] = {
    "loss": re.compile(r"(^|[_/. -])(loss|nll|cross[_-]?entropy|ce)$", re.IGNORECASE),
    "accuracy": re.compile(r"(^|[_/. -])(acc|accuracy|acc1|top1)$", re.IGNORECASE),
    "bits_per_byte": re.compile(r"(^|[_/. -])(bpb|bits[_-]per[_-]byte)$", re.IGNORECASE),
    "score": re.compile(r"(^|[_/. -])(score|rewards?|returns?|bleu|psnr|elo)$", re.IGNORECASE),
}


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run.

    Attributes:
        at: Training before it, in the unit of its run.
        score: None where it is not finite.
        seconds: Reading of the run's clock.
    """

    at: float
    score: float | None
    seconds: float | None = None


@dataclass(frozen=True)
class OutsideRun:
    """One training run.

    Attributes:
        where: File and name of the run, for refusals.
        unit: Unit of its evaluations; None for one score under a budget that the file does not name.
        group: Its values in the columns that group runs, as the file writes them.
        clock: Training between two readings of its clock, in `unit`, and the seconds between them, if it has a clock.
    """

    where: str
    batch_size: int
    learning_rate: float | None
    seed: int | None
    unit: Unit | None
    evaluations: tuple[Evaluation, ...]
    clock: tuple[float, float] | None = None
    group: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """The runs of some files.

    Attributes:
        notes: Sentences on how the files were read.
        name: Name of the score in the files, where that of the metric does not say it.
    """

    runs: list[OutsideRun]
    metric: MetricName
    notes: list[str]
    name: str | None = None

    @property
    def final_only(self) -> bool:
        """True if every run has one score: when a target was reached is then not known."""
        return all(len(run.evaluations) == 1 for run in self.runs)

    @property
    def extremes(self) -> tuple[float, float]:
        """The least and the greatest score; infinity and minus infinity where there is none."""
        found = [one.score for run in self.runs for one in run.evaluations if one.score is not None]
        return min(found, default=math.inf), max(found, default=-math.inf)


@dataclass(frozen=True)
class Asked:
    """What the user says about files that do not say it.

    Attributes:
        metric: The score, if it is named.
        column: The name that the files give to it.
        percent: True if the files hold percentages.
        may_be_share: True for a score that is a share from 0 to 1 if all its values are.
        batch_size: Batch size of every run.
        by: Columns that group runs.
        form: Form of every file; by default its content shows it.
    """

    metric: MetricName | None = None
    column: str | None = None
    percent: bool = False
    may_be_share: bool = False
    batch_size: int | None = None
    by: tuple[str, ...] = ()
    form: OutsideForm | None = None

    def scaled(self, score: float | None, where: str) -> float | None:
        """Return a score as a share, where the files hold percentages.

        Raises:
            InputError: for a score that its metric cannot be.
        """
        if score is None:
            return None
        value = score / 100 if self.percent else score
        if self.metric == "accuracy" and value > 1:
            most = 100 if self.percent else f"1 ({PERCENTAGES})"
            raise InputError(f"{where}: accuracy {score:g}, expected 0 to {most}")
        if value < 0 and not self.signed:
            raise InputError(f"{where}: score {score:g}, {NOT_NEGATIVE}")
        if abs(value) > LARGEST_AMOUNT:
            least = -LARGEST_AMOUNT if self.signed else 0
            raise InputError(f"{where}: score {score:g}, expected {least:g} to {LARGEST_AMOUNT:g}")
        return value

    @property
    def signed(self) -> bool:
        """True if scores may be negative."""
        return self.metric is not None and METRICS[self.metric].ideal is None


PERCENTAGES = "or --goal 'NAME>=97%' or --metric NAME:accuracy% for percentages"


def metric_of(column: str) -> MetricName | None:
    """Return the metric that the name of a column ends with, such as loss for val_loss; None for other names."""
    return next((metric for metric, names in _NAMES.items() if names.search(column)), None)


class Chosen(NamedTuple):
    """The column that holds the score, and the metric that it measures."""

    column: str
    metric: MetricName

    @property
    def name(self) -> str | None:
        """The name that pages call the score by; None where the metric says it, or the name cannot be shown."""
        says_it = metric_of(self.column) == self.metric and METRICS[self.metric].ideal is not None
        return None if says_it or not re.fullmatch(SCORE_NAME_PATTERN, self.column) else self.column


def choose_column(names: Iterable[str], asked: Asked, where: str) -> Chosen:
    """Choose the column that holds the score.

    Scores of a validation split are preferred to those of training, and metrics with an ideal score to others.

    Raises:
        InputError: when there is no such column, or several.
    """
    known = list(dict.fromkeys(names))
    if asked.column is not None:
        if asked.column not in known:
            expected = f"expected one of {_listed(known)}" if known else "and no other score is there"
            raise InputError(f"{where}: {bare(asked.column)}: missing, {expected}")
        metric = asked.metric or metric_of(asked.column)
        if metric is None:
            raise InputError(f"{where}: {bare(asked.column)}: which way is better? expected {HOW_TO_NAME}")
        return Chosen(asked.column, metric)
    fitting: list[Chosen] = []
    for name in known:
        metric = metric_of(name)
        if metric and asked.metric in (None, metric):
            fitting.append(Chosen(name, metric))
    fitting = [one for one in fitting if METRICS[one.metric].ideal is not None] or fitting
    of_validation = [one for one in fitting if re.match(r"(val|valid|validation|eval|dev)([_/. -]|$)", one[0].lower())]
    not_of_training = [one for one in fitting if not re.match(r"(train|test)", one[0].lower())]
    chosen = of_validation or not_of_training
    if len(chosen) == 1:
        return chosen[0]
    if not chosen and asked.metric and "value" in known:
        return Chosen("value", asked.metric)
    if not known:
        raise InputError(f"{where}: no score, expected at least one")
    several = f"{_listed([name for name, _ in chosen])} are scores" if chosen else f"no score among {_listed(known)}"
    raise InputError(f"{where}: {several}, expected {HOW_TO_NAME}")


HOW_TO_NAME = "--goal 'NAME<=3.28', --metric NAME:loss or --metric NAME:score to name one"


def _listed(names: list[str]) -> str:
    return bare(", ".join(names), LONGEST_REASON) or "nothing"


def named_in(text: str, wanted: str) -> str | None:
    """Find a setting in the name of a file, a folder or a run, such as bs64-lr0.1-seed2; None if it names several."""
    found = dict.fromkeys(match[1] for match in _IN_A_NAME[wanted].finditer(text.lower()))
    return next(iter(found)) if len(found) == 1 else None


def run_folder(path: Path) -> str:
    """Return the name of the folder of the run that a file is of, with that of the version or checkpoint in it."""
    folder = path.absolute().parent
    return f"{folder.parent.name}/{folder.name}" if _PART_OF_A_RUN.fullmatch(folder.name) else folder.name


def settings_from_name(text: str) -> dict[str, float]:
    """Return the batch size, rate and seed that a name states."""
    found = {wanted: named_in(text, wanted) for wanted in _IN_A_NAME}
    return {wanted: float(value) for wanted, value in found.items() if value is not None}


def made_run(
    where: str,
    known: dict[str, float],
    asked: Asked,
    unit: Unit | None,
    evaluations: Iterable[Evaluation],
    clock: tuple[float, float] | None = None,
) -> OutsideRun:
    """Check the settings of a run, and put its evaluations into the order of training.

    Args:
        where: File and name of the run.
        known: batch_size, learning_rate and seed, as far as they are known.
        asked: Options of the user.
        unit: Unit of the evaluations.
        evaluations: In any order; one that is repeated with the same score is kept once.
        clock: As in `OutsideRun`; by default the seconds of the evaluations.

    Raises:
        InputError: when the batch size is not known, a setting is out of range, or two scores contradict each other.
    """
    size = asked.batch_size or known.get("batch_size")
    if size is None:
        raise InputError(f"{where}: batch_size: not in the file, expected --batch-size N, or a name such as bs64-lr0.1")
    seed, rate = known.get("seed"), known.get("learning_rate")
    whole = {"batch_size": (size, 1, LARGEST_BATCH_SIZE), "seed": (seed or 0, 0, LARGEST_COUNT)}
    for name, (value, least, most) in whole.items():
        if not (least <= value <= most and float(value).is_integer()):
            raise InputError(f"{where}: {name}: {value:g}, expected a whole number from {least} to {most}")
    if rate is not None and not LEAST_AMOUNT <= rate <= LARGEST_RATE:
        raise InputError(f"{where}: learning_rate: {rate:g}, expected {LEAST_AMOUNT:g} to {LARGEST_RATE:g}")
    ordered = _in_order(where, evaluations)
    scored = tuple(replace(one, score=asked.scaled(one.score, f"{where} at {one.at:g}")) for one in ordered)
    clock = clock or _clock(where, scored)
    return OutsideRun(where, int(size), rate, None if seed is None else int(seed), unit, scored, clock)


def _clock(where: str, evaluations: Sequence[Evaluation]) -> tuple[float, float] | None:
    """Return the training and the seconds between the first and the last reading of the clock."""
    read = [(one.at, one.seconds) for one in evaluations if one.seconds is not None]
    if len(read) < 2:
        return None
    for (before, earlier), (at, later) in pairwise(read):
        if later < earlier:
            raise InputError(
                f"{where}: seconds: {later:g} at {at:g}, after {earlier:g} at {before:g}, expected a clock that runs"
                " from the start of the training to its end"
            )
    trained, seconds = read[-1][0] - read[0][0], read[-1][1] - read[0][1]
    if seconds <= 0:
        raise InputError(f"{where}: seconds: do not grow from {read[0][0]:g} to {read[-1][0]:g}, expected a clock")
    return trained, seconds


def _in_order(where: str, evaluations: Iterable[Evaluation]) -> list[Evaluation]:
    kept: dict[float, Evaluation] = {}
    for one in evaluations:
        if not (0 <= one.at <= LARGEST_AMOUNT):
            raise InputError(f"{where}: an evaluation at {one.at:g}, expected 0 to {LARGEST_AMOUNT:g}")
        if one.at in kept and kept[one.at].score != one.score:
            raise InputError(f"{where}: two scores at {one.at:g}, expected one evaluation there")
        kept.setdefault(one.at, one)
    if not kept:
        raise InputError(f"{where}: no evaluation, expected at least one score")
    if len(kept) > MOST_EVALUATIONS:
        raise InputError(f"{where}: {len(kept):,} scores of one run, expected at most {MOST_EVALUATIONS:,}")
    return [kept[at] for at in sorted(kept)]


def score_value(value: object, where: str) -> float | None:
    """Return a score that was read from JSON; None where it is not finite.

    Raises:
        InputError: when it is no number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where}: {printable(value)}, expected a number")
    return float(value) if math.isfinite(value) else None


def finite_value(value: object, where: str) -> float:
    """Return a number that was read from JSON.

    Raises:
        InputError: when it is no number, or not finite.
    """
    found = score_value(value, where)
    if found is None:
        raise InputError(f"{where}: {printable(value)}, expected a finite number")
    return found


def refuse_many(path: Path, count: int) -> None:
    """Raise InputError where a file holds more runs than are ever compared."""
    if count > MOST_RUNS:
        raise InputError(f"{path}: {count} runs, expected at most {MOST_RUNS:,}")
