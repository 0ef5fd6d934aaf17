"""Turn tables that were measured elsewhere into results folders, which every other command then reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import msgspec

from batchscale.analysis.exchange.out_folder import refuse_foreign, remove_earlier
from batchscale.analysis.frames.amounts import Amounts, by_own_clocks
from batchscale.analysis.frames.imported import Imported
from batchscale.analysis.frames.outside_curves import (
    amounts_of_runs,
    budget_of,
    curve_experiment,
    curve_rows,
    timings_of,
)
from batchscale.analysis.frames.outside_tables import (
    UNNAMED,
    amounts_of_needs,
    evaluation_interval,
    experiment_of,
    machines_of,
    round_rows,
    slug,
    trial_rows,
    unknown_machine,
)
from batchscale.analysis.outside import recognise
from batchscale.analysis.outside.runs import Asked, OutsideRun, Reading
from batchscale.analysis.outside.tables import Need, Timing, read_timings
from batchscale.analysis.summary_types import Summary
from batchscale.config.experiment import Experiment
from batchscale.config.goal import Goal, MetricName
from batchscale.config.target import LARGEST_LOSS
from batchscale.config.vocabulary import LARGEST_EXAMPLES, NAME_PATTERN, NAME_RULE
from batchscale.errors import InputError
from batchscale.printable import bare, printable
from batchscale.records import results_folder, row_files
from batchscale.records.results_folder import set_price, to_toml
from batchscale.records.row_types import Compilation, Round, TimedEpoch, Trial


class MachineSummaries(msgspec.Struct, frozen=True, kw_only=True):
    """`summary.json` where tables hold several machines: one summary for each, by the name of the machine."""

    schema: int = 1
    machines: dict[str, Summary]


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the user knows and no file holds.

    Attributes:
        train_examples: examples in an epoch, to convert units.
        tokens_per_example: to convert tokens.
        target: the score that the runs were to reach, as the metric counts it.
        evaluated_every: distance of two evaluations, in the unit of a table of needs.
        workload: a name of what was trained; only folders of one name are compared.
        tolerance: share of the best score within which scores are called as good.
        scores: the metric, and where the files hold it.
    """

    train_examples: int | None = None
    tokens_per_example: int | None = None
    target: float | None = None
    evaluated_every: float | None = None
    workload: str | None = None
    tolerance: float | None = None
    scores: Asked = Asked()


NOTHING_KNOWN = Known()


@dataclass(frozen=True)
class Found:
    """What the files hold, ready to be written.

    Attributes:
        trials: Makes the training runs of a machine.
        timings: The speeds of every machine.
        amounts: What the training runs are counted in.
    """

    experiment: Experiment
    imported: Imported
    amounts: Amounts
    trials: Callable[[str], Iterable[Trial]]
    timings: dict[str, list[Timing]]


def write_folders(
    convergence: Sequence[Path],
    throughput: Path | None,
    out: Path,
    known: Known = NOTHING_KNOWN,
    price_per_hour: float | None = None,
) -> dict[str, Path]:
    """Turn training runs and speeds of other tools into results folders; return each machine's by its name.

    A single machine's folder is `out` itself. Several machines have a folder each below `out`. What an earlier call
    made in `out` is removed.

    Args:
        convergence: files, or folders of files, with training runs.
        throughput: a table of speeds; by default the speeds are those of the runs' own clocks, if they have one.
        out: the folder to write.
        known: what no file holds.
        price_per_hour: a price to keep in every folder.

    Raises:
        InputError: when a file or an option is wrong, or `out` holds anything that was not made from tables.
    """
    check_known(known)
    refuse_foreign(out, [*convergence, *([throughput] if throughput else [])])
    found = _find(convergence, throughput, known)
    folders = {name: out if len(found.timings) == 1 else out / slug(name) for name in found.timings}
    source, rows = throughput or convergence[0], {}
    for name, timings in found.timings.items():
        rounds = round_rows(timings, found.experiment, slug(name), found.amounts, source)
        rows[name] = [*found.trials(slug(name))], [*rounds]
    remove_earlier(out)
    for name, folder in folders.items():
        trials, rounds = rows[name]
        _write(folder, found.experiment, name, found.imported, trials=trials, rounds=rounds)
        if price_per_hour is not None:
            set_price(folder, price_per_hour)
    return folders


