"""A source of bytes with a known entropy rate: each byte is drawn at odds that depend on the byte before it alone.

No model can predict it with fewer bits per byte than its entropy rate (Shannon, 1948), so the distance to the best
possible loss is known. All odds are whole 4096ths and all draws are raw words of a counter-based generator, so the same
options give the same bytes on every machine.
"""

from typing import Annotated

import numpy as np
from jaxtyping import Float, Int64, UInt8, UInt64
from msgspec import Meta

from batchscale.measure.data.examples import LANGUAGE_MODEL, Content, Examples
from batchscale.measure.data.recipe import Recipe
from batchscale.measure.data.text import BYTES, Window

ODDS = 4096
"""The odds of all bytes after a byte add up to it."""
FIRST_BYTE = ord(" ")
CHUNK_EXAMPLES = 4096
DRAWS_PER_WORD = 5


def draw(
    *,
    window: Window = 128,
    symbols: Annotated[int, Meta(ge=2, le=64)] = 32,
    train_examples: Annotated[int, Meta(ge=1, le=1 << 26)] = 16_384,
    held_out_examples: Annotated[int, Meta(ge=1, le=1 << 20)] = 1024,
    seed: Annotated[int, Meta(ge=0, le=1 << 32)] = 0,
) -> Content:
    """Draw the source's odds and then examples, each from its own stretch of the source.

    Args:
        window: bytes that are predicted in one example.
        symbols: different bytes.
        train_examples: size of the train split.
        held_out_examples: size of the validation split, and of the test split.
        seed: decides the odds and all draws.
    """
    chances = odds(symbols, seed)
    counts = (train_examples, held_out_examples, held_out_examples)
    train, validation, test = (
        _examples(chances, window, count, seed, stream) for stream, count in enumerate(counts, start=1)
    )
    return Content(
        task=LANGUAGE_MODEL,
        classes=BYTES,
        train=train,
        validation=validation,
        test=test,
        tokens_per_example=window,
        facts={"entropy_bits_per_byte": entropy_rate(chances)},
    )


def odds(symbols: int, seed: int) -> Int64[np.ndarray, "symbol next"]:
    """Return the odds of each symbol after each symbol, in 4096ths and at least one.

    The shares beyond that one are in proportion to the fourth power of a uniform number: a few successors are likely.
    """
    words = _words(symbols * symbols, seed, 0, 0).reshape(symbols, symbols)
    weights = ((words >> np.uint64(52)) ** np.uint64(4) >> np.uint64(24)).astype(np.int64) + 1
    total, spare = weights.sum(axis=1, keepdims=True), ODDS - symbols
    shares = spare * weights // total + 1
    best = weights.argmax(axis=1)
    shares[np.arange(symbols), best] += ODDS - shares.sum(axis=1)
    return shares


def stationary(chances: Int64[np.ndarray, "symbol next"]) -> Float[np.ndarray, " symbol"]:
    """Return how often each symbol occurs in the long run: the distribution that a step does not change."""
    count = len(chances)
    equations = np.vstack([(chances / ODDS).T - np.eye(count), np.ones(count)])
    return np.linalg.lstsq(equations, np.append(np.zeros(count), 1.0), rcond=None)[0]


def entropy_rate(chances: Int64[np.ndarray, "symbol next"]) -> float:
    """Return the entropy of a symbol given the one before, in bits: the mean over rows, as often as they occur."""
    p = chances / ODDS
    return float(stationary(chances) @ -(p * np.log2(p)).sum(axis=1))


def _examples(chances: Int64[np.ndarray, "symbol next"], window: int, count: int, seed: int, stream: int) -> Examples:
    """Return `count` examples of a stream; a longer split begins with the examples of a shorter one."""
    # Rounded, so that no other order of sums on another machine changes a draw.
    starts = np.round(np.cumsum(stationary(chances)) * 2.0**32).astype(np.uint64)
    successors = np.stack([np.repeat(np.arange(len(row), dtype=np.uint8), row) for row in chances])
    parts = [
        _chunk(starts, successors, window, seed, stream, first // CHUNK_EXAMPLES)[: count - first]
        for first in range(0, count, CHUNK_EXAMPLES)
    ]
    text = np.concatenate(parts) + np.uint8(FIRST_BYTE)
    return Examples(np.ascontiguousarray(text[:, :-1]), np.ascontiguousarray(text[:, 1:]))


def _chunk(
    starts: UInt64[np.ndarray, " symbol"],
    successors: UInt8[np.ndarray, "symbol odds"],
    window: int,
    seed: int,
    stream: int,
    number: int,
) -> UInt8[np.ndarray, "example byte"]:
    """Return examples of window + 1 symbols: the first as often as it occurs, each other one by a 12-bit number."""
    rows = 1 + -(-window // DRAWS_PER_WORD)
    words = _words(rows * CHUNK_EXAMPLES, seed, stream, number).reshape(rows, CHUNK_EXAMPLES)
    symbols = np.empty((window + 1, CHUNK_EXAMPLES), np.uint8)
    symbols[0] = np.searchsorted(starts[:-1], words[0] >> np.uint64(32), side="right")
    for step in range(window):
        bits = words[1 + step // DRAWS_PER_WORD] >> np.uint64(12 * (step % DRAWS_PER_WORD))
        symbols[step + 1] = successors[symbols[step], bits & np.uint64(ODDS - 1)]
    return symbols.T


def _words(count: int, seed: int, stream: int, number: int) -> UInt64[np.ndarray, " count"]:
    """Return raw words of Philox-4x64 (Salmon et al., 2011)."""
    return np.random.Philox(key=np.array([seed, stream << 32 | number], np.uint64)).random_raw(count)


RECIPE = Recipe(make=draw)
