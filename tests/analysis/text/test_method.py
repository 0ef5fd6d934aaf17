"""What the page says of how its numbers came about: only what was done, and all of it."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pandas as pd
from batchscale.analysis.text import method


def test_what_was_timed_otherwise_is_said(measured, summarized):
    assert "process of its own" not in method.paragraphs(measured, summarized)[1]
    alone = measured.compilations.assign(isolated=measured.compilations["batch_size"] == 64)
    pieces = measured.rounds.assign(accumulation=np.where(measured.rounds["batch_size"] == 2048, 4, 1))
    (_, said, *_) = method.paragraphs(dataclasses.replace(measured, compilations=alone, rounds=pieces), summarized)
    assert "Batch size 64 was timed in a process of its own" in said
    assert "Batch size 2048 does not fit" in said


def test_rounds_in_another_precision_are_not_added_to_those_of_the_answer(measured, summarized):
    (_, told, *_) = method.paragraphs(measured, summarized)
    others = measured.rounds.assign(precision="bfloat16", accumulation=2)
    beside = dataclasses.replace(measured, rounds=pd.concat([measured.rounds, others], ignore_index=True))
    assert method.paragraphs(beside, summarized)[1] == told


def test_the_workload_is_told_whole(measured, summarized):
    workload = msgspec.structs.replace(
        measured.experiment.workload,
        model_options={"filters": [6, 16], "hidden": 84, "activation": "relu"},
        optimizer_options={"nesterov": True, "momentum": 0.9},
    )
    rates = msgspec.structs.replace(
        measured.experiment.learning_rate, factor=2.0, schedule="warmup_cosine", warmup_epochs=0.5
    )
    experiment = msgspec.structs.replace(measured.experiment, workload=workload, learning_rate=rates)
    (told, *_) = method.paragraphs(dataclasses.replace(measured, experiment=experiment), summarized)
    assert told == (
        "Workload: hyperbola (activation relu, filters 6 and 16, hidden 84) on simulated, trained in float32 by"
        " momentum (momentum 0.9, nesterov on). Learning rates lie a factor of 2 apart; each warms up over 0.5 epochs"
        " and then falls along a cosine to 0 at the budget."
    )


def test_a_stranger_s_endless_options_are_cut(measured, summarized):
    endless = {f"option {number}": number for number in range(1000)}
    workload = msgspec.structs.replace(measured.experiment.workload, model_options=endless)
    experiment = msgspec.structs.replace(measured.experiment, workload=workload)
    (told, *_) = method.paragraphs(dataclasses.replace(measured, experiment=experiment), summarized)
    assert len(told) < 2 * method.LONGEST_OPTIONS


def test_the_method_states_the_ceilings(measured, summarized):
    told = " ".join(method.paragraphs(measured, summarized))
    assert "multiplies large float32 matrices at 100 GFLOP/s and copies memory at 8.00 GB/s (read" in told
    uncalibrated = msgspec.structs.replace(summarized, ceilings=None)
    assert "Limits:" not in " ".join(method.paragraphs(measured, uncalibrated))


def test_all_that_was_tuned_is_named(measured, summarized):
    assert "The learning rate and momentum are tuned at every" in " ".join(method.paragraphs(measured, summarized))
    plain = dataclasses.replace(measured, experiment=msgspec.structs.replace(measured.experiment, search={}))
    assert "The learning rate is tuned at every" in " ".join(method.paragraphs(plain, summarized))


def test_the_cadence_is_that_of_the_batch_size_evaluated_least_often_whether_it_reached_the_target_or_not(
    measured, summarized
):
    def told(*seen):
        curves = [{"trial": number, "epochs": epoch} for number, epochs in enumerate(seen) for epoch in epochs]
        cadenced = dataclasses.replace(measured, curves=pd.DataFrame(curves, columns=["trial", "epochs"]))
        return method.paragraphs(cadenced, summarized)[3]

    assert "60 epochs, evaluated every 2.5 epochs or more often, on" in told([0.5, 1.0], [1.5, 4.0])
    assert "evaluated every 3.0 epochs or more often" in told([3.0], [0.25, 0.5])
    assert "at most 60 epochs, on a validation split" in told()


def test_one_epoch_is_not_several(measured, summarized):
    rates = msgspec.structs.replace(measured.experiment.learning_rate, schedule="warmup", warmup_epochs=1.0)
    experiment = msgspec.structs.replace(measured.experiment, learning_rate=rates)
    (told, *_) = method.paragraphs(dataclasses.replace(measured, experiment=experiment), summarized)
    assert "each warms up over 1 epoch and is then held constant" in told
