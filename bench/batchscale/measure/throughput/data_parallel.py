"""Data parallelism: one training step on several local devices, its batch in equal parts, all else whole on each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree, Shaped

from batchscale.measure.device.machine import platform_name
from batchscale.measure.device.platform_policy import POLICIES

AXIS = "data"


@dataclass(frozen=True)
class Placement:
    """Where the arrays of a step lie on the first `devices` local devices; on one, JAX places them itself."""

    devices: int = 1

    @cached_property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(jax.local_devices()[: self.devices]), (AXIS,))

    def whole(self, tree: PyTree) -> PyTree:
        """Put on every device: parameters, the training set, the order of its examples."""
        return jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec()) if self.devices > 1 else None)

    def parts(self, batch: PyTree) -> PyTree:
        """Put an equal part of the batch, along its first axis, on each device."""
        return jax.device_put(batch, NamedSharding(self._mesh, PartitionSpec(AXIS)) if self.devices > 1 else None)

    def split(self, batch: Shaped[jax.Array, " batch"]) -> Shaped[jax.Array, " batch"]:
        """The same inside a program: what is computed from the batch, example by example, stays apart.

        The mean over examples then becomes a sum over devices, which the compiler adds.
        """
        return self._held(batch, PartitionSpec(AXIS))

    def joined(self, tree: PyTree) -> PyTree:
        """Inside a program: whole on every device, so that the next step finds it as this one did."""
        return self._held(tree, PartitionSpec())

    def pace(self, tree: PyTree) -> None:
        """Wait for a step on virtual devices: they share threads, and steps in flight block each other."""
        if self.devices > 1 and POLICIES[platform_name(jax.default_backend())].virtual_devices:
            jax.block_until_ready(tree)

    def _held(self, tree: PyTree, spec: PartitionSpec) -> PyTree:
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self._mesh, spec)) if self.devices > 1 else tree