def _find(convergence: Sequence[Path], throughput: Path | None, known: Known) -> Found:
    """Read all files."""
    read = settled(recognise.read(convergence, known.scores), convergence[0], known)
    timings = read_timings(throughput) if throughput else []
    files = convergence[0], throughput
    if isinstance(read, Reading):
        return of_scores(read, timings, files, known)
    if throughput is None:
        raise InputError(f"{convergence[0]}: holds what runs needed and no clock, expected --throughput CSV too")
    experiment = experiment_of(read, timings, known.target, files, known.workload)
    amounts = replace(
        amounts_of_needs(read, known.train_examples, files[0]), tokens_per_example=known.tokens_per_example
    )
    every = f"{known.evaluated_every:g}" if known.evaluated_every else evaluation_interval(read)
    observed = [f"Needs were observed to {every}: a run may have reached the target up to so much earlier."]
    imported = Imported(
        train_examples=known.train_examples,
        target=known.target,
        learning_rates=any(need.learning_rate is not None for need in read),
        notes=observed if every else [],
    )

    def trials(machine: str) -> Iterable[Trial]:
        return trial_rows(read, experiment, machine, amounts, files[0], known.evaluated_every)

    return Found(experiment, imported, amounts, trials, machines_of(timings, throughput))


def settled(read: list[Need] | Reading, file: Path, known: Known) -> list[Need] | Reading:
    """Decide by the scores themselves, and by the goal, whether they are shares, percentages or neither.

    Raises:
        InputError: when the scores are percentages and the goal is a share, or the other way round.
    """
    if not isinstance(read, Reading):
        return read
    column = bare(known.scores.column or read.metric)
    _refuse_two_units(read, file, column, known)
    metric, meaning = _meaning(read, known)
    return replace(
        read, metric=metric, notes=[*read.notes, f"{column} is read as {meaning}."] if meaning else read.notes
    )


def _refuse_two_units(read: Reading, file: Path, column: str, known: Known) -> None:
    """Refuse percentages where the goal is a share, and the other way round."""
    field, target, (least, greatest) = f"{file}: {column}", known.target, read.extremes
    if read.metric == "score" and target is not None:
        above, below = 1 < target <= 100 and 0 <= least <= greatest <= 1, 0 < target < 1 and target < least
        if above or (below and 1 < greatest <= 100):
            found = f"all its values are from {least:g} to {greatest:g}, and the goal is {target:g}"
            raise InputError(f"{field}: {found}, expected both in one unit (NAME>=97% reads percentages)")
    if known.scores.percent and greatest <= 1 / 100 and (target is None or target > 1 / 100):
        raise InputError(
            f"{field}: at most {100 * greatest:g}, expected percentages for a --goal with % or above 1, or"
            " a --goal such as 'NAME>=0.97'"
        )
    if known.scores.percent:
        _refuse_shares_among_percentages(read.runs, column)


def _refuse_shares_among_percentages(runs: Sequence[OutsideRun], column: str) -> None:
    """Refuse runs whose scores would be like those of the other runs if they were shares.

    A run at the level of chance may have less than 1% too, but as a share its score would be far below the others.
    """
    best = [max((one.score for one in run.evaluations if one.score is not None), default=0.0) for run in runs]
    usual = median([score for score in best if score >= 1 / 100] or [1.0])
    for run, score in zip(runs, best, strict=True):
        if score < 1 / 100 and 0.8 <= 100 * score / usual <= 1.25:
            found = f"{100 * score:g} at most, and other runs reach about {100 * usual:.3g}"
            raise InputError(f"{run.where}: {column}: {found}, expected percentages of every run")


def _meaning(read: Reading, known: Known) -> tuple[MetricName, str]:
    """Return the metric of the scores, and what they are read as; empty where the files or the user say it."""
    least, greatest = read.extremes
    if known.scores.percent:
        return read.metric, "percentages: 97 stands for 97%"
    if read.metric == "loss" and read.name is not None:
        return read.metric, "a loss, whose ideal score is 0 (--metric NAME:cost assumes none)"
    if not known.scores.may_be_share:
        return read.metric, ""
    if least < 0 or greatest > 1:
        reach = f"its values reach from {least:g} to {greatest:g}"
        return read.metric, f"a plain score: {reach}, so it is no share, and no ideal score is known"
    assumed = "so its ideal score is taken to be 1 (--metric NAME:score assumes none)"
    return "accuracy", f"a share: its values are from 0 to 1, {assumed}"


