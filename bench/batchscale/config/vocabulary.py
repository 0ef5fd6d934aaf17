"""The words of experiments and rows: the few types that both are written in."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

import msgspec
from msgspec import Meta

NAME_RULE = "a lower-case letter, then lower-case letters, digits or _, at most 40 in all"
NAME_PATTERN = r"^[a-z][a-z0-9_]{0,39}\Z"
Name = Annotated[str, Meta(pattern=NAME_PATTERN, description=NAME_RULE)]
"""Name of an experiment, a dataset, a model, an optimizer or one of its options."""

SOURCE_RULE = "a name or a path of letters, digits, blanks and _ . : / + -, at most 200 characters"
Source = Annotated[str, Meta(pattern=r"^[\w./~][\w .:/+-]{0,199}\Z", description=SOURCE_RULE)]
"""Name of what comes with the package, or path of what the user brings."""

PRINTABLE_RULE = "text without control characters"
PRINTABLE_PATTERN = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*\Z"
"""Free text. Line ends and tabs are allowed; what moves a cursor or turns the direction of writing is not."""

SCORE_NAME_RULE = "at most 80 letters, digits, blanks and _ . / @ ( ) % + : -"
SCORE_NAME_PATTERN = r"^[A-Za-z0-9_./@()%+:-][A-Za-z0-9 _./@()%+:-]{0,79}\Z"
"""Name of a score, as other tools write it."""

FreeText = Annotated[str, Meta(pattern=PRINTABLE_PATTERN, description=PRINTABLE_RULE)]

SLUG = r"^[a-z0-9][a-z0-9._-]{0,79}\Z"
Slug = Annotated[str, Meta(pattern=SLUG)]
"""Name of a folder: an experiment's or a machine's."""

LARGEST_EXAMPLES = 10**15
Positive = Annotated[int, Meta(ge=1, le=LARGEST_EXAMPLES)]
"""A whole number from 1."""

Precision = Literal["float32", "default", "bfloat16"]
"""Arithmetic of the training step: full float32, the backend's default for matrix products, or bfloat16."""

UsersLoop = Literal["dispatch", "scan"]
"""How a user writes training: one call from Python per step, or many steps inside one compiled loop."""
Loop = Literal["dispatch", "scan", "graph"]
"""How steps are run: as a user writes them, or in a compiled loop that is launched as one CUDA graph."""

Input = Literal["device", "host"]
"""Where a timed step takes its examples from: already on the device, or copied from the host for each step."""

Phase = Literal["search", "confirm", "fixed"]
"""What a trial is for: to choose the learning rate, to confirm the chosen one, or to run at the one fixed rate."""

Ended = Literal["target", "past_target", "budget", "max"]
"""Where a run ended that did not fail: past the epoch budget at its first evaluation at the target, at a multiple of
that, at the end of the epoch budget, or at the most epochs that are allowed."""

StageName = Literal["throughput", "convergence"]
STAGES: tuple[StageName, ...] = get_args(StageName)
"""In the order in which they are run."""

OutsideForm = Literal["needs", "scores", "trainer", "mlperf-points", "mlperf-log", "tensorboard"]
OUTSIDE_FORMS: tuple[OutsideForm, ...] = get_args(OutsideForm)
"""Forms of other tools' files. Needs: one number for each run. Scores: curves or final scores, as CSV or Parquet."""

Options = tuple[tuple[str, float], ...]
"""Optimizer options by name, sorted; empty if none is searched."""


class Point(msgspec.Struct, frozen=True, order=True):
    """What is tuned at a batch size.

    Attributes:
        learning_rate: The base rate, before any schedule.
        options: The optimizer options that are searched together with it.
    """

    learning_rate: float
    options: Options = ()


class CellKey(msgspec.Struct, frozen=True, order=True):
    """What distinguishes one timed cell from every other of an experiment.

    Attributes:
        batch_size: Examples of one training step, over all devices.
        loop: How steps are run.
        input: Where the examples of a step come from.
        precision: Arithmetic of the step.
        devices: How many devices share a batch.
        accumulation: How many microbatches a batch is split into, whose gradients are averaged before the update.
    """

    batch_size: int
    loop: Loop
    input: Input = "device"
    precision: Precision = "float32"
    devices: int = 1
    accumulation: int = 1

    @classmethod
    def of(cls, cell: object) -> Self:
        """Return the key of a row, or of anything else that has these attributes."""
        return cls(*(getattr(cell, name) for name in cls.__struct_fields__))

    @property
    def examples_at_once(self) -> int:
        """A device's part of a microbatch, which is what one turn of a compiled loop computes on one device."""
        return self.batch_size // (self.devices * self.accumulation)

    @property
    def variant(self) -> str:
        """In words, how the cell differs from float32 steps of whole batches on one device; empty for those."""
        phrases = {
            f" in {self.precision}": self.precision != "float32",
            " from host memory": self.input == "host",
            f" on {self.devices} devices": self.devices > 1,
            f" in {self.accumulation} microbatches": self.accumulation > 1,
        }
        return "".join(phrase for phrase, differs in phrases.items() if differs)

    def __str__(self) -> str:
        return f"B={self.batch_size} {self.loop}{self.variant}"

    def narrower(self) -> Self | None:
        """Return the same batch in at least twice as many equal microbatches.

        None once each device has one example of each microbatch.
        """
        whole = self.batch_size // self.devices
        count = next((count for count in range(2 * self.accumulation, whole + 1) if whole % count == 0), None)
        return None if count is None else msgspec.structs.replace(self, accumulation=count)
