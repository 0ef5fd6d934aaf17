"""Results folders: the files that they hold, and when a run may add to one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

import msgspec
import tomli_w
from msgspec import Meta

from batchscale.config import experiment as experiments
from batchscale.config.experiment import Experiment
from batchscale.config.vocabulary import Slug, StageName
from batchscale.errors import InputError
from batchscale.printable import bare, printable
from batchscale.records import row_files
from batchscale.records.machine_file import Environment, Machine, MachineFile
from batchscale.records.row_types import AnyRow, Data, Row, Run, Text
from batchscale.untrusted_input import is_there, read_json

T = TypeVar("T")

EXPERIMENT, MACHINE = "experiment.toml", "machine.json"
THROUGHPUT, CONVERGENCE, VERIFICATION = "throughput.jsonl", "convergence.jsonl", "verification.jsonl"
JOINED_FROM, PRICE, IMPORTED, TUNING = "convergence_from.json", "price.json", "imported.json", "tuning.json"
SUMMARY, REPORT = "summary.json", "report.html"


class ResultsFile(NamedTuple):
    """A file that a results folder may hold.

    Attributes:
        name: Its name in the folder.
        holds: What it holds.
        largest_bytes: A larger file is not read.
        published: Whether `submit` copies it; it must then hold nothing that names a person or a private machine.
        required: Whether results without it are incomplete.
    """

    name: str
    holds: str
    largest_bytes: int
    published: bool = False
    required: bool = False


_LABEL_BYTES = 1 << 16
FILES = (
    ResultsFile(EXPERIMENT, "the experiment, defaults written out", experiments.LARGEST_FILE_BYTES, True, True),
    ResultsFile(MACHINE, "the machine and the environments that rows name", 1 << 20, True, True),
    ResultsFile(THROUGHPUT, "rows of the throughput stage", row_files.LARGEST_FILE_BYTES, True, True),
    ResultsFile(CONVERGENCE, "rows of the convergence stage", row_files.LARGEST_FILE_BYTES, True, True),
    ResultsFile(VERIFICATION, "rows of single runs that verify the join", row_files.LARGEST_FILE_BYTES, True),
    ResultsFile(JOINED_FROM, "the results folder that the trials were taken from", _LABEL_BYTES, True),
    ResultsFile(PRICE, "the price of an hour of the machine", _LABEL_BYTES),
    ResultsFile(IMPORTED, "what is not known of results imported from tables", _LABEL_BYTES),
    ResultsFile(TUNING, "the fastest way to run each program; a resumed run repeats the choices", 1 << 20),
    ResultsFile(SUMMARY, "the answers in numbers, made from the rows", 32 << 20),
    ResultsFile(REPORT, "the page, made from the rows", 32 << 20),
)
"""Every file of a results folder, except figures/, the CSV tables of the page and a wave's checkpoint."""

ROW_FILES = (THROUGHPUT, CONVERGENCE, VERIFICATION)
ROWS_OF: dict[StageName, str] = {"throughput": THROUGHPUT, "convergence": CONVERGENCE}
PUBLISHED = tuple(file.name for file in FILES if file.published)
REQUIRED = tuple(file.name for file in FILES if file.required)
_LARGEST_BYTES = {file.name: file.largest_bytes for file in FILES}

LOCAL = Path("results/local")
MOST_PER_HOUR = 1e9
SAME_MEMORY = 0.02
"""Relative difference in memory up to which two machines of one description are one."""
MOST_SHOWN = 3
"""Number of differences that a message names; the others are counted."""


def folder_of(results: Path, experiment: Experiment, machine: Machine) -> Path:
    """Return `<results>/<experiment>/<machine>`."""
    return results / experiment.name / machine.name


def read_experiment(folder: Path) -> Experiment:
    """Read the `experiment.toml` of a results folder.

    Raises:
        InputError: if it is missing or not valid.
    """
    inside = None if (folder / EXPERIMENT).exists() else min(folder.glob(f"*/{EXPERIMENT}"), default=None)
    if inside is not None:
        raise InputError(f"{folder}: is no results folder, expected one of those in it, such as {inside.parent}")
    return experiments.read(folder / EXPERIMENT)


def read_machine(folder: Path) -> MachineFile:
    """Read the `machine.json` of a results folder.

    Raises:
        InputError: if it is missing or not valid.
    """
    return read_file(folder, MACHINE, MachineFile)


def read_file(folder: Path, name: str, to: type[T]) -> T:
    """Read a JSON file of a results folder as the type `to`.

    Args:
        folder: The results folder.
        name: One of the names in `FILES`.
        to: The type that the file must have.

    Raises:
        InputError: if it is missing, larger than `FILES` allows, or not valid.
    """
    return read_json(folder / name, to, _LARGEST_BYTES[name])


def read_label(folder: Path, name: str, to: type[T]) -> T | None:
    """Read a JSON file that a results folder need not have, as `read_file` does; None if it is not there."""
    return read_file(folder, name, to) if is_there(folder / name) else None


