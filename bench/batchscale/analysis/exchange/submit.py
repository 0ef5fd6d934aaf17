"""Check whether a results folder may be published, and copy it to the published results."""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Literal

import msgspec

from batchscale.analysis.frames import frames
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import only
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.pages.report import write_page
from batchscale.analysis.summary import build
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.summary_types import Summary
from batchscale.config.experiment import expand_batch_sizes
from batchscale.config.vocabulary import SLUG, STAGES
from batchscale.errors import InputError
from batchscale.printable import printable
from batchscale.records import results_folder, row_files
from batchscale.records.machine_file import Environment, MachineFile
from batchscale.records.results_folder import JoinedFrom, joined_from
from batchscale.records.row_types import AnyRow, Data

NEEDED_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")

# Strings that identify a person or a machine: home and scratch folders, Windows users' folders, electronic mail.
_PRIVATE = re.compile(rb"(?:/home/|/Users/|/root/|/tmp/|/mnt/|[A-Za-z]:\\\\?Users)[^\s\"']*|[\w.+-]+@[\w-]+\.[\w.]+")
SHORTEST_NAME = 4
LONGEST_NAME = 120


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a submission.

    Attributes:
        schema: version of this format.
        problems: what prevents the publication, one line each.
        place: the folder that was published; None where there were problems.
    """

    schema: Literal[1] = 1
    problems: list[str]
    place: str | None = None


def submit(folder: Path, published: Path) -> Submission:
    """Check a results folder and, where nothing is wrong with it, copy it to `published`/experiment/machine.

    Raises:
        InputError: when the disk reports an error.
    """
    if problems := [*_unfit_files(folder)]:
        return Submission(problems=problems)
    try:
        # The file with a price is not published, so the page is made without it.
        measured = replace(frames.load(folder), price_per_hour=None)
        joined = joined_from(folder)
        rows = {name: [*row_files.read(folder / name)] for name in results_folder.ROW_FILES}
        joined_rows = rows.pop(results_folder.CONVERGENCE) if joined else []
        own_rows = [*chain.from_iterable(rows.values())]
        of_join = [*_wrongly_joined(joined, joined_rows, own_rows, published)] if joined else []
        environments = results_folder.read_machine(folder).environments
    except InputError as error:
        return Submission(problems=[str(error)])
    sweep = Sweep.of(measured)
    summary = summarize(sweep)
    of_rows = _untraceable([*own_rows, *joined_rows], environments), _of_other_machines(measured, rows)
    found = [_incomplete(measured, summary), *of_rows, of_join, *map(_private, _published(folder))]
    if problems := [*chain.from_iterable(found)]:
        return Submission(problems=problems)
    place = published / measured.experiment.name / measured.machine.machine.name
    if place.exists():
        return Submission(problems=[f"{place}: already holds results; remove them first to replace them"])
    for path in _published(folder):
        row_files.write_whole(place / path.name, path.read_bytes())
    build.write(place, summary)
    write_page(place, sweep, summary)
    return Submission(problems=[], place=str(place))


def _published(folder: Path) -> list[Path]:
    return [path for name in results_folder.PUBLISHED if (path := folder / name).is_file()]


def _unfit_files(folder: Path) -> Iterator[str]:
    """Yield the problems that show before any row is read."""
    if (folder / results_folder.IMPORTED).exists():
        yield f"{folder}: made from tables, expected rows that were measured here"
        return
    for name in results_folder.PUBLISHED:
        path = folder / name
        if path.is_symlink() or (name in results_folder.REQUIRED and not path.is_file()):
            yield f"{path}: missing, or not a plain file"


def _incomplete(measured: Frames, summary: Summary) -> Iterator[str]:
    """Yield the batch sizes without a result, and the stages that did not end."""
    wanted = expand_batch_sizes(measured.experiment.batch_sizes, results_folder.EXPERIMENT)
    known = {cell.batch_size: cell.status for cell in summary.cells}
    left = [size for size in wanted if known.get(size, "not_measured") in ("not_measured", "failed")]
    if left:
        yield f"batch sizes {', '.join(map(str, left))}: not measured, or failed; run it again to complete"
    last = measured.stages.drop_duplicates("stage", keep="last")
    for stage in sorted(set(STAGES) - set(only(last, last["finished"])["stage"])):
        yield f"stage {stage}: did not finish; run the experiment again to complete it"
    if summary.claims_on != "confirm":
        yield "trials: no claim rests on confirmation seeds; set seeds.confirm to 3 or more and run again"
    elif sizes := [cell.batch_size for cell in summary.cells if cell.claims_on not in (None, "confirm")]:
        yield f"batch sizes {', '.join(map(str, sizes))}: not confirmed; run it again to complete"


def _untraceable(found: Sequence[AnyRow], environments: Mapping[str, Environment]) -> Iterator[str]:
    """Yield what keeps the code or the software of rows from being found again."""
    if dirty := sum(row.dirty for row in found):
        yield f"rows: {dirty} were measured with uncommitted changes; commit them and measure again"
    if any(row.code in ("", "unknown") for row in found):
        yield "rows: some do not name the version of the code that measured them"
    for name in sorted({row.environment for row in found}):
        if (software := environments.get(name)) is None:
            yield f"machine.json: does not describe environment {name}, which rows name"
        elif absent := [package for package in NEEDED_PACKAGES if package not in software.packages]:
            yield f"machine.json: environment {name} lacks the version of {', '.join(absent)}"


def _of_other_machines(measured: Frames, rows: Mapping[str, Sequence[AnyRow]]) -> Iterator[str]:
    """Yield the machines of rows that are not the folder's machine. Trials may also be of one that trained before."""
    machine = measured.machine.machine.name
    before = {results_folder.CONVERGENCE: _trained_before(measured.machine)}
    others = {row.machine for name, of in rows.items() for row in of if row.machine not in before.get(name, ())}
    for other in sorted(others - {machine}):
        yield f"rows: some are of machine {printable(other)}, machine.json describes {machine}"


