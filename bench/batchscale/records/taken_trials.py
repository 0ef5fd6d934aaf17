"""Trials of one results folder in another: a machine changes only their rounding, so another need not train them again.

Either a folder takes all its trials from another one, and only times; or it continues a run that another machine began,
and trains what is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, TypeGuard

import msgspec

from batchscale.config.experiment import Experiment
from batchscale.errors import InputError
from batchscale.records import results_folder, row_files
from batchscale.records.machine_file import MachineFile, TrainedOn
from batchscale.records.results_folder import CONVERGENCE, JOINED_FROM, MACHINE, JoinedFrom, joined_from
from batchscale.records.row_types import AnyRow, Data, Trial
from batchscale.untrusted_input import is_there


class Source(NamedTuple):
    """Where trials are taken from.

    Attributes:
        folder: A results folder of the same protocol.
        continues: True if what it lacks is trained here.
    """

    folder: Path
    continues: bool

    def refuse(self, experiment: Experiment, folder: Path, data: Data) -> None:
        """Check that there are trials, and that they fit `experiment` in `folder`, which may not exist yet, and `data`.

        Raises:
            InputError: If protocol, data or code differ, the folder holds other trials, or a file is not valid.
        """
        other = results_folder.read_experiment(self.folder)
        if experiment.fingerprint != other.fingerprint:
            found = results_folder.different(other.protocol, experiment.protocol)
            unlike = f"its protocol is not that of {experiment.name} ({found})"
            raise InputError(f"{self.folder}: its training runs cannot be used: {unlike}")
        if (label := joined_from(self.folder)) is not None:
            raise InputError(f"{self.folder}: its training runs are those of {label.folder}; name that folder instead")
        results_folder.refuse_other_data(self.folder, data)
        if not _done(self.folder):
            raise InputError(f"{self.folder / CONVERGENCE}: 0 trials to use, expected one or more that did not fail")
        results_folder.read_machine(self.folder)
        refuse = self._refuse_to_continue if self.continues else self._refuse_to_join
        refuse(folder)

    def take(self, folder: Path) -> None:
        """Copy the trials to a folder that `refuse` let pass and that `results_folder.prepare` made ready.

        A run that is continued takes only its data and the trials that did not fail: failures and looks depend on the
        machine, so they are tried and made again. `machine.json` then describes every machine that trained.

        Raises:
            InputError: If the folder cannot be written.
        """
        if self.continues and self._is_taken(folder):
            return
        theirs, ours = results_folder.read_machine(self.folder), results_folder.read_machine(folder)
        taken, trained_on = _rows(self.folder), theirs.trained_on
        if self.continues:
            trained_on = _trained_on(theirs, sum(map(_is_done, taken)))
            taken = [row for row in taken if isinstance(row, Data) or _is_done(row)]
        else:
            named, machine = results_folder.read_experiment(self.folder).name, theirs.machine.name
            row_files.write_json(folder / JOINED_FROM, JoinedFrom(folder=f"{named}/{machine}", machine=machine))
        environments = {**theirs.environments, **ours.environments}
        label = msgspec.structs.replace(ours, environments=environments, trained_on=trained_on)
        row_files.write_json(folder / MACHINE, label)
        row_files.write_whole(folder / CONVERGENCE, b"".join(map(row_files.encode, taken)))

    def not_taken(self, folder: Path) -> int:
        """Return how many trials of the source a continued run lacks, since they came after it took the others."""
        here = {row.key for row in _rows(folder) if isinstance(row, Trial)}
        return sum(row.key not in here for row in _rows(self.folder) if _is_done(row)) if self.continues else 0

    def _is_taken(self, folder: Path) -> bool:
        """Return True if a folder is the source, or began with its trials; the source may hold more by now."""
        if folder.resolve() == self.folder.resolve():
            return True
        if is_there(folder / JOINED_FROM) or not _done(folder):
            return False
        began = results_folder.read_machine(folder).trained_on
        known = _trained_on(results_folder.read_machine(self.folder), _done(self.folder))
        return len(began) == len(known) and all(map(_is_part, began, known))

    def _refuse_to_join(self, folder: Path) -> None:
        if (folder / CONVERGENCE).exists() and not (folder / JOINED_FROM).exists():
            there = f"to join those of {self.folder}"
            raise InputError(f"{folder}: already holds convergence rows measured here; give another --results {there}")

    def _refuse_to_continue(self, folder: Path) -> None:
        if is_there(folder / CONVERGENCE) and _done(folder) and not self._is_taken(folder):
            raise InputError(
                f"{folder}: already holds training runs that are not those of {self.folder};"
                " leave out --continue-from to go on with them, or give another --results"
            )


def _rows(folder: Path) -> list[AnyRow]:
    return list(results_folder.rows(folder, CONVERGENCE, results_folder.read_experiment(folder)))


def _done(folder: Path) -> int:
    """Return the trials of a folder that did not fail."""
    return sum(map(_is_done, results_folder.rows(folder, CONVERGENCE, results_folder.read_experiment(folder))))


def _trained_on(known: MachineFile, trials: int) -> list[TrainedOn]:
    """Return the machines that trained the trials of a folder, first to last."""
    own = trials - sum(one.trials for one in known.trained_on)
    return [*known.trained_on, *([TrainedOn(machine=known.machine, trials=own)] if own > 0 else [])]


def _is_part(taken: TrainedOn, known: TrainedOn) -> bool:
    """Return True if trials that were taken are the first ones of those that a machine trained."""
    return results_folder.same_machine(taken.machine, known.machine) and taken.trials <= known.trials


def _is_done(row: AnyRow) -> TypeGuard[Trial]:
    return isinstance(row, Trial) and row.status != "failed"
