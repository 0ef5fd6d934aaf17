"""A pre-norm transformer decoder over bytes: it predicts each next byte from those before."""

from __future__ import annotations

import math
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Integer

from ._transformer import Blocks, Dense, Form, MlpName, NormName

PositionsName = Literal["learned", "rotary"]


class Model(nnx.Module):
    """Embedding, `depth` causal blocks of attention and MLP, and the logits of the next byte.

    Embeddings start with variance 1 / width and are multiplied by sqrt(width) where they enter the first block
    (Vaswani et al. 2017, section 3.4). So tokens enter with variance 1, and so do the logits leave.

    Args:
        input_shape: `(tokens,)`, the length of a window.
        classes: Different bytes in the input and in the output.
        rngs: Source of the initial parameters.
        dtype: Type of the arithmetic.
        width: Features of a token.
        depth: Number of blocks.
        heads: Attention heads; they divide `width`.
        ratio: Hidden units of the MLP over `width`.
        mlp: "gelu", or "swiglu" (Shazeer 2020), which has as many parameters at two thirds of the ratio.
        norm: "rms" or "layer".
        positions: "rotary" (Su et al. 2021), or "learned": a parameter for each position.
        tied: True if the embedding is the output's kernel too.
        remat: True to compute the activations of a block again in the backward pass, which saves memory.

    Raises:
        ValueError: on options that do not fit together.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        ratio: float = 4.0,
        mlp: MlpName = "gelu",
        norm: NormName = "rms",
        positions: PositionsName = "rotary",
        tied: bool = True,
        remat: bool = False,
    ) -> None:
        if len(input_shape) != 1:
            raise ValueError(f"input_shape = {input_shape}, expected the length of a window alone")
        form = Form(
            width=width,
            depth=depth,
            heads=heads,
            ratio=ratio,
            mlp=mlp,
            norm=norm,
            causal=True,
            rotary=positions == "rotary",
            bias=False,
            remat=remat,
            dtype=dtype,
        )
        normal = nnx.initializers.normal
        self.embedding = nnx.Param(normal(1 / math.sqrt(width))(rngs.params(), (classes, width)))
        places = normal(0.02)(rngs.params(), (width, *input_shape))
        self.positions = nnx.Param(places) if positions == "learned" else None
        self.blocks = Blocks(form, rngs=rngs)
        self.out = None if tied else Dense(width, classes, bias=False, dtype=dtype, rngs=rngs)
        self.dtype = dtype

    def __call__(self, inputs: Integer[Array, "batch token"]) -> Float[Array, "batch token class"]:
        """Return, at each byte, the logits of the next one. A byte of `classes` or more gives NaN."""
        # Taken as float32 numbers, so that the gradient of a byte is the sum over its places in float32. In bfloat16, a
        # sum of thousands of terms stands still.
        taken = jnp.take(self.embedding[...], inputs.astype(jnp.int32), axis=0).astype(self.dtype)
        embedding = self.embedding[...].astype(self.dtype)
        features = taken.transpose(2, 0, 1) * math.sqrt(embedding.shape[1])
        if self.positions is not None:
            features += self.positions[...].astype(self.dtype)[:, None]
        features = self.blocks(features)
        if self.out is not None:
            return self.out(features).transpose(1, 2, 0)
        return jnp.einsum("cf,fbt->btc", embedding, features)
