"""What the page says of how its numbers came about: only what was done, and all of it."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pandas as pd

from bench.analysis import method


def test_what_was_timed_otherwise_is_said(measured, summarized):
    assert "process of its own" not in method.paragraphs(measured, summarized)[0]
    alone = measured.compilations.assign(isolated=measured.compilations["batch_size"] == 64)
    pieces = measured.rounds.assign(accumulation=np.where(measured.rounds["batch_size"] == 2048, 4, 1))
    (said, *_) = method.paragraphs(dataclasses.replace(measured, compilations=alone, rounds=pieces), summarized)
    assert "Batch size 64 was timed in a process of its own" in said
    assert "Batch size 2048 does not fit" in said


def test_rounds_in_another_precision_are_not_added_to_those_of_the_answer(measured, summarized):
    (told, *_) = method.paragraphs(measured, summarized)
    others = measured.rounds.assign(precision="bfloat16", accumulation=2)
    beside = dataclasses.replace(measured, rounds=pd.concat([measured.rounds, others], ignore_index=True))
    assert method.paragraphs(beside, summarized)[0] == told


def test_the_method_states_the_ceilings(measured, summarized):
    told = " ".join(method.paragraphs(measured, summarized))
    assert "multiplies large float32 matrices at 100 GFLOP/s and copies memory at 8.00 GB/s" in told
    uncalibrated = msgspec.structs.replace(summarized, ceilings=None)
    assert "Limits:" not in " ".join(method.paragraphs(measured, uncalibrated))


def test_all_that_was_tuned_is_named(measured, summarized):
    assert "The learning rate and momentum are tuned at every" in " ".join(method.paragraphs(measured, summarized))
    plain = dataclasses.replace(measured, experiment=msgspec.structs.replace(measured.experiment, search={}))
    assert "The learning rate is tuned at every" in " ".join(method.paragraphs(plain, summarized))
