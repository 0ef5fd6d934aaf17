"""A wave's lanes on disk, so that an interrupted study loses at most the time between two checkpoints."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from batchscale.errors import InputError
from batchscale.measure.convergence.wave import LaneRecord, Layout, Shard, Wave
from batchscale.records import row_files
from batchscale.records.row_types import TrialKey
from batchscale.untrusted_input import read_small

LARGEST_CURVES_BYTES = 1 << 30
"""Bytes for the curves of a wave, at most. Its lanes come on top; their size is known."""
MALFORMED = (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, msgspec.DecodeError, RecursionError)
SEAL_BYTES = hashlib.sha256().digest_size


class Saved(msgspec.Struct, kw_only=True):
    """Everything in a wave but its arrays.

    Attributes:
        tick: Ticks trained so far.
        evaluation: Evaluations made so far.
        layouts: Of every shard.
        records: Of every trial.
    """

    tick: int
    evaluation: int
    layouts: list[Layout]
    records: list[LaneRecord]


@dataclass(frozen=True)
class Checkpoint:
    """One file for the wave in progress.

    The file begins with a SHA-256 of the identity and the content. A file that is torn or belongs to another wave has
    another hash and is never parsed.

    Attributes:
        path: The file.
        identity: Names everything that must be the same when lanes are continued.
    """

    path: Path
    identity: str

    def save(self, wave: Wave) -> None:
        """Replace the file by the present state of the wave, in one move."""
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
        row_files.write_whole(self.path, self._seal(content) + content)

    def _seal(self, content: bytes) -> bytes:
        return hashlib.sha256(self.identity.encode() + content).digest()

    def restore(self, wave: Wave, needed: Set[TrialKey]) -> bool:
        """Put a saved state into this freshly started wave; return False if no saved state fits.

        A saved wave of some of the trials fits as well, if all `needed` ones are among them. Rows of needed trials were
        lost after the checkpoint, so these trials are reported again.
        """
        found = self._read(wave)
        if found is None or not _fits(wave, needed, *found):
            return False
        saved, leaves = found
        one = jax.tree.structure(wave.shards[0].lanes)
        width = one.num_leaves
        wave.shards = [
            Shard(layout, jax.tree.unflatten(one, map(jnp.asarray, leaves[number * width : (number + 1) * width])))
            for number, layout in enumerate(saved.layouts)
        ]
        wave.records, wave.tick, wave.evaluation = saved.records, saved.tick, saved.evaluation
        for record in wave.records:
            record.reported = record.trial not in needed
        return True

    def _read(self, wave: Wave) -> tuple[Saved, list[np.ndarray]] | None:
        """Return the content of the file; None if there is no file, or its seal or its format is wrong."""
        lanes_bytes = sum(leaf.nbytes for shard in wave.shards for leaf in jax.tree.leaves(shard.lanes))
        with suppress(InputError, *MALFORMED):
            data = read_small(self.path, lanes_bytes + LARGEST_CURVES_BYTES)
            seal, content = data[:SEAL_BYTES], data[SEAL_BYTES:]
            if seal != self._seal(content):
                return None
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                saved = msgspec.json.decode(file["meta"].tobytes(), type=Saved)
                return saved, [file[f"leaf{number}"] for number in range(len(file.files) - 1)]
        return None

    def discard(self) -> None:
        """Remove the file, once every lane of the wave is a row."""
        self.path.unlink(missing_ok=True)


def _fits(wave: Wave, needed: Set[TrialKey], saved: Saved, leaves: Sequence[np.ndarray]) -> bool:
    """True if the saved trials are of this wave and include the needed ones, with arrays as this code makes them.

    The identity does not name the version of the code, which decides the arrays that a lane consists of.
    """
    trials = {record.trial for record in saved.records}
    shapes = [(leaf.shape, leaf.dtype) for leaf in leaves]
    return needed <= trials <= set(wave.trials) and shapes == [*_leaf_shapes(wave, saved.layouts)]


def _leaf_shapes(wave: Wave, layouts: Sequence[Layout]) -> Iterator[tuple[tuple[int, ...], np.dtype]]:
    """Yield shape and type of every array in lanes of these layouts."""
    for layout in layouts:
        for leaf in jax.tree.leaves(wave.shards[0].lanes):
            yield (len(layout.seeds), len(layout.settings), *leaf.shape[2:]), leaf.dtype
