"""Validation curves whose crossing of the target is known: log error falls as a line in log examples, plus noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

VALIDATION_EXAMPLES = 5000


@dataclass(frozen=True)
class CurveTruth:
    """A setting whose typical log error is the target's at `crossing` epochs.

    There it falls with `slope`; before it, it bends upwards by `bend` times the squared distance.
    """

    crossing: float = 2.1
    target: float = 0.97
    slope: float = -0.29
    bend: float = 0.04
    run_noise: float = 0.03
    evaluation_noise: float = 0.067
    per_epoch: int = 4
    epochs: float = 9.0
    collapsing: float = 0.0
    past_target: float | None = None

    @property
    def log_target(self) -> float:
        return float(np.log(1 - self.target))

    def draw(self, random, runs):
        """Examples in epochs (evaluations,), and log errors (runs, evaluations), NaN after the end of a run."""
        epochs = np.arange(1, int(self.epochs * self.per_epoch) + 1) / self.per_epoch
        x = np.log(epochs / self.crossing)
        curve = self.log_target + self.slope * x + self.bend * np.maximum(0, -x) ** 2
        noise = self.evaluation_noise * random.standard_normal((runs, len(epochs)))
        scores = curve + self.run_noise * random.standard_normal((runs, 1)) + noise
        for row in scores:
            if random.random() < self.collapsing:
                row[epochs > self.crossing * random.uniform(1.3, 2.5)] = np.log(0.9)
        scores = np.log(np.maximum(np.round(np.exp(scores) * VALIDATION_EXAMPLES), 0.5) / VALIDATION_EXAMPLES)
        if self.past_target is not None:
            at_target = scores <= self.log_target
            first = np.where(at_target.any(axis=1), epochs[at_target.argmax(axis=1)], np.inf)
            last = np.minimum(
                epochs[np.minimum(np.searchsorted(epochs, self.past_target * first), len(epochs) - 1)], np.inf
            )
            scores[epochs > last[:, None]] = np.nan
        return epochs, scores
