"""A vision transformer (Dosovitskiy et al. 2021) that averages its tokens (Beyer et al. 2022)."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ._transformer import Blocks, Dense, Form


class Model(nnx.Module):
    """Patches as tokens, learned positions, `depth` blocks of attention and MLP, and the logits of the mean token.

    Two usual sizes (Touvron et al. 2021): tiny, the default, has width 192 and 3 heads; small has width 384 and 6
    heads. Both have depth 12, and patches of 16 for images of 224 pixels.

    Args:
        input_shape: (height, width, channels); `patch` divides height and width.
        classes: Width of the output.
        rngs: Source of the initial parameters.
        dtype: Type of the arithmetic.
        patch: Side of a patch in pixels.
        width: Features of a token.
        depth: Number of blocks.
        heads: Attention heads; they divide `width`.
        ratio: Hidden units of the MLP over `width`.
        remat: True to compute the activations of a block again in the backward pass, which saves memory.

    Raises:
        ValueError: on an image that cannot be cut into patches, or options that do not fit together.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
        patch: int = 4,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        ratio: float = 4.0,
        remat: bool = False,
    ) -> None:
        if patch < 1 or len(input_shape) != 3 or any(side % patch for side in input_shape[:2]):
            raise ValueError(
                f"patch = {patch} does not divide inputs of shape {input_shape}, "
                "expected a divisor of the height and width of [height, width, channel]"
            )
        form = Form(
            width=width,
            depth=depth,
            heads=heads,
            ratio=ratio,
            mlp="gelu",
            norm="layer",
            causal=False,
            rotary=False,
            bias=True,
            remat=remat,
            dtype=dtype,
        )
        rows, columns, channels = input_shape[0] // patch, input_shape[1] // patch, input_shape[2]
        self.embedding = Dense(patch * patch * channels, width, bias=True, dtype=dtype, rngs=rngs)
        self.positions = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (width, rows * columns)))
        self.blocks = Blocks(form, rngs=rngs)
        self.out = Dense(width, classes, bias=True, dtype=dtype, rngs=rngs)
        self.patch = patch
        self.dtype = dtype

    def __call__(self, inputs: Float[Array, "batch height width channel"]) -> Float[Array, "batch class"]:
        """Return the logits of each example."""
        features = self.embedding(_patches(inputs, self.patch)) + self.positions[...].astype(self.dtype)[:, None]
        return self.out(self.blocks(features).mean(axis=2)).T


def _patches(images: Float[Array, "batch height width channel"], side: int) -> Float[Array, "pixel batch token"]:
    """Cut images into square patches, row by row; the pixels of a patch are its features."""
    batch, height, width, channels = images.shape
    cut = images.reshape(batch, height // side, side, width // side, side, channels)
    return cut.transpose(2, 4, 5, 0, 1, 3).reshape(side * side * channels, batch, -1)
