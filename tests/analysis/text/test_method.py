"""How the page describes its measurements: everything that was done, and nothing else."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pandas as pd
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.text import method


def paragraphs(measured, summarized):
    return method.paragraphs(Sweep.of(measured), summarized)


def test_what_was_timed_differently_is_described(measured, summarized):
    assert "separate process" not in paragraphs(measured, summarized)[1]
    alone = measured.compilations.assign(isolated=measured.compilations["batch_size"] == 64)
    pieces = measured.rounds.assign(accumulation=np.where(measured.rounds["batch_size"] == 2048, 4, 1))
    (_, text, *_) = paragraphs(dataclasses.replace(measured, compilations=alone, rounds=pieces), summarized)
    assert "Batch size 64 might not fit in memory, so all rounds were timed in a row in a separate process." in text
    assert "Batch size 2048 did not fit in memory, so a step averages" in text


def test_rounds_in_another_precision_are_not_added_to_those_of_the_answer(measured, summarized):
    (_, shown, *_) = paragraphs(measured, summarized)
    others = measured.rounds.assign(precision="bfloat16", accumulation=2)
    combined = dataclasses.replace(measured, rounds=pd.concat([measured.rounds, others], ignore_index=True))
    assert paragraphs(combined, summarized)[1] == shown


def test_the_workload_is_described_in_full(measured, summarized):
    workload = msgspec.structs.replace(
        measured.experiment.workload,
        model_options={"filters": [6, 16], "hidden": 84, "activation": "relu"},
        optimizer_options={"nesterov": True, "momentum": 0.9},
    )
    rates = msgspec.structs.replace(
        measured.experiment.learning_rate, factor=2.0, schedule="warmup_cosine", warmup_epochs=0.5
    )
    experiment = msgspec.structs.replace(measured.experiment, workload=workload, learning_rate=rates)
    (shown, *_) = paragraphs(dataclasses.replace(measured, experiment=experiment), summarized)
    assert shown == (
        "Workload: hyperbola (activation relu, filters 6 and 16, hidden 84) on simulated, trained in float32 with"
        " momentum (momentum 0.9, nesterov on). The learning rates tried are a factor of 2 apart; each warms up over"
        " 0.5 epochs and then falls along a cosine to 0 at the end of the budget."
    )


def test_each_rule_names_its_paper_or_is_called_our_own(measured, summarized):
    text = " ".join(paragraphs(measured, summarized))
    assert "The surface is our own rule." in text
    assert "all pairs of rounds counts (Hodges & Lehmann, 1963)" in text
    assert "follows Prechelt (1998" in text


def test_a_stranger_s_endless_options_are_cut(measured, summarized):
    endless = {f"option {number}": number for number in range(1000)}
    workload = msgspec.structs.replace(measured.experiment.workload, model_options=endless)
    experiment = msgspec.structs.replace(measured.experiment, workload=workload)
    (shown, *_) = paragraphs(dataclasses.replace(measured, experiment=experiment), summarized)
    assert len(shown) < 2 * method.LONGEST_OPTIONS


def test_the_method_states_the_ceilings(measured, summarized):
    shown = " ".join(paragraphs(measured, summarized))
    assert "multiplied large float32 matrices at 100 GFLOP/s and copied memory at 8.00 GB/s (read" in shown
    uncalibrated = msgspec.structs.replace(summarized, ceilings=None)
    assert "Limits:" not in " ".join(paragraphs(measured, uncalibrated))


def test_all_that_was_tuned_is_named(measured, summarized):
    assert "The learning rate and momentum were tuned at every" in " ".join(paragraphs(measured, summarized))
    plain = dataclasses.replace(measured, experiment=msgspec.structs.replace(measured.experiment, search={}))
    assert "The learning rate was tuned at every" in " ".join(paragraphs(plain, summarized))


def test_the_cadence_is_that_of_the_batch_size_evaluated_least_often_whether_it_reached_the_target_or_not(
    measured, summarized
):
    def shown(*seen):
        curves = [{"trial": number, "epochs": epoch} for number, epochs in enumerate(seen) for epoch in epochs]
        cadenced = dataclasses.replace(measured, curves=pd.DataFrame(curves, columns=["trial", "epochs"]))
        return paragraphs(cadenced, summarized)[3]

    assert "60 epochs, evaluated every 2.5 epochs or more often on" in shown([0.5, 1.0], [1.5, 4.0])
    assert "evaluated every 3.0 epochs or more often" in shown([3.0], [0.25, 0.5])
    assert "at most 60 epochs on a validation split" in shown()


def test_one_epoch_is_not_several(measured, summarized):
    rates = msgspec.structs.replace(measured.experiment.learning_rate, schedule="warmup", warmup_epochs=1.0)
    experiment = msgspec.structs.replace(measured.experiment, learning_rate=rates)
    (shown, *_) = paragraphs(dataclasses.replace(measured, experiment=experiment), summarized)
    assert "each warms up over 1 epoch and is then held constant" in shown
