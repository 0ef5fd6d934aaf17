"""What was tried of every timed cell, and in which form it is to be tried next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from batchscale.config.vocabulary import CellKey
from batchscale.records.row_types import AnyRow, Compilation, MeasurementStatus, Round


@dataclass
class Attempts:
    """Rounds that exist by cell, and the failure that is the last word on one; `retried` failed in an earlier run."""

    rounds: Counter[CellKey] = field(default_factory=Counter)
    failures: dict[CellKey, MeasurementStatus] = field(default_factory=dict)
    retried: frozenset[CellKey] = frozenset()

    @classmethod
    def of(cls, rows: Iterable[AnyRow], *, retries_failed: bool) -> Attempts:
        """What the rows of a folder tell; `retries_failed` forgets its failures."""
        made = cls()
        for row in rows:
            made.see(row)
        return cls(made.rounds, {}, frozenset(made.failures)) if retries_failed else made

    def see(self, row: AnyRow) -> None:
        """Take in a row, old or new."""
        if isinstance(row, Round):
            self.rounds[CellKey.of(row)] += 1
        elif isinstance(row, Compilation) and row.status == "ok":
            self.failures.pop(CellKey.of(row), None)
        elif isinstance(row, Compilation):
            self.failures[CellKey.of(row)] = row.status

    def next(self, key: CellKey, rounds: int) -> CellKey | None:
        """The form of a cell that is still to be timed: whole or, where that is out of memory, in microbatches.

        None once one has its rounds, and after any other failure.
        """
        form: CellKey | None = key
        while form is not None and self.failures.get(form) == "out_of_memory":
            form = form.narrower()
        return None if form is None or form in self.failures or self.rounds[form] >= rounds else form