def _trained_before(known: MachineFile) -> set[str]:
    return {one.machine.name for one in known.trained_on}


def _wrongly_joined(
    joined: JoinedFrom, trials: Sequence[AnyRow], own: Sequence[AnyRow], published: Path
) -> Iterator[str]:
    """Yield a problem where joined trials are not those of a published folder, which describes their machine."""
    experiment, _, machine = joined.folder.partition("/")
    source = published / experiment / machine
    if not re.match(SLUG, experiment) or machine != joined.machine or not (source / results_folder.MACHINE).is_file():
        named = printable(joined.folder[:LONGEST_NAME])
        yield f"{results_folder.JOINED_FROM}: {named} is not in {published}; submit these results first"
    elif other := {row.machine for row in trials} - {machine, *_trained_before(results_folder.read_machine(source))}:
        named = ", ".join(sorted(other))
        yield f"{results_folder.CONVERGENCE}: holds rows of {named}, expected those of {machine}"
    elif [*row_files.read(source / results_folder.CONVERGENCE)] != [*trials]:
        yield f"{results_folder.CONVERGENCE}: holds other rows than {source}, which the trials were taken from"
    theirs, ours = (next((row for row in rows if isinstance(row, Data)), None) for rows in (trials, own))
    if theirs and ours and (changed := theirs.changed(ours)):
        yield f"{results_folder.CONVERGENCE}: its trials were measured on something else ({changed})"


def _private(path: Path) -> Iterator[str]:
    """Yield the names of people, folders and hosts in a file, the first of each kind."""
    content = path.read_bytes()
    if found := _PRIVATE.search(content):
        yield f"{path}: holds a private path or address: {printable(found[0].decode(errors='replace'))}"
    own = {"host name": socket.gethostname(), "user name": _user()}
    for kind, name in own.items():
        whole_word = rb"(?<![\w-])" + re.escape(name.encode()) + rb"(?![\w-])"
        if len(name) >= SHORTEST_NAME and name not in ("localhost", "root") and re.search(whole_word, content):
            yield f"{path}: holds this machine's {kind}, {printable(name)}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
