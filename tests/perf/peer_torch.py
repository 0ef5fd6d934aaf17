"""The two studies written the usual way in PyTorch: a module, an optimizer, and one step after another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from batchscale.measure.data.datasets import Dataset, Examples
from batchscale.measure.device.compiled_programs import Work

torch: Any = pytest.importorskip("torch", reason="the extra `peers` is not installed")
nn, functional = torch.nn, torch.nn.functional
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LONGEST_PERIOD = 10_000.0


def lenet() -> Any:
    """The network of `models/lenet.py` at its defaults, on 28x28 images."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


class Decoder(nn.Module):
    """The network of `models/decoder.py` at its defaults."""

    def __init__(self, width: int, depth: int, heads: int, classes: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, width)
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(width))
        self.blocks = nn.Sequential(*(Block(width, depth, heads) for _ in range(depth)))
        self.norm = nn.RMSNorm(width)

    def forward(self, tokens: Any) -> Any:
        """Return the logits [class, batch x token] of the next byte, as the loss of PyTorch takes them."""
        features = self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)
        return self.norm(self.blocks(features)) @ self.embedding.weight.T


class Block(nn.Module):
    """Causal attention with rotary positions, then an MLP; both add to what they read."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.RMSNorm(width), nn.RMSNorm(width)])
        self.enter, self.leave = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        for kernel in (self.enter, self.leave, self.up, self.down):
            nn.init.normal_(kernel.weight, std=1 / math.sqrt(kernel.in_features))
        for kernel in (self.leave, self.down):
            kernel.weight.data /= math.sqrt(2 * depth)

    def forward(self, features: Any) -> Any:
        """Return features [batch, token, width]."""
        features = features + self.attend(self.norms[0](features))
        hidden = functional.gelu(self.up(self.norms[1](features)), approximate="tanh")
        return features + self.down(hidden)

    def attend(self, features: Any) -> Any:
        """Mix each token with those before it."""
        batch, tokens, width = features.shape
        heads = self.enter(features).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(rotated(heads[0]), rotated(heads[1]), heads[2], is_causal=True)
        return self.leave(mixed.transpose(1, 2).reshape(batch, tokens, width))


def rotated(features: Any) -> Any:
    """Rotate each pair of features [batch, head, token, size] by an angle in proportion to the token's position."""
    tokens, half = features.shape[2], features.shape[3] // 2
    speeds = LONGEST_PERIOD ** (-torch.arange(half, device=features.device) / half)
    angles = torch.arange(tokens, device=features.device)[:, None] * speeds
    a, b = features[..., :half], features[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], dim=-1)


def lenet_run(dataset: Dataset, batch_size: int, *, compiled: bool) -> Work:
    """One trial of the study of LeNet, with momentum."""
    model = lenet().to(DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    inputs = torch.from_numpy(dataset.train.inputs).permute(0, 3, 1, 2).contiguous()
    return run(model, optimizer, (inputs, labels_of(dataset.train)), batch_size, compiled=compiled)


def decoder_run(dataset: Dataset, batch_size: int, *, compiled: bool) -> Work:
    """One trial of the decoder's study, with AdamW."""
    model = Decoder(width=64, depth=2, heads=4).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    inputs = torch.from_numpy(dataset.train.inputs).long()
    return run(model, optimizer, (inputs, labels_of(dataset.train)), batch_size, compiled=compiled)


def labels_of(split: Examples) -> Any:
    """Labels as PyTorch's loss takes them."""
    return torch.from_numpy(split.labels).long()


def run(model: Any, optimizer: Any, data: tuple[Any, Any], batch_size: int, *, compiled: bool) -> Work:
    """Return the function that takes steps, the data being on the device from the start."""
    inputs, labels = (one.to(DEVICE) for one in data)
    forward = torch.compile(model, dynamic=False) if compiled else model
    batches = batches_of(len(inputs), batch_size)

    def work(steps: int) -> None:
        for _ in range(steps):
            batch = next(batches)
            optimizer.zero_grad()
            logits = forward(inputs[batch])
            loss = functional.cross_entropy(logits.flatten(0, -2), labels[batch].flatten())
            loss.backward()
            optimizer.step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return work


def batches_of(examples: int, batch_size: int) -> Iterator[Any]:
    """Yield the indices of whole batches, in a new order every epoch, without end."""
    while True:
        order = torch.randperm(examples, device=DEVICE)
        yield from order[: examples - examples % batch_size].split(batch_size)
