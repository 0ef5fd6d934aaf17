"""Targets other than the own one: read from the same curves, and from no more of them than every run had."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import simulated_folder
from batchscale.analysis.text import answer
from batchscale.records.row_types import Curve, Trial
from simulated_answers import TRUTH as ONE_TARGET
from simulated_answers import answered
from simulated_rows import change

TRUTH = replace(ONE_TARGET, also=(0.9, 0.97))


@pytest.fixture(scope="module")
def found():
    return answered(TRUTH)


def test_further_targets_are_read_from_the_same_curves(found):
    easier, harder = found.further_targets
    assert easier.time_optimal.seconds < found.time_optimal.seconds < harder.time_optimal.seconds
    assert easier.unconfirmed == harder.unconfirmed == []


def test_a_harder_target_does_not_hang_on_how_long_runs_went_on_once_they_had_the_own_one(found):
    """A run ends at the first evaluation at or after the budget of epochs at which it has its target."""
    budget = TRUTH.epochs * TRUTH.train_examples

    def ended(row):
        if not isinstance(row, Trial):
            return row
        best = np.maximum.accumulate(row.curve.scores["accuracy"])
        over = (np.array(row.curve.examples) >= budget) & (best >= TRUTH.target)
        last = int(over.argmax()) + 1 if over.any() else len(over)
        curve = row.curve
        scores = {name: values[:last] for name, values in curve.scores.items()}
        return change(row, curve=Curve(examples=curve.examples[:last], steps=curve.steps[:last], scores=scores))

    shorter = answered(TRUTH, rows=list(map(ended, simulated_folder.rows(TRUTH))))
    (easier, harder), (easier_whole, harder_whole) = shorter.further_targets, found.further_targets
    assert harder == harder_whole
    # Evaluations after the own target also tell where a smooth curve crosses an easier one, but little.
    assert easier.reached == easier_whole.reached
    assert easier.time_optimal.seconds == pytest.approx(easier_whole.time_optimal.seconds, rel=0.05)
    assert [one.within_epochs for one in found.further_targets] == [TRUTH.max_epochs, TRUTH.epochs]
    assert set(found.further_targets[1].reached) < set(found.further_targets[0].reached)


def test_where_the_target_is_out_of_reach_the_answer_is_that_of_the_hardest_easier_one(found):
    goal, easier = found.goal.at(0.98), [found.further_targets[1], found.further_targets[0]]
    further = [msgspec.structs.replace(found.further_targets[1], threshold=0.99), *easier]
    missed = msgspec.structs.replace(
        found, goal=goal, time_optimal=None, time_optimal_reason="no batch size reached it", further_targets=further
    )
    best = found.further_targets[1].time_optimal
    fastest = f"Batch size {best.batch_size} reaches 97% validation accuracy fastest, in "
    assert fastest in answer.answer(missed)[0]
    assert fastest not in answer.answer(found)[0]
    unconfirmed = msgspec.structs.replace(found.further_targets[1], unconfirmed=[best.batch_size])
    missed = msgspec.structs.replace(missed, further_targets=[found.further_targets[0], unconfirmed])
    shown = "Only search seeds, which also chose its learning rate, show this of batch size"
    assert answer.answer(missed)[0].endswith(f"{shown} {best.batch_size}.")


def test_a_further_target_names_the_batch_sizes_whose_rate_was_not_confirmed():
    def confirmed(row):
        return not (isinstance(row, Trial) and row.phase == "confirm" and row.batch_size == 64)

    easier, _ = answered(TRUTH, rows=list(filter(confirmed, simulated_folder.rows(TRUTH)))).further_targets
    assert easier.unconfirmed == [64]


def test_a_fixed_rate_was_chosen_by_no_seeds_and_needs_no_confirmation():
    rows = [row for row in simulated_folder.rows(TRUTH) if getattr(row, "phase", "confirm") == "confirm"]
    fixed = [msgspec.structs.replace(row, phase="fixed") if hasattr(row, "phase") else row for row in rows]
    easier, _ = answered(TRUTH, rows=fixed).further_targets
    assert easier.reached
    assert easier.unconfirmed == []
