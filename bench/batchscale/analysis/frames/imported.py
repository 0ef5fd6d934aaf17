"""The label of a folder whose rows were made from files of other tools."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from batchscale.config.vocabulary import Positive
from batchscale.records.curves import Accuracy, Amount, ScoreValue
from batchscale.records.row_types import Short, Text


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """`imported.json`: the rows of this folder were made from tables that were measured elsewhere.

    Attributes:
        schema: version of this format.
        train_examples: examples in an epoch; null where it was not given.
        target: the score that the runs reached; null where it was not given.
        target_accuracy: the same in folders that were written before other metrics were read.
        scores: True if the files hold scores, not only when a target was reached.
        budget: training within which scores are compared, in words; empty where it is not known.
        budget_trained: the same in the unit that the curves are counted in.
        budget_examples: the same in folders that were written before other units were read.
        learning_rates: True if the tables name learning rates.
        tolerance: share of the best score within which scores are called as good; null where it was not given.
        notes: sentences on how the files were read, for the page.
    """

    schema: Literal[1] = 1
    train_examples: Positive | None
    learning_rates: bool
    target: ScoreValue | None = None
    target_accuracy: Accuracy | None = None
    scores: bool = False
    budget: Short = ""
    budget_trained: Amount | None = None
    budget_examples: Positive | None = None
    tolerance: Accuracy | None = None
    notes: Annotated[list[Text], Meta(max_length=16)] = []

    def __post_init__(self) -> None:
        for old, new in (("target_accuracy", "target"), ("budget_examples", "budget_trained")):
            if (value := getattr(self, old)) is not None:
                msgspec.structs.force_setattr(self, new, value)
                msgspec.structs.force_setattr(self, old, None)
