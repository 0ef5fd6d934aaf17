"""Random images of any shape, for timing alone: nothing can be learnt from them."""

from typing import Annotated

from msgspec import Meta

from batchscale.errors import InputError
from batchscale.measure.data.examples import CLASSIFICATION, Content
from batchscale.measure.data.made_up import ArraySpec, ExampleSpec, made_up
from batchscale.measure.data.recipe import OPTIONS, Recipe

HELD_OUT_EXAMPLES = 16
MOST_BYTES = 1 << 36
Axis = Annotated[int, Meta(ge=1, le=1 << 16)]


def draw(
    *,
    shape: Annotated[list[Axis], Meta(min_length=1, max_length=4)] = [224, 224, 3],  # noqa: B006 - never changed
    classes: Annotated[int, Meta(ge=1, le=1 << 20)] = 1000,
    train_examples: Annotated[int, Meta(ge=1, le=1 << 24)] = 1024,
) -> Content:
    """Draw images and class numbers, both uniform; validation and test split have 16 each."""
    inputs = ArraySpec(shape=shape, dtype="float32", levels=0)
    spec = ExampleSpec(
        task=CLASSIFICATION, classes=classes, inputs=inputs, labels=ArraySpec(shape=[], dtype="int32", levels=classes)
    )
    if (needed := train_examples * inputs.example_bytes) > MOST_BYTES:
        raise InputError(f"{OPTIONS}: the images would take {needed} bytes, expected at most {MOST_BYTES}")
    counts = (train_examples, HELD_OUT_EXAMPLES, HELD_OUT_EXAMPLES)
    train, validation, test = (made_up(spec, count, seed) for seed, count in enumerate(counts))
    return Content(task=CLASSIFICATION, classes=classes, train=train, validation=validation, test=test)


RECIPE = Recipe(make=draw)
