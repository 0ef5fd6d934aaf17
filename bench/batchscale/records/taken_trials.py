"""Trials of one results folder in another: trials do not depend on the machine, so a machine need not train them again.

Either a folder takes all its trials from another one, and only times; or it continues a run that another machine began,
and trains what is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from batchscale.config.experiment import Experiment
from batchscale.config.vocabulary import Slug
from batchscale.errors import InputError
from batchscale.records import results_folder, row_files
from batchscale.records.machine_file import MachineFile
from batchscale.records.results_folder import CONVERGENCE, JOINED_FROM, MACHINE
from batchscale.records.row_types import Data, Look, Text


class JoinedFrom(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`convergence_from.json`: the trials were measured on another machine and joined with the speeds of this one.

    Attributes:
        folder: The other results folder, as `<experiment>/<machine>`.
        machine: Name of the other machine.
    """

    schema: Literal[1] = 1
    folder: Text
    machine: Slug


class Source(NamedTuple):
    """Where trials are taken from.

    Attributes:
        folder: A results folder of the same protocol.
        continues: True if what it lacks is trained here.
    """

    folder: Path
    continues: bool

    def refuse(self, experiment: Experiment, folder: Path, data: Data) -> None:
        """Check that the trials fit `experiment` in `folder`, which may not exist yet, and `data`.

        Raises:
            InputError: If protocol, data or code differ, or the folder holds trials that are not the source's.
        """
        other = results_folder.read_experiment(self.folder)
        if experiment.fingerprint != other.fingerprint:
            found = results_folder.different(other.protocol, experiment.protocol)
            raise InputError(
                f"{self.folder}: convergence cannot be joined: its protocol is not that of {experiment.name} ({found})"
            )
        results_folder.refuse_other_data(self.folder, data)
        refuse = _refuse_to_continue if self.continues else _refuse_to_join
        refuse(folder, self.folder)

    def begin(self, folder: Path) -> None:
        """Begin the trials of a folder that is continued with those of the source, so that only the rest is trained.

        Looks depend on the speeds of the machine, so they are left out, and made again here. `machine.json` describes
        every machine that trained.

        Args:
            folder: A folder that `refuse` let pass and `results_folder.prepare` made ready.

        Raises:
            InputError: If a row of the source is not valid, or the folder cannot be written.
        """
        if not self.continues or _has_begun(folder, self.folder):
            return
        theirs, ours = _described(self.folder, folder)
        trained = *theirs.trained_on, theirs.machine
        before = [one for one in trained if not results_folder.same_machine(one, ours.machine)]
        row_files.write_json(folder / MACHINE, msgspec.structs.replace(ours, trained_on=before))
        row_files.write_whole(folder / CONVERGENCE, _without_looks(self.folder))

    def join(self, folder: Path) -> None:
        """Copy the trials of the source next to the throughput measured here; a folder that is continued has them.

        Steps to the target do not depend on the machine, so both together give the time to the target here.

        Args:
            folder: A folder that `refuse` let pass.

        Raises:
            InputError: If a row of the source is not valid, or the folder cannot be written.
        """
        if self.continues:
            return
        theirs, ours = _described(self.folder, folder)
        other, machine = results_folder.read_experiment(self.folder), theirs.machine.name
        data = b"".join(map(row_files.encode, results_folder.rows(self.folder, CONVERGENCE, other)))
        row_files.write_json(folder / JOINED_FROM, JoinedFrom(folder=f"{other.name}/{machine}", machine=machine))
        row_files.write_whole(folder / CONVERGENCE, data)
        row_files.write_json(folder / MACHINE, ours)


def _described(source: Path, folder: Path) -> tuple[MachineFile, MachineFile]:
    """Return the machine of the source, and that of the folder with the environments of both."""
    theirs, ours = results_folder.read_machine(source), results_folder.read_machine(folder)
    merged = {**theirs.environments, **ours.environments}
    return theirs, msgspec.structs.replace(ours, environments=merged)


def _refuse_to_join(folder: Path, source: Path) -> None:
    if (folder / CONVERGENCE).exists() and not (folder / JOINED_FROM).exists():
        raise InputError(
            f"{folder}: already holds convergence rows measured here; give another --results to join those of {source}"
        )


def _refuse_to_continue(folder: Path, source: Path) -> None:
    for one in (source, folder):
        if (label := results_folder.read_label(one, JOINED_FROM, JoinedFrom)) is not None:
            raise InputError(f"{one}: its training runs are those of {label.folder}; continue that folder instead")
    if results_folder.has_rows(folder / CONVERGENCE) and not _has_begun(folder, source):
        raise InputError(
            f"{folder}: already holds other convergence rows than {source}; give another --results to continue those"
        )


def _has_begun(folder: Path, source: Path) -> bool:
    """Return True if the trials of `folder` begin with all those of `source`."""
    path = folder / CONVERGENCE
    return path.exists() and path.read_bytes().startswith(_without_looks(source))


def _without_looks(folder: Path) -> bytes:
    every = results_folder.rows(folder, CONVERGENCE, results_folder.read_experiment(folder))
    return b"".join(row_files.encode(row) for row in every if not isinstance(row, Look))
