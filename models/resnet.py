"""Residual networks without batch statistics: norm-free ResNet-8, and ResNet-18 and ResNet-50 with GroupNorm.

Blocks are pre-activated (He et al. 2016, "Identity Mappings in Deep Residual Networks"). Each starts as its shortcut,
because the last convolution of its branch starts at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ._layers import Convolution, Features, Lowering, along, lowering_named, max_pool_overlapping, recomputed

_STAGES: dict[int, Sequence[int]] = {8: (1, 1, 1), 18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
"""Blocks of each stage, by depth. Each stage after the first halves the sides and doubles the channels."""
_BOTTLENECKED = 50
_EXPANSION = 4
"""Channels that leave a bottleneck over those inside it."""


class Model(nnx.Module):
    """A stem, stages of residual blocks, the mean over all positions, and logits.

    Depth 8 is the ResNet-8 of Shallue et al. (2019): the network for CIFAR-10 of He et al. (2015, section 4.2) with one
    block of two convolutions in each of three stages, pre-activated and without a norm. Its shortcuts have no
    parameters. Depths 18 and 50 are the networks for ImageNet of He et al. (2015), whose shortcuts are projected where
    the shape changes. With GroupNorm (Wu and He 2018) and pre-activation they are those of Kolesnikov et al. (2020).

    Without a norm, a branch of m convolutions in a network of L blocks starts as in Fixup (Zhang et al. 2019): the last
    convolution is zero, the others are scaled by L^(-1/(2m - 2)), and convolutions have biases.

    Args:
        input_shape: (height, width, channels).
        classes: Width of the output.
        rngs: Source of the initial parameters.
        dtype: Type of the arithmetic.
        lowering: How convolutions are computed; results differ by rounding only.
        depth: Layers with parameters, without projections.
        width: Channels of the first stage; by default 16 at depth 8, and 64 else.
        norm: "group" for GroupNorm before each activation.
        groups: Groups of GroupNorm; they divide `width`. Wu and He use 32.
        stem: "small" for images of some 32 pixels, a 3x3 convolution; "large" for some 224 pixels, a 7x7 convolution
            with stride 2 and a 3x3 max-pool with stride 2.
        remat: True to compute the activations of a block again in the backward pass, which saves memory.

    Raises:
        ValueError: on inputs that are not images, or options that do not fit together.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
        lowering: str = "xla",
        depth: Literal[8, 18, 50] = 8,
        width: int | None = None,
        norm: Literal["none", "group"] = "none",
        groups: int = 8,
        stem: Literal["small", "large"] = "small",
        remat: bool = False,
    ) -> None:
        if len(input_shape) != 3:
            raise ValueError(f"inputs of shape {input_shape} are not images, expected [height, width, channel]")
        inside = (16 if depth == 8 else 64) if width is None else width
        if inside < 1 or groups < 1 or (norm == "group" and inside % groups):
            raise ValueError(f"width = {inside} is not divisible by groups = {groups}")
        made = _Maker(depth, groups if norm == "group" else None, dtype, rngs)
        size, stride = (7, 2) if stem == "large" else (3, 1)
        self.enter = made.convolution(input_shape[2], inside, size, stride=stride)
        self.pools = stem == "large"
        self.blocks = nnx.List([])
        channels = inside
        for stage, count in enumerate(_STAGES[depth]):
            for block in range(count):
                self.blocks.append(_Block(made, channels, inside << stage, stride=2 if stage and not block else 1))
                channels = self.blocks[-1].channels
        self.norm = made.norm(channels)
        self.out = nnx.Linear(channels, classes, dtype=dtype, rngs=rngs)
        lowering_named(lowering)
        self.lowering, self.remat = lowering, remat

    def __call__(self, inputs: Float[Array, "batch height width channel"]) -> Float[Array, "batch class"]:
        """Return the logits of each example."""
        lowering = lowering_named(self.lowering)
        features = self.enter(lowering.enter(inputs), lowering)
        if self.pools:
            features = max_pool_overlapping(features, size=3, stride=2, padding=1)
        for block in self.blocks:
            features = recomputed(block, features, lowering) if self.remat else block(features, lowering)
        features = _activated(self.norm, features, lowering).mean(axis=(1, 2), keepdims=True)
        return self.out(lowering.leave(features).reshape(len(inputs), -1))


