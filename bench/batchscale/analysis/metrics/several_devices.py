"""What several devices gain: speed over one device, joined with what their larger batch costs in epochs."""

from __future__ import annotations

import numpy as np

from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import values
from batchscale.analysis.metrics import claim_trials
from batchscale.analysis.metrics.claim_trials import Speed
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary_types import ParallelPoint


def points(of: Sweep) -> list[ParallelPoint]:
    """Every batch size timed on several devices, by the number of devices."""
    alone = {size: _examples_per_second(size, speed) for size, speed in of.speeds.items()}
    epochs = _epochs_to_target(of)
    return [
        _point(of.frames, size, devices, _examples_per_second(size, speed), alone, epochs)
        for devices in device_counts(of.frames)
        for size, speed in sorted(claim_trials.speeds(of.frames, devices).items())
    ]


def device_counts(frames: Frames) -> list[int]:
    """The numbers of devices above one that rounds were timed on."""
    return [count for count in np.unique(values(frames.rounds, "devices")).astype(int).tolist() if count > 1]


def _examples_per_second(batch_size: int, speed: Speed) -> float:
    return batch_size / float(np.exp(claim_trials.log_seconds_per_step(speed).median))


def _epochs_to_target(of: Sweep) -> dict[int, float]:
    """Medians of the batch sizes that reached the target."""
    medians = of.examples.medians
    reached = np.isfinite(medians)
    return dict(zip(of.sizes[reached].tolist(), (np.exp(medians[reached]) / of.frames.epoch).tolist(), strict=True))


def _point(
    frames: Frames, batch_size: int, devices: int, speed: float, alone: dict[int, float], epochs: dict[int, float]
) -> ParallelPoint:
    same, part = alone.get(batch_size), alone.get(batch_size // devices)
    needed, before = epochs.get(batch_size), epochs.get(batch_size // devices)
    return ParallelPoint(
        devices=devices,
        batch_size=batch_size,
        examples_per_second=speed,
        strong_efficiency=speed / (devices * same) if same else None,
        weak_efficiency=speed / (devices * part) if part else None,
        updates_per_epoch=frames.train_examples / batch_size if frames.train_examples else None,
        epochs_to_target=needed,
        epochs_ratio=needed / before if needed and before else None,
        time_to_target=needed * frames.epoch / speed if needed else None,
    )
