"""How a trial's learning rate moves over its budget, as a factor of examples seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

Factor = Callable[[Float[Array, "*when"]], Float[Array, "*when"]]


@dataclass(frozen=True)
class Schedule:
    """A shape over `total_examples`, after a linear warm-up over `warmup_examples` where its name has one."""

    name: str
    warmup_examples: float
    total_examples: float

    def factor(self, examples: Float[Array, "*when"]) -> Float[Array, "*when"]:
        """What the learning rate is multiplied by in a step that begins once `examples` have been seen; at most 1."""
        remaining = (self.total_examples - examples) / max(1.0, self.total_examples - self.warmup_examples)
        decay: dict[str, Factor] = {
            "constant": jnp.ones_like,
            "warmup": jnp.ones_like,
            "warmup_cosine": lambda _: 0.5 * (1 - jnp.cos(jnp.pi * jnp.clip(remaining, 0, 1))),
            "linear_decay": lambda _: jnp.clip(remaining, 0, 1),
        }
        shape = decay[self.name](examples)
        if not self.warms_up:
            return shape
        return jnp.where(examples < self.warmup_examples, (examples + 1) / (self.warmup_examples + 1), shape)

    @property
    def warms_up(self) -> bool:
        """Whether the rate starts small."""
        return self.name.startswith("warmup") and self.warmup_examples > 0
