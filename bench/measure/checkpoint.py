"""A wave's lanes on disk, so that an interrupted study loses at most the time between two checkpoints."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from bench import store
from bench.measure.wave import LaneRecord, Layout, Shard, Wave

SEAL_BYTES = hashlib.sha256().digest_size


class Saved(msgspec.Struct, kw_only=True):
    """All of a wave but its arrays."""

    tick: int
    evaluation: int
    layouts: list[Layout]
    records: list[LaneRecord]


@dataclass(frozen=True)
class Checkpoint:
    """One file for the wave in progress; `identity` names what must agree before its lanes may be continued.

    A SHA-256 of both stands before the content, so that what is torn, altered or of another wave is never parsed.
    """

    path: Path
    identity: str

    def save(self, wave: Wave) -> None:
        """Write the wave in one move."""
        saved = Saved(
            tick=wave.tick,
            evaluation=wave.evaluation,
            layouts=[shard.layout for shard in wave.shards],
            records=wave.records,
        )
        leaves = jax.tree.leaves([shard.lanes for shard in wave.shards])
        arrays = {f"leaf{number}": np.asarray(leaf) for number, leaf in enumerate(leaves)}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, meta=np.frombuffer(msgspec.json.encode(saved), np.uint8), **arrays)
        content = buffer.getvalue()
        store.write_whole(self.path, self._seal(content) + content)

    def _seal(self, content: bytes) -> bytes:
        return hashlib.sha256(self.identity.encode() + content).digest()

    def restore(self, wave: Wave) -> bool:
        """Put a saved wave's state into this freshly started one; False when there is none that fits."""
        try:
            data = self.path.read_bytes()
        except OSError:
            return False
        seal, content = data[:SEAL_BYTES], data[SEAL_BYTES:]
        if seal != self._seal(content):
            return False
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            saved = msgspec.json.decode(file["meta"].tobytes(), type=Saved)
            leaves = [jnp.asarray(file[f"leaf{number}"]) for number in range(len(file.files) - 1)]
        one = jax.tree.structure(wave.shards[0].lanes)
        width = one.num_leaves
        wave.shards = [
            Shard(layout, jax.tree.unflatten(one, leaves[number * width : (number + 1) * width]))
            for number, layout in enumerate(saved.layouts)
        ]
        wave.records, wave.tick, wave.evaluation = saved.records, saved.tick, saved.evaluation
        return True

    def discard(self) -> None:
        """Remove the file once every lane of the wave is a row."""
        self.path.unlink(missing_ok=True)