class _Maker:
    """Makes the layers of a network from what they share; it is not kept."""

    def __init__(self, depth: int, groups: int | None, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.depth, self.groups, self.dtype, self.rngs = depth, groups, dtype, rngs

    @property
    def branch_scale(self) -> float:
        """Factor on the initial convolutions of a branch before its last one."""
        convolutions = 3 if self.depth == _BOTTLENECKED else 2
        return 1.0 if self.groups else sum(_STAGES[self.depth]) ** (-1 / (2 * convolutions - 2))

    def convolution(
        self, channels: int, filters: int, size: int, *, stride: int = 1, scale: float = 1.0
    ) -> Convolution:
        bias = self.groups is None
        return Convolution(
            channels, filters, size, stride=stride, scale=scale, bias=bias, dtype=self.dtype, rngs=self.rngs
        )

    def norm(self, channels: int) -> _GroupNorm | None:
        return _GroupNorm(channels, self.groups, self.dtype) if self.groups else None


class _Block(nnx.Module):
    """A residual block of two 3x3 convolutions, or of 1x1, 3x3 and 1x1 with fewer channels inside.

    Attributes:
        channels: Channels of the outputs.
    """

    def __init__(self, made: _Maker, channels: int, inside: int, *, stride: int) -> None:
        bottleneck = made.depth == _BOTTLENECKED
        self.channels = inside * _EXPANSION if bottleneck else inside
        shapes = (
            [(channels, inside, 1, 1), (inside, inside, 3, stride), (inside, self.channels, 1, 1)]
            if bottleneck
            else [(channels, inside, 3, stride), (inside, self.channels, 3, 1)]
        )
        self.norms = nnx.List([made.norm(shape[0]) for shape in shapes])
        self.convolutions = nnx.List([])
        for at, (entering, leaving, size, step) in enumerate(shapes):
            scale = 0.0 if at == len(shapes) - 1 else made.branch_scale
            self.convolutions.append(made.convolution(entering, leaving, size, stride=step, scale=scale))
        self.stride = stride
        reshapes = stride > 1 or channels != self.channels
        projects = reshapes and made.depth != 8
        self.projection = made.convolution(channels, self.channels, 1, stride=stride) if projects else None

    def __call__(self, features: Features, lowering: Lowering) -> Features:
        activated = _activated(self.norms[0], features, lowering)
        if self.projection is not None:
            shortcut = self.projection(activated, lowering)
        else:
            shortcut = _subsampled(features, self.stride, self.channels, lowering.channel_axis)
        branch = self.convolutions[0](activated, lowering)
        for norm, convolution in zip(self.norms[1:], self.convolutions[1:], strict=True):
            branch = convolution(_activated(norm, branch, lowering), lowering)
        return shortcut + branch


def _activated(norm: _GroupNorm | None, features: Features, lowering: Lowering) -> Features:
    return jax.nn.relu(features if norm is None else norm(features, lowering.channel_axis))


def _subsampled(features: Features, stride: int, channels: int, channel_axis: int) -> Features:
    """Keep every `stride`-th row and column, and add channels of zeros (He et al. 2015, shortcut A)."""
    kept = features[:, ::stride, ::stride]
    around = [(0, 0)] * 4
    around[channel_axis] = (0, channels - kept.shape[channel_axis])
    return jnp.pad(kept, around)


class _GroupNorm(nnx.Module):
    """Normalise groups of channels over all positions of an example, then scale and shift each channel."""

    def __init__(self, channels: int, groups: int, dtype: jnp.dtype) -> None:
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.groups = groups
        self.dtype = dtype

    def __call__(self, features: Features, channel_axis: int) -> Features:
        shape = list(features.shape)
        shape[channel_axis : channel_axis + 1] = [self.groups, shape[channel_axis] // self.groups]
        grouped = features.reshape(shape).astype(jnp.float32)
        # The axes of the channels inside a group, of height and of width, before or after the axis of the groups.
        axes = (1, 2, 3) if channel_axis == 0 else (1, 2, 4)
        centred = grouped - grouped.mean(axes, keepdims=True)
        variance = jnp.square(centred).mean(axes, keepdims=True)
        normal = (centred * jax.lax.rsqrt(variance + 1e-5)).reshape(features.shape)
        scale, bias = along(channel_axis, self.scale[...]), along(channel_axis, self.bias[...])
        return (normal * scale + bias).astype(self.dtype)
