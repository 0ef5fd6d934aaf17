"""Turn tables that were measured elsewhere into results folders, which every other command then reads."""

from __future__ import annotations

from pathlib import Path

import msgspec

from batchscale.analysis.frames.frames import Imported
from batchscale.analysis.frames.outside_tables import (
    LARGEST_EXAMPLES,
    experiment_of,
    machines_of,
    read_needs,
    read_timings,
    round_rows,
    slug,
    trial_rows,
    unknown_machine,
)
from batchscale.analysis.summary_types import Summary
from batchscale.config.experiment import Experiment
from batchscale.errors import InputError
from batchscale.records import results_folder, row_files
from batchscale.records.results_folder import set_price, to_toml
from batchscale.records.row_types import Round, Trial


class MachineSummaries(msgspec.Struct, frozen=True, kw_only=True):
    """`summary.json` where tables hold several machines: one summary for each, by the name of the machine."""

    schema: int = 1
    machines: dict[str, Summary]


def write_folders(
    convergence: Path,
    throughput: Path,
    out: Path,
    train_examples: int | None = None,
    target: float | None = None,
    price_per_hour: float | None = None,
) -> dict[str, Path]:
    """Turn a table of runs and one of speeds into results folders; return the folder of each machine by its name.

    A single machine's folder is `out` itself. Several machines have a folder each below `out`.

    Args:
        convergence: the table of runs.
        throughput: the table of speeds.
        out: the folder to write.
        train_examples: needed to convert epochs.
        target: the accuracy that the runs reached.
        price_per_hour: a price to keep in every folder.

    Raises:
        InputError: when a table or an option is wrong, or `out` holds rows that were not made from tables.
    """
    _check_options(train_examples, target)
    needs, timings = read_needs(convergence), read_timings(throughput)
    by_machine = machines_of(timings, throughput)
    rates = any(need.learning_rate is not None for need in needs)
    imported = Imported(train_examples=train_examples, target_accuracy=target, learning_rates=rates)
    experiment = experiment_of(needs, timings, target, convergence)
    folders = {name: out if len(by_machine) == 1 else out / slug(name) for name in by_machine}
    for folder in {out, *folders.values()}:
        _refuse_measured(folder)
    for name, folder in folders.items():
        trials = trial_rows(needs, experiment, slug(name), train_examples, convergence)
        rounds = round_rows(by_machine[name], experiment, slug(name), train_examples, throughput)
        _write(folder, experiment, name, imported, trials=list(trials), rounds=list(rounds))
        if price_per_hour is not None:
            set_price(folder, price_per_hour)
    return folders


def write_together(out: Path, summaries: dict[str, Summary]) -> MachineSummaries:
    """Write `out/summary.json`, which holds the summary of every machine by its name; return what was written.

    Raises:
        InputError: when the disk reports an error.
    """
    together = MachineSummaries(machines=summaries)
    row_files.write_json(out / results_folder.SUMMARY, together)
    return together


def _check_options(train_examples: int | None, target: float | None) -> None:
    if train_examples is not None and not 1 <= train_examples <= LARGEST_EXAMPLES:
        raise InputError(f"--train-examples: {train_examples}, expected a whole number from 1 to {LARGEST_EXAMPLES}")
    if target is not None and not 0 < target < 1:
        raise InputError(f"--target: {target:g}, expected an accuracy between 0 and 1, such as 0.99")


def _write(
    folder: Path, experiment: Experiment, name: str, imported: Imported, *, trials: list[Trial], rounds: list[Round]
) -> None:
    row_files.write_whole(folder / results_folder.EXPERIMENT, to_toml(experiment))
    row_files.write_json(folder / results_folder.MACHINE, unknown_machine(name))
    row_files.write_json(folder / results_folder.IMPORTED, imported)
    row_files.write_whole(folder / results_folder.CONVERGENCE, b"".join(map(row_files.encode, trials)))
    row_files.write_whole(folder / results_folder.THROUGHPUT, b"".join(map(row_files.encode, rounds)))


def _refuse_measured(folder: Path) -> None:
    """Refuse to overwrite rows that were measured, not made from tables."""
    rows = [name for name in results_folder.ROW_FILES if (folder / name).exists()]
    if rows and not (folder / results_folder.IMPORTED).exists():
        raise InputError(f"{folder}: holds {rows[0]}, which was not made from tables, expected another --out")
