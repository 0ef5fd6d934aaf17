"""Turn tables that were measured elsewhere into results folders, which every other command then reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from batchscale.analysis.exchange.out_folder import refuse_foreign, remove_earlier
from batchscale.analysis.frames.frames import Imported
from batchscale.analysis.frames.outside_tables import (
    LARGEST_EXAMPLES,
    evaluation_interval,
    experiment_of,
    machines_of,
    round_rows,
    slug,
    trial_rows,
    unknown_machine,
)
from batchscale.analysis.outside.tables import Need, read_needs, read_timings
from batchscale.analysis.summary_types import Summary
from batchscale.config.experiment import Experiment
from batchscale.config.vocabulary import NAME_PATTERN, NAME_RULE
from batchscale.errors import InputError
from batchscale.printable import printable
from batchscale.records import results_folder, row_files
from batchscale.records.results_folder import set_price, to_toml
from batchscale.records.row_types import Compilation, Round, Trial


class MachineSummaries(msgspec.Struct, frozen=True, kw_only=True):
    """`summary.json` where tables hold several machines: one summary for each, by the name of the machine."""

    schema: int = 1
    machines: dict[str, Summary]


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the user knows and no file holds.

    Attributes:
        train_examples: examples in an epoch, to convert units.
        target: the accuracy that the runs reached.
        evaluated_every: distance of two evaluations, in the unit of the convergence table.
        workload: a name of what was trained; only folders of one name are compared.
    """

    train_examples: int | None = None
    target: float | None = None
    evaluated_every: float | None = None
    workload: str | None = None


NOTHING_KNOWN = Known()


def write_folders(
    convergence: Path,
    throughput: Path,
    out: Path,
    known: Known = NOTHING_KNOWN,
    price_per_hour: float | None = None,
) -> dict[str, Path]:
    """Turn a table of runs and one of speeds into results folders; return the folder of each machine by its name.

    A single machine's folder is `out` itself. Several machines have a folder each below `out`. What an earlier call
    made in `out` is removed.

    Raises:
        InputError: when a table or an option is wrong, or `out` holds anything that was not made from tables.
    """
    _check_known(known)
    refuse_foreign(out, (convergence, throughput))
    needs, timings = read_needs(convergence), read_timings(throughput)
    by_machine = machines_of(timings, throughput)
    experiment = experiment_of(needs, timings, known.target, convergence, throughput, known.workload)
    imported = _imported(needs, known)
    folders = {name: out if len(by_machine) == 1 else out / slug(name) for name in by_machine}
    rows = {}
    for name in folders:
        trials = trial_rows(needs, experiment, slug(name), known.train_examples, convergence, known.evaluated_every)
        rounds = round_rows(by_machine[name], experiment, slug(name), known.train_examples, throughput)
        rows[name] = [*trials], [*rounds]
    remove_earlier(out)
    for name, folder in folders.items():
        trials, rounds = rows[name]
        _write(folder, experiment, name, imported, trials=trials, rounds=rounds)
        if price_per_hour is not None:
            set_price(folder, price_per_hour)
    return folders


def _imported(needs: Sequence[Need], known: Known) -> Imported:
    every = f"{known.evaluated_every:g}" if known.evaluated_every else evaluation_interval(needs)
    observed = [f"Needs were observed to {every}: a run may have reached the target up to so much earlier."]
    return Imported(
        train_examples=known.train_examples,
        target_accuracy=known.target,
        learning_rates=any(need.learning_rate is not None for need in needs),
        notes=observed if every else [],
    )


def write_together(out: Path, summaries: dict[str, Summary]) -> MachineSummaries:
    """Write `out/summary.json`, which holds the summary of every machine by its name; return what was written.

    Raises:
        InputError: when the disk reports an error.
    """
    together = MachineSummaries(machines=summaries)
    row_files.write_json(out / results_folder.SUMMARY, together)
    return together


def _check_known(known: Known) -> None:
    examples, target, every = known.train_examples, known.target, known.evaluated_every
    if examples is not None and not 1 <= examples <= LARGEST_EXAMPLES:
        raise InputError(f"--train-examples: {examples}, expected a whole number from 1 to {LARGEST_EXAMPLES}")
    if target is not None and not 0 < target < 1:
        raise InputError(f"--target: {target:g}, expected an accuracy between 0 and 1, such as 0.99")
    if every is not None and not 0 < every <= LARGEST_EXAMPLES:
        raise InputError(f"--evaluated-every: {every:g}, expected a number above 0 and up to {LARGEST_EXAMPLES:.0e}")
    if known.workload is not None and not re.fullmatch(NAME_PATTERN, known.workload):
        raise InputError(f"--workload: {printable(known.workload)}, expected {NAME_RULE}")


def _write(
    folder: Path,
    experiment: Experiment,
    name: str,
    imported: Imported,
    *,
    trials: list[Trial],
    rounds: list[Round | Compilation],
) -> None:
    row_files.write_whole(folder / results_folder.EXPERIMENT, to_toml(experiment))
    row_files.write_json(folder / results_folder.MACHINE, unknown_machine(name))
    row_files.write_json(folder / results_folder.IMPORTED, imported)
    row_files.write_whole(folder / results_folder.CONVERGENCE, b"".join(map(row_files.encode, trials)))
    row_files.write_whole(folder / results_folder.THROUGHPUT, b"".join(map(row_files.encode, rounds)))
