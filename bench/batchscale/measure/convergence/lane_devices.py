"""Local devices that share the lanes of a program. Each trains and evaluates an equal part, and waits for no other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

SEED, SETTING = "seed", "setting"
"""Names of the axes of lanes, over which the devices are laid out as well."""
OF_LANES, OF_SEEDS, OF_SETTINGS, WHOLE = (
    PartitionSpec(SEED, SETTING),
    PartitionSpec(SEED),
    PartitionSpec(SETTING),
    PartitionSpec(),
)
"""How arrays are split: by lane, by seed, by setting, or not at all."""


@dataclass(frozen=True)
class LaneDevices:
    """A number of devices, laid out along the axes [seed, setting] of the lanes as a shape of lanes allows.

    Attributes:
        count: How many; with one, JAX places every array.
        among: The devices to take them from; the local ones if it is empty.
    """

    count: int = 1
    among: tuple[Any, ...] = ()

    def even(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the smallest shape that holds `shape` and that the devices share in equal parts."""
        return min(self._even(shape), key=math.prod)

    def _even(self, shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
        seeds, settings = shape
        for rows, columns in self._layouts():
            yield math.ceil(seeds / rows) * rows, math.ceil(settings / columns) * columns

    def _layouts(self) -> Iterator[tuple[int, int]]:
        """Yield every way to lay the devices out; many along seeds come first, as these share no examples."""
        for rows in range(self.count, 0, -1):
            if self.count % rows == 0:
                yield rows, self.count // rows

    def _mesh_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        return next(one for one in self._layouts() if shape[0] % one[0] == 0 and shape[1] % one[1] == 0)

    def _mesh(self, shape: tuple[int, int]) -> Mesh:
        devices = (self.among or jax.local_devices())[: self.count]
        return Mesh(np.array(devices).reshape(self._mesh_shape(shape)), (SEED, SETTING))

    def split(
        self, function: Callable[..., PyTree], shape: tuple[int, int], *arguments: PartitionSpec
    ) -> Callable[..., PyTree]:
        """Let each device apply a function to its part of the lanes.

        Sharded arrays alone would not do: the compiler then adds collective operations to every tick, because a
        conditional asks whether any lane of any device is due, and because it cannot split grouped convolutions.

        Args:
            function: Returns arrays with the axes [seed, setting].
            shape: Seeds and settings of the lanes.
            arguments: How each argument of the function is split.
        """
        if self.count == 1:
            return function
        # Unchecked: the check refuses models with a loop whose first value depends on no lane.
        return jax.shard_map(function, mesh=self._mesh(shape), in_specs=arguments, out_specs=OF_LANES, check_vma=False)

    def described(self, tree: PyTree, shape: tuple[int, int], spec: PartitionSpec) -> PyTree:
        """Return shapes and types of arrays, with their place on the devices."""
        placed = NamedSharding(self._mesh(shape), spec) if self.count > 1 else None
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed), tree)

    def put(self, tree: PyTree, shape: tuple[int, int], spec: PartitionSpec) -> PyTree:
        """Move arrays to their place on the devices; those that are there stay."""
        return jax.device_put(tree, NamedSharding(self._mesh(shape), spec) if self.count > 1 else None)

    def put_whole(self, tree: PyTree) -> PyTree:
        """Copy arrays to every device; where there is one, they are on it, or only described."""
        return self.put(tree, (self.count, 1), WHOLE) if self.count > 1 else tree


ONE_DEVICE = LaneDevices()
