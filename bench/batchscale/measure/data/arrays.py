"""From arrays of the user's own to splits that can be trained on, or to one line that says what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Integer, Shaped

from batchscale.errors import InputError
from batchscale.measure.data.example_order import held_out_order
from batchscale.measure.data.examples import CLASSIFICATION, LANGUAGE_MODEL, REGRESSION, Content, Examples
from batchscale.measure.data.images import Scale
from batchscale.measure.data.recipe import OPTIONS

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = tuple(f"{split}_{part}" for split in SPLITS for part in Examples._fields)
NAMES = (*SPLIT_NAMES, *Examples._fields)
HELD_OUT_SHARE = 10
"""One example in so many is held out for validation, and as many for testing."""
LARGEST_CLASS = 2**31 - 2
"""The number of classes has to be an int32 too."""
USUAL_CLASSES = 1000
"""Labels that make more classes than this, and more than there are examples, are taken for other numbers."""
CHECKED_AT_ONCE = 1 << 22
NO_FACTS: Mapping[str, float] = MappingProxyType({})


class Pair(NamedTuple):
    """The arrays of a split as the user gave them, and how messages name them."""

    inputs: Shaped[np.ndarray, " ..."]
    labels: Shaped[np.ndarray, " ..."]
    prefix: str


def content_of(arrays: Mapping[str, np.ndarray], source: str, classes: int | None = None) -> Content:
    """Return the splits of the user's arrays.

    Whole-number labels [N] make a classification, floating-point labels [N] or [N, width] a regression, and whole
    numbers for inputs and labels alike, [N, T], a language model. Inputs of type uint8 are images and are standardised;
    floating-point inputs are taken as they are.

    Args:
        arrays: by name; see `own_files`.
        source: how messages name the file.
        classes: number of classes; by default, those that occur.

    Raises:
        InputError: when they cannot be trained on.
    """
    pairs = _pairs(arrays, source)
    first, *others = pairs
    for other in others:
        _check_alike(first, other)
    if _is_whole(first.labels) and first.labels.ndim == 1:
        return _classification(pairs, classes)
    if _is_whole(first.labels) and _is_whole(first.inputs) and first.labels.shape == first.inputs.shape:
        return _language_model(pairs, classes)
    if classes is not None:
        raise InputError(f"{OPTIONS}.classes: {classes}, but the labels are not class numbers; expected none")
    return _regression(pairs)


def _pairs(arrays: Mapping[str, np.ndarray], source: str) -> list[Pair]:
    """Return train, validation and test split, held out here if the user did not."""
    if all(name in arrays for name in SPLIT_NAMES):
        pairs = [Pair(arrays[f"{one}_inputs"], arrays[f"{one}_labels"], f"{source}: {one}_") for one in SPLITS]
        for pair in pairs:
            _check_shapes(pair)
        return pairs
    if sorted(arrays) != sorted(Examples._fields):
        missing = [name for name in SPLIT_NAMES if name not in arrays]
        lacks = f"lacks {', '.join(missing)}" if len(missing) < len(SPLIT_NAMES) else "has none of the arrays"
        raise InputError(f"{source}: {lacks}, expected inputs and labels, or {', '.join(SPLIT_NAMES)}")
    whole = Pair(arrays["inputs"], arrays["labels"], f"{source}: ")
    _check_shapes(whole)
    return _held_out(whole)


def _held_out(whole: Pair) -> list[Pair]:
    """Split all examples, each class in proportion; each split keeps their order."""
    count = len(whole.labels)
    if count < len(SPLITS):
        raise InputError(f"{whole.prefix}labels: {count} examples, expected at least {len(SPLITS)} to hold some out")
    by_class = _is_whole(whole.labels) and whole.labels.ndim == 1
    groups = np.unique(whole.labels, return_inverse=True)[1] if by_class else np.zeros(count, np.int64)
    held_out = max(1, count // HELD_OUT_SHARE)
    validation, test, train = (np.sort(part) for part in np.split(held_out_order(groups), [held_out, 2 * held_out]))
    return [Pair(whole.inputs[part], whole.labels[part], whole.prefix) for part in (train, validation, test)]


def _check_shapes(pair: Pair) -> None:
    inputs, labels, prefix = pair
    if inputs.ndim < 2:
        raise InputError(f"{prefix}inputs: shape {list(inputs.shape)}, expected [example, ...]")
    if labels.ndim < 1:
        raise InputError(f"{prefix}labels: shape [], expected [example] or [example, ...]")
    if len(inputs) != len(labels):
        raise InputError(f"{prefix}labels: {len(labels)} examples, expected {len(inputs)} as in {prefix}inputs")
    for part, array in zip(Examples._fields, (inputs, labels), strict=True):
        if array.size == 0:
            raise InputError(f"{prefix}{part}: shape {list(array.shape)} is empty, expected at least one example")
        if array.dtype.kind not in "iuf":
            raise InputError(f"{prefix}{part}: type {array.dtype}, expected whole or floating-point numbers")


def _check_alike(first: Pair, other: Pair) -> None:
    for part in Examples._fields:
        one, two = getattr(first, part), getattr(other, part)
        if one.shape[1:] != two.shape[1:]:
            found, expected = list(two.shape[1:]), list(one.shape[1:])
            raise InputError(f"{other.prefix}{part}: shape of an example {found}, expected {expected} as in train")
        if _is_whole(one) != _is_whole(two) or (part == "inputs" and _is_bytes(one) != _is_bytes(two)):
            raise InputError(f"{other.prefix}{part}: type {two.dtype}, expected {one.dtype} as in train")


def _classification(pairs: list[Pair], classes: int | None) -> Content:
    inputs, facts = _inputs(pairs)
    labels = [_numbers_from_zero(pair.labels, f"{pair.prefix}labels") for pair in pairs]
    splits = [Examples(one, two.astype(np.int32)) for one, two in zip(inputs, labels, strict=True)]
    width, examples = _width(pairs, labels, classes), sum(map(len, labels))
    if classes is None and (least := min(int(one.min()) for one in labels)) > 0:
        raise InputError(
            f"{pairs[0].prefix}labels: run from {least} to {width - 1}, expected numbers from 0; {OPTIONS}.classes ="
            f" {width} allows numbers without an example"
        )
    if classes is None and width > max(examples, USUAL_CLASSES):
        raise InputError(
            f"{pairs[0].prefix}labels: hold {width - 1}, which makes {width} classes of {examples} examples, expected"
            f" numbers of classes; {OPTIONS}.classes allows more"
        )
    used = len(np.unique(np.concatenate(labels)))
    if classes is None and 2 * used < width:
        raise InputError(
            f"{pairs[0].prefix}labels: hold {used} different numbers up to {width - 1}, expected 0 to {used - 1};"
            f" {OPTIONS}.classes = {width} allows numbers without an example"
        )
    return _content(CLASSIFICATION, width, splits, facts=facts)


def _language_model(pairs: list[Pair], classes: int | None) -> Content:
    parts = [
        Examples(*(_numbers_from_zero(getattr(pair, part), f"{pair.prefix}{part}") for part in Examples._fields))
        for pair in pairs
    ]
    if parts[0].inputs.ndim != 2:
        shape = list(parts[0].inputs.shape)
        raise InputError(f"{pairs[0].prefix}inputs: shape {shape}, expected [example, token] for tokens")
    width = max(_width(pairs, [getattr(part, name) for part in parts], classes) for name in Examples._fields)
    kind = np.uint8 if width <= 256 else np.int32
    splits = [Examples(*(part.astype(kind, copy=False) for part in one)) for one in parts]
    return _content(LANGUAGE_MODEL, width, splits, tokens_per_example=splits[0].inputs.shape[1])


def _regression(pairs: list[Pair]) -> Content:
    labels = []
    for pair in pairs:
        if _is_whole(pair.labels) or pair.labels.ndim > 2:
            raise InputError(
                f"{pair.prefix}labels: shape {list(pair.labels.shape)} of type {pair.labels.dtype}, expected whole"
                " numbers [example] for classes, or real numbers [example] or [example, width] for a regression"
            )
        labels.append(_real(pair.labels, f"{pair.prefix}labels").reshape(len(pair.labels), -1))
    inputs, facts = _inputs(pairs)
    splits = [Examples(one, two) for one, two in zip(inputs, labels, strict=True)]
    return _content(REGRESSION, labels[0].shape[1], splits, facts=facts)


def _content(
    task: str,
    classes: int,
    splits: list[Examples],
    tokens_per_example: int | None = None,
    facts: Mapping[str, float] = NO_FACTS,
) -> Content:
    train, validation, test = splits
    return Content(
        task=task,
        classes=classes,
        train=train,
        validation=validation,
        test=test,
        tokens_per_example=tokens_per_example,
        facts=facts,
    )


def _inputs(pairs: list[Pair]) -> tuple[list[Float32[np.ndarray, " ..."]], dict[str, float]]:
    """Return the inputs of all splits in float32: bytes standardised by the train split, real numbers as they are."""
    if _is_bytes(pairs[0].inputs):
        try:
            scale = Scale.of(pairs[0].inputs)
        except InputError as error:
            raise InputError(f"{pairs[0].prefix}inputs: {error}") from None
        return [scale.inputs(pair.inputs) for pair in pairs], scale.facts
    for pair in pairs:
        if _is_whole(pair.inputs):
            raise InputError(f"{pair.prefix}inputs: type {pair.inputs.dtype}, expected uint8 (images) or float32")
    return [_real(pair.inputs, f"{pair.prefix}inputs") for pair in pairs], {}


def _real(values: Shaped[np.ndarray, " ..."], field: str) -> Float32[np.ndarray, " ..."]:
    """Return values in float32; the array that is mapped from disk if they are that already."""
    with np.errstate(over="ignore"):
        found = values.astype(np.float32, copy=False)
    for piece in _pieces(found):
        finite = np.isfinite(piece)
        if not finite.all():
            raise InputError(f"{field}: holds {piece[~finite].flat[0]}, expected finite numbers of 32 bits")
    return found


def _numbers_from_zero(values: Integer[np.ndarray, " ..."], field: str) -> Integer[np.ndarray, " ..."]:
    least, most = int(values.min()), int(values.max())
    if least < 0:
        raise InputError(f"{field}: holds {least}, expected numbers from 0")
    if most > LARGEST_CLASS:
        raise InputError(f"{field}: holds {most}, expected numbers up to {LARGEST_CLASS}")
    return values


def _width(pairs: list[Pair], values: list[Integer[np.ndarray, " ..."]], classes: int | None) -> int:
    """Return the number of classes: the given one, or just enough for the numbers that occur."""
    needed = 1 + max(int(one.max()) for one in values)
    if classes is not None and classes < needed:
        raise InputError(
            f"{OPTIONS}.classes: {classes}, expected at least {needed} for the numbers in {pairs[0].prefix}labels"
        )
    return classes or needed


def _pieces(values: Shaped[np.ndarray, " ..."]) -> Iterator[Shaped[np.ndarray, " ..."]]:
    rows = max(1, CHECKED_AT_ONCE * len(values) // values.size)
    for first in range(0, len(values), rows):
        yield values[first : first + rows]


def _is_whole(values: Shaped[np.ndarray, " ..."]) -> bool:
    return values.dtype.kind in "iu"


def _is_bytes(values: Shaped[np.ndarray, " ..."]) -> bool:
    return values.dtype == np.uint8
