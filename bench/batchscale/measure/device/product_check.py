"""Prove by products what their precision is, because a variable of the user or a library can change it unseen.

A matrix times the identity is the matrix, rounded to the bits that the device's products keep. The default of JAX keeps
all of float32 on a CPU, TF32 on a GPU that has it, and bfloat16 on a TPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from batchscale.config.vocabulary import Precision
from batchscale.errors import InputError
from batchscale.measure.device.compiled_programs import compute_dtype, matmul_precision

WIDTH = 512
"""Of the matrices: wide enough for the kernels that training uses."""
KINDS: dict[str, int] = {"float32": 20, "tensorfloat32": 9, "bfloat16": 6}
"""Kinds of products, and the bits after the first that such a product keeps at least.

They store 23, 10 and 7. Hardware that cuts bits off, rather than rounding, keeps one less. A product in float32 may be
made of several in bfloat16, which keep a few less.
"""
EXPECTED: dict[Precision, tuple[str, ...]] = {
    "float32": ("float32",),
    "default": tuple(KINDS),
    "bfloat16": ("bfloat16",),
}
"""What products of each precision may be; the default is the platform's, and rows name what it was."""

Product = Callable[[Precision, Float[Array, "n n"], Float[Array, "n n"]], Float[Array, "n n"]]


def kinds_of_products(product: Product | None = None) -> dict[Precision, str]:
    """Return the kind of products that each precision gives on the default device.

    Args:
        product: Multiplies two matrices in a precision; by default as training does.

    Raises:
        InputError: Where products of a precision are not what rows would claim.
    """
    found: dict[Precision, str] = {}
    for precision in get_args(Precision):
        bits = _kept_bits(precision, product or _product)
        kind = next((name for name, least in KINDS.items() if bits >= least), "unknown")
        if kind not in EXPECTED[precision]:
            expected = " or ".join(EXPECTED[precision])
            raise InputError(
                f"{precision}: products keep {bits:.0f} bits on this device ({kind}), expected {expected}; unset"
                " NVIDIA_TF32_OVERRIDE and flags that change the precision of products"
            )
        found[precision] = kind
    return found


def _kept_bits(precision: Precision, product: Product) -> float:
    """Return the bits after the first that a product keeps of its operands."""
    exact = np.random.default_rng(0).uniform(1, 2, (WIDTH, WIDTH)).astype(np.float32)
    dtype = compute_dtype(precision)
    rounded = np.asarray(product(precision, jnp.asarray(exact, dtype), jnp.eye(WIDTH, dtype=dtype)), np.float64)
    error = float(np.abs(rounded - exact).max())
    # A number from 1 to 2 that is rounded to b bits after the first is off by at most half a unit, 2^-(b+1).
    return math.inf if error == 0 else -math.log2(error) - 1 if math.isfinite(error) else 0.0


def _product(precision: Precision, left: Float[Array, "n n"], right: Float[Array, "n n"]) -> Float[Array, "n n"]:
    with jax.default_matmul_precision(matmul_precision(precision)):
        return jax.jit(jnp.matmul)(left, right)
