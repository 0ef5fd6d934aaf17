"""From a text to windows of bytes, and to train, validation and test splits that share no byte.

An example is a window of T + 1 bytes: the input is its first T bytes, the label of each is the byte after it. Windows
begin every T bytes, so one epoch predicts every byte of a piece but its first once.

Held-out bytes are whole blocks spread over the text, not its end: a dictionary is in the order of the alphabet, and the
end of Shakespeare is other plays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import UInt8
from msgspec import Meta

from batchscale.errors import InputError
from batchscale.measure.data.examples import LANGUAGE_MODEL, Content, Examples
from batchscale.measure.data.files.packings import Files

BYTES = 256
BLOCK_BYTES = 1 << 16
PERIOD = 20
"""One block in so many is for validation, and another one for testing."""
VALIDATION_BLOCK = 9
TEST_BLOCK = 19
LEAST_BLOCKS = 2 * PERIOD
"""A text with fewer blocks of `BLOCK_BYTES` is cut into smaller ones, so that each split has at least two."""

WINDOW = 128
Window = Annotated[int, Meta(ge=1, le=BLOCK_BYTES // 2)]
"""Bytes that are predicted in one example."""


class Piece(NamedTuple):
    """A stretch of the text, from `start` to `stop`, that belongs to one split."""

    split: str
    start: int
    stop: int


def windows_of_file(files: Files, *, window: Window = WINDOW) -> Content:
    """Return the windows of the only file, in three splits."""
    ((name, text),) = files.items()
    return windows_of_text(text, window, name)


def windows_of_text(text: bytes, window: int = WINDOW, source: str = "text") -> Content:
    """Return the windows of a text in three splits.

    Args:
        text: the whole text.
        window: bytes that are predicted in one example.
        source: what messages name.

    Raises:
        InputError: when a split would have no window.
    """
    values = np.frombuffer(text, np.uint8)
    found: dict[str, list[Examples]] = {"train": [], "validation": [], "test": []}
    for piece in pieces(len(text), window):
        found[piece.split].append(windows(values[piece.start : piece.stop], window))
    if short := [split for split, parts in found.items() if not sum(len(part.labels) for part in parts)]:
        raise InputError(
            f"{source}: {len(text)} bytes are too few for windows of {window} bytes: the {short[0]} split would be"
            f" empty, expected at least {LEAST_BLOCKS << window.bit_length()} bytes or a smaller window"
        )
    train, validation, test = (Examples(*map(np.concatenate, zip(*parts, strict=True))) for parts in found.values())
    return Content(
        task=LANGUAGE_MODEL,
        classes=BYTES,
        train=train,
        validation=validation,
        test=test,
        tokens_per_example=window,
    )


def block_bytes(size: int) -> int:
    """Return the size of a block in a text of `size` bytes: a power of two, at most `BLOCK_BYTES`."""
    largest = max(1, size // LEAST_BLOCKS)
    return min(BLOCK_BYTES, 1 << (largest.bit_length() - 1))


def pieces(size: int, gap: int) -> Iterator[Piece]:
    """Yield what belongs to each split, in the order of the text.

    Whole blocks numbered `VALIDATION_BLOCK` and `TEST_BLOCK` in every `PERIOD` are held out. The train split has the
    rest, apart from `gap` bytes on both sides of a held-out block, which belong to no split.

    Args:
        size: bytes of the text.
        gap: bytes of the text that separate the train split from others.
    """
    block, start = block_bytes(size), 0
    for number in range(size // block):
        split = {VALIDATION_BLOCK: "validation", TEST_BLOCK: "test"}.get(number % PERIOD)
        if split is not None:
            at = number * block
            if start < at - gap:
                yield Piece("train", start, at - gap)
            yield Piece(split, at, at + block)
            start = at + block + gap
    if start < size:
        yield Piece("train", start, size)


def windows(values: UInt8[np.ndarray, " size"], window: int) -> Examples:
    """Return the whole windows of a stretch of text, one every `window` bytes."""
    count = max(0, (len(values) - 1) // window)
    inputs = values[: count * window].reshape(count, window)
    labels = values[1 : count * window + 1].reshape(count, window)
    return Examples(inputs, labels)
