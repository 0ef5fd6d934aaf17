"""Losses that are known without training: of programs that compress the same text, and the entropy of a made-up one."""

from __future__ import annotations

from collections.abc import Mapping

from batchscale.analysis.frames.frames import Frames
from batchscale.config.goal import METRICS

ENTROPY = "entropy"
NAMES: Mapping[str, str] = {
    "gzip_bits_per_byte": "gzip -9",
    "bzip2_bits_per_byte": "bzip2 -9",
    "xz_bits_per_byte": "xz -9",
    "entropy_bits_per_byte": ENTROPY,
}
"""Facts about a text, and what a reader calls them."""


def known_bits(frames: Frames) -> dict[str, float]:
    """Return the known losses of the data in bits per byte, by name; none where the data is no text."""
    facts = frames.data.facts if frames.data else {}
    return {name: facts[fact] for fact, name in NAMES.items() if fact in facts}


def known_losses(frames: Frames) -> dict[str, float]:
    """Return the known losses in the unit of the goal's score; none where the goal is no loss."""
    metric = METRICS[frames.experiment.goal.metric]
    if metric.measured_as != "loss":
        return {}
    bits = METRICS["bits_per_byte"].scale
    return {name: metric.scale * known / bits for name, known in known_bits(frames).items()}
