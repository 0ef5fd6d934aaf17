"""Rows as a run writes them, a goal, and a check that a refusal is one line."""

from __future__ import annotations

from batchscale.config.goal import Goal
from batchscale.records.row_types import Curve, Stage, Trial

ORIGIN = {
    "experiment": "tiny",
    "fingerprint": "0123456789abcdef",
    "machine": "cpu",
    "environment": "abcdef",
    "code": "1.0",
    "dirty": False,
    "recorded": "2026-01-01T00:00:00+00:00",
}


def accuracy_of(threshold):
    """Return the goal of a validation accuracy."""
    return Goal(metric="accuracy", threshold=threshold)


def stage(seconds=1.0):
    return Stage(**ORIGIN, stage="convergence", seconds=seconds, compilations=3)


def trial(points=2):
    return Trial(
        **ORIGIN,
        phase="search",
        batch_size=4,
        learning_rate=0.1,
        seed=1,
        status="ok",
        train_examples=100,
        steps=2,
        curve=Curve(examples=[4] * points, steps=[1] * points, accuracy=[0.5] * points, loss=[None] * points),
        microbatch_size=4,
        lanes=1,
    )


def one_line(error):
    message = str(error.value)
    assert message.isprintable(), "a refusal is one line without control characters"
    assert len(message) < 500
    return message