def refuse_reached_untrained(read: Reading, goal: Goal) -> None:
    """Refuse a target that a run reached before any training: no time to it could be compared.

    Raises:
        InputError: names the run.
    """
    for run in read.runs:
        first = run.evaluations[0]
        if first.at == 0 and first.score is not None and goal.reached(first.score):
            raise InputError(
                f"{run.where}: {first.score:g} before any training, expected a target that is not yet reached"
            )


def of_scores(read: Reading, timings: list[Timing], files: tuple[Path, Path | None], known: Known) -> Found:
    """Take curves, or final scores without a target."""
    final, amounts = read.final_only, amounts_of_runs(read, known.train_examples, known.tokens_per_example)
    if final and known.target is not None:
        expected = "expected --metric NAME:METRIC, and neither --target nor --goal"
        raise InputError(f"{files[0]}: one score of each run does not show when it reached the target, {expected}")
    if not final and known.target is None:
        raise InputError(f"{files[0]}: expected --target, the {read.metric} to reach, or --goal 'NAME<=3.28'")
    clocked = [] if timings or final else timings_of(read, amounts)
    experiment = curve_experiment(read, timings, known.target, files, known.workload)
    if known.target is not None:
        refuse_reached_untrained(read, experiment.goal)
    budget = budget_of(read, amounts)
    imported = Imported(
        train_examples=known.train_examples,
        target=known.target,
        learning_rates=any(run.learning_rate is not None for run in read.runs),
        scores=True,
        budget=amounts.words(budget or 0.0),
        budget_trained=budget or None,
        tolerance=known.tolerance,
        notes=[*read.notes, *([by_own_clocks("Speeds")] if clocked else [])],
    )
    by_machine = machines_of([*timings, *clocked], files[1] or files[0]) or {UNNAMED: []}
    return Found(
        experiment, imported, amounts, lambda machine: curve_rows(read, experiment, machine, amounts), by_machine
    )


def write_together(out: Path, summaries: dict[str, Summary]) -> MachineSummaries:
    """Write `out/summary.json`, which holds the summary of every machine by its name; return what was written.

    Raises:
        InputError: when the disk reports an error.
    """
    together = MachineSummaries(machines=summaries)
    row_files.write_json(out / results_folder.SUMMARY, together)
    return together


def check_known(known: Known) -> None:
    """Refuse what the user says where it is out of range."""
    target, every = known.target, known.evaluated_every
    if target is not None:
        _check_target(target, known.scores.metric)
    if every is not None and not 0 < every <= LARGEST_EXAMPLES:
        raise InputError(f"--evaluated-every: {every:g}, expected a number above 0 and up to {LARGEST_EXAMPLES:.0e}")
    if known.workload is not None and not re.fullmatch(NAME_PATTERN, known.workload):
        raise InputError(f"--workload: {printable(known.workload)}, expected {NAME_RULE}")


def _check_target(target: float, metric: MetricName | None) -> None:
    if metric in (None, "accuracy") and not 0 < target < 1:
        hint = "" if metric else "; for a loss add --metric loss, for a reward --metric score"
        raise InputError(f"--target: {target:g}, expected an accuracy between 0 and 1, such as 0.99{hint}")
    if metric in ("loss", "bits_per_byte") and not 0 < target <= LARGEST_LOSS:
        raise InputError(f"--target: {target:g}, expected a {metric} above 0 and up to {LARGEST_LOSS:g}")


def _write(
    folder: Path,
    experiment: Experiment,
    name: str,
    imported: Imported,
    *,
    trials: list[Trial],
    rounds: list[Round | TimedEpoch | Compilation],
) -> None:
    row_files.write_whole(folder / results_folder.EXPERIMENT, to_toml(experiment))
    row_files.write_json(folder / results_folder.MACHINE, unknown_machine(name))
    row_files.write_json(folder / results_folder.IMPORTED, imported)
    row_files.write_whole(folder / results_folder.CONVERGENCE, b"".join(map(row_files.encode, trials)))
    row_files.write_whole(folder / results_folder.THROUGHPUT, b"".join(map(row_files.encode, rounds)))
