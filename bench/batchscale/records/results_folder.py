"""Results folders: where they lie, what they hold beside the rows, and when a run may add to one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import tomli_w
from msgspec import Meta

from batchscale.config import experiment as experiments
from batchscale.config.experiment import Experiment
from batchscale.config.vocabulary import StageName
from batchscale.errors import InputError
from batchscale.printable import bare, printable
from batchscale.records import row_files
from batchscale.records.row_types import AnyRow, Environment, Machine, MachineFile, Row, Run, Slug, Text

THROUGHPUT, CONVERGENCE, VERIFICATION = "throughput.jsonl", "convergence.jsonl", "verification.jsonl"
ROWS_OF: dict[StageName, str] = {"throughput": THROUGHPUT, "convergence": CONVERGENCE}
JOINED_FROM = "convergence_from.json"
PRICE = "price.json"
LOCAL = Path("results/local")
MOST_PER_HOUR = 1e9
MOST_SHOWN = 3
"""Differences named one by one; of more, their number."""


def folder_of(results: Path, experiment: Experiment, machine: Machine) -> Path:
    """`<results>/<experiment>/<machine>`."""
    return results / experiment.name / machine.name


def prepare(folder: Path, experiment: Experiment, machine: Machine, environments: dict[str, Environment]) -> None:
    """Make the folder ready for rows of this experiment on this machine.

    Raises:
        InputError: when it holds another protocol or another machine, with the difference named.
    """
    _accept_experiment(folder, experiment)
    known = row_files.read_machine(folder) if (folder / "machine.json").exists() else None
    if known is not None and known.machine != machine:
        different = _different(msgspec.to_builtins(known.machine), msgspec.to_builtins(machine))
        raise InputError(f"{folder}: its rows are from another machine ({different}); give another --results")
    merged = {**(known.environments if known else {}), **environments}
    label = MachineFile(machine=machine, environments=merged)
    row_files.write_json(folder / "machine.json", label)


def _accept_experiment(folder: Path, experiment: Experiment) -> None:
    path = folder / "experiment.toml"
    if path.exists() and any(_has_rows(folder / name) for name in (THROUGHPUT, CONVERGENCE)):
        known = experiments.read(path)
        if known.fingerprint != experiment.fingerprint:
            different = _different(known.protocol, experiment.protocol)
            raise InputError(
                f"{folder}: its rows were measured under another protocol ({different});"
                f" undo the edit, rename the experiment file, or give another --results"
            )
    row_files.write_whole(path, to_toml(experiment))


def _has_rows(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def to_toml(experiment: Experiment) -> bytes:
    """The experiment as TOML, defaults written out."""
    return tomli_w.dumps(_without_none(msgspec.to_builtins(experiment))).encode()


def _without_none(table: dict[str, object]) -> dict[str, object]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }


def _different(known: dict, wanted: dict) -> str:
    found = list(_differences(known, wanted))
    more = [f"and {len(found) - MOST_SHOWN} more"] if len(found) > MOST_SHOWN else []
    return ", ".join([*found[:MOST_SHOWN], *more])


def _differences(known: dict, wanted: dict, path: str = "") -> Iterator[str]:
    for key in sorted({*known, *wanted}):
        before, after = known.get(key), wanted.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{path}{key}.")
        elif before != after:
            yield f"{path}{bare(key)}: {printable(before)} there, {printable(after)} here"


def rows(folder: Path, name: str, experiment: Experiment) -> Iterator[AnyRow]:
    """The rows of one file, all of one experiment.

    Raises:
        InputError: on a row of another protocol, a run with other options than are searched, or one that is not valid.
    """
    for number, row in enumerate(row_files.read(folder / name), start=1):
        where = f"{folder / name}:{number}"
        if row.fingerprint != experiment.fingerprint:
            raise InputError(f"{where}: {_of_another_protocol(row, experiment)}")
        if isinstance(row, Run) and row.options.keys() != experiment.search.keys():
            found, right = printable(sorted(row.options)), printable(list(experiment.searched))
            raise InputError(f"{where}: options: {found} in a run of an experiment that searches {right}")
        yield row


def _of_another_protocol(row: Row, experiment: Experiment) -> str:
    """Rows carry only the protocol's hash, so the sizes of the difference that can be seen are named."""
    found = f"experiment {row.experiment}, protocol {row.fingerprint}"
    right = f"experiment {experiment.name}, protocol {experiment.fingerprint}"
    return f"a {type(row).__name__.lower()} row of {found} among those of {right}; one protocol per folder is right"


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """`price.json`: what an hour of the machine costs, in whatever currency its user counts."""

    schema: Literal[1] = 1
    per_hour: Annotated[float, Meta(gt=0, le=MOST_PER_HOUR)]


def set_price(folder: Path, per_hour: float) -> None:
    """Keep a price beside the rows, so that every later report knows it.

    Raises:
        InputError: when it is no results folder, or the disk refuses.
    """
    experiments.read(folder / "experiment.toml")
    row_files.write_json(folder / PRICE, Price(per_hour=per_hour))


class JoinedFrom(msgspec.Struct, frozen=True, kw_only=True):
    """`convergence_from.json`: the trials were measured on another machine and joined with the speeds of this one."""

    schema: Literal[1] = 1
    folder: Text
    machine: Slug


def refuse_unlike(experiment: Experiment, folder: Path, source: Path) -> None:
    """Check that trials in `source` may be joined with the speeds of `experiment` in `folder`, which may not be there.

    Raises:
        InputError: when the protocols differ, or `folder` has trials of its own.
    """
    other = experiments.read(source / "experiment.toml")
    if experiment.fingerprint != other.fingerprint:
        different = _different(other.protocol, experiment.protocol)
        raise InputError(
            f"{source}: another protocol than {experiment.name} ({different}); convergence cannot be joined"
        )
    if (folder / CONVERGENCE).exists() and not (folder / JOINED_FROM).exists():
        raise InputError(f"{folder}: has convergence rows of its own; give another --results to join those of {source}")


def join_convergence(folder: Path, source: Path) -> None:
    """Take the trials of another results folder beside the throughput measured here; convergence knows no hardware.

    Raises:
        InputError: when the protocols differ, or this folder has trials of its own.
    """
    other = experiments.read(source / "experiment.toml")
    refuse_unlike(experiments.read(folder / "experiment.toml"), folder, source)
    mark = folder / JOINED_FROM
    joined = JoinedFrom(folder=f"{other.name}/{source.name}", machine=row_files.read_machine(source).machine.name)
    data = b"".join(map(row_files.encode, rows(source, CONVERGENCE, other)))
    row_files.write_json(mark, joined)
    row_files.write_whole(folder / CONVERGENCE, data)
    merged = {**row_files.read_machine(source).environments, **row_files.read_machine(folder).environments}
    label = MachineFile(machine=row_files.read_machine(folder).machine, environments=merged)
    row_files.write_json(folder / "machine.json", label)
