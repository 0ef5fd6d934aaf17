"""Choices that change speed and nothing else, made by a short measured trial and kept in `tuning.json`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from batchscale.errors import InputError
from batchscale.measure.control.failures import FAILURES
from batchscale.records import results_folder, row_files

NOMINAL_EXAMPLES_PER_SECOND = 10_000.0
"""Plans the time left where the device fails and no speed could be measured."""


class Tuned(msgspec.Struct, frozen=True):
    """The fastest lowering of a program and its speed.

    Attributes:
        lowering: Name of the lowering, None for a model that has a single one.
        examples_per_second: Speed of training in the trial, summed over lanes where lanes share the program.
        seconds_per_evaluation: Seconds to evaluate one lane; 0 where nothing is evaluated.
    """

    lowering: str | None
    examples_per_second: Annotated[float, Meta(ge=1e-6, le=1e30)]
    seconds_per_evaluation: Annotated[float, Meta(ge=0, le=1e6)] = 0.0


class TuningFile:
    """`tuning.json` in a results folder: resumed runs repeat the same choices, so their numbers stay the same.

    A file that cannot be read counts as empty, and a choice that is not among `lowerings` as missing: both are
    measured again.
    """

    def __init__(self, folder: Path, lowerings: Sequence[str | None]) -> None:
        self._path, self._lowerings = folder / results_folder.TUNING, lowerings
        self._known: dict[str, Tuned] = {}
        with suppress(InputError):
            kept = results_folder.read_file(folder, results_folder.TUNING, dict[str, Tuned])
            self._known = {key: one for key, one in kept.items() if one.lowering in lowerings}

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Tuned:
        return self._known[key]

    def get(self, key: str, measure: Callable[[], Tuned]) -> Tuned:
        """Return the choice for `key`; measure and keep it when it is asked for the first time.

        Where every lowering fails, return the first one and keep nothing, so that the failure becomes rows.
        """
        if key not in self._known:
            try:
                self._known[key] = measure()
            except FAILURES:
                return Tuned(self._lowerings[0], NOMINAL_EXAMPLES_PER_SECOND)
            row_files.write_json(self._path, self._known)
        return self._known[key]


def fastest(lowerings: Sequence[str | None], speed: Callable[[str | None], float]) -> Tuned:
    """Measure the `speed` of every lowering in examples per second; ties go to the first, failures lose.

    Raises:
        JaxRuntimeError: The first failure, when every lowering fails.
    """
    tried, failures = [], []
    for lowering in lowerings:
        try:
            tried.append(Tuned(lowering, speed(lowering)))
        except FAILURES as error:
            failures.append(error)
    if not tried:
        raise failures[0]
    return max(tried, key=lambda one: one.examples_per_second)