def prepare(
    folder: Path,
    experiment: Experiment,
    machine: Machine,
    environments: dict[str, Environment],
    data: Data | None = None,
) -> None:
    """Make the folder ready for rows of this experiment on this machine and, if given, this data.

    Raises:
        InputError: if it holds another protocol, machine, data or code; names the difference.
    """
    _refuse_other_protocol(folder, experiment)
    known = read_machine(folder) if (folder / MACHINE).exists() else None
    if known is not None and not same_machine(known.machine, machine):
        found = different(msgspec.to_builtins(known.machine), msgspec.to_builtins(machine))
        trained = f", and --continue-from {folder} to keep its training runs" if _has_rows(folder / CONVERGENCE) else ""
        raise InputError(f"{folder}: its rows are from another machine ({found}); give another --results{trained}")
    if data is not None:
        refuse_other_data(folder, data)
    merged = {**(known.environments if known else {}), **environments}
    row_files.write_whole(folder / EXPERIMENT, to_toml(experiment))
    kept = known or MachineFile(machine=machine, environments={})
    if not _has_rows(folder / CONVERGENCE):
        # The copy of another machine's trials was interrupted after it was described.
        kept = msgspec.structs.replace(kept, trained_on=[])
    row_files.write_json(folder / MACHINE, msgspec.structs.replace(kept, machine=machine, environments=merged))


def note_peak_rates(folder: Path, rates: Mapping[str, float]) -> None:
    """Write calibrated rates into the `machine.json` of a folder, in place of earlier ones of their names.

    Raises:
        InputError: if it is missing, not valid, or cannot be written.
    """
    known = read_machine(folder)
    merged = {**known.peak_rates, **rates}
    if merged != known.peak_rates:
        row_files.write_json(folder / MACHINE, msgspec.structs.replace(known, peak_rates=merged))


def _refuse_other_protocol(folder: Path, experiment: Experiment) -> None:
    path = folder / EXPERIMENT
    if path.exists() and any(_has_rows(folder / name) for name in (THROUGHPUT, CONVERGENCE)):
        known = experiments.read(path)
        if known.fingerprint != experiment.fingerprint:
            found = different(known.protocol, experiment.protocol)
            raise InputError(
                f"{folder}: its rows were measured under another protocol ({found});"
                f" undo the edit, go on with {path}, rename the experiment file, or give another --results"
            )


def same_machine(known: Machine, machine: Machine) -> bool:
    """Return True for one machine; after an update of the kernel its memory has some pages more or fewer."""
    before = known.host_memory_bytes
    near = abs(before - machine.host_memory_bytes) <= SAME_MEMORY * before
    return known == (msgspec.structs.replace(machine, host_memory_bytes=before) if near else machine)


def _has_rows(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def to_toml(experiment: Experiment) -> bytes:
    """Encode the experiment as TOML, defaults written out."""
    return tomli_w.dumps(_without_none(msgspec.to_builtins(experiment))).encode()


def _without_none(table: dict[str, object]) -> dict[str, object]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }


def different(known: dict, wanted: dict) -> str:
    """Return the settings in which two tables differ, each with both values."""
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
    """Read the rows of one file and check that all belong to one experiment.

    Raises:
        InputError: on a row of another protocol, a run with other options than are searched, or an invalid row.
    """
    for number, row in enumerate(row_files.read(folder / name), start=1):
        where = f"{folder / name}:{number}"
        if row.fingerprint != experiment.fingerprint:
            raise InputError(f"{where}: {_of_another_protocol(row, experiment)}")
        if isinstance(row, Run) and row.options.keys() != experiment.search.keys():
            found, right = printable(sorted(row.options)), printable(list(experiment.searched))
            raise InputError(f"{where}: options: {found}, expected {right}, which the experiment searches")
        yield row


def read_data(folder: Path) -> Data | None:
    """Return the row that describes the data of a results folder; None in a folder of an earlier version.

    Raises:
        InputError: on an invalid row before it.
    """
    each = (row for name in (THROUGHPUT, CONVERGENCE) for row in row_files.read(folder / name))
    return next((row for row in each if isinstance(row, Data)), None)


def refuse_other_data(folder: Path, now: Data) -> None:
    """Check that the rows of a folder were measured on the data and the code of `now`.

    Raises:
        InputError: if a hash differs.
    """
    known = read_data(folder)
    if known is not None and (changed := known.changed(now)):
        raise InputError(
            f"{folder}: its rows were measured on something else ({changed}); undo, or give another --results"
        )


def _of_another_protocol(row: Row, experiment: Experiment) -> str:
    """Name both protocols by their hashes: a row holds no more of its protocol, so no setting can be named."""
    found = f"experiment {row.experiment}, protocol {row.fingerprint}"
    right = f"experiment {experiment.name}, protocol {experiment.fingerprint}"
    return f"a {type(row).__name__.lower()} row of {found}, expected {right}"


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """`price.json`: what an hour of the machine costs, in the currency of its user."""

    schema: Literal[1] = 1
    per_hour: Annotated[float, Meta(gt=0, le=MOST_PER_HOUR)]


def set_price(folder: Path, per_hour: float) -> None:
    """Keep a price in the folder, so that every later report uses it.

    Raises:
        InputError: if it is not a results folder, or cannot be written.
    """
    read_experiment(folder)
    row_files.write_json(folder / PRICE, Price(per_hour=per_hour))


class JoinedFrom(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`convergence_from.json`: the trials were measured on another machine and joined with the speeds of this one.

    Attributes:
        folder: The other results folder, as `<experiment>/<machine>`.
        machine: Name of the other machine.
    """

    schema: Literal[1] = 1
    folder: Text
    machine: Slug


def joined_from(folder: Path) -> JoinedFrom | None:
    """Return where the trials of a folder were joined from; None where they were trained for it.

    Raises:
        InputError: if the label is not valid.
    """
    return read_label(folder, JOINED_FROM, JoinedFrom)
