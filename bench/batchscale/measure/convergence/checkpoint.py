"""A wave's lanes on disk, so that an interrupted study loses at most the time between two checkpoints."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from batchscale.errors import InputError
from batchscale.measure.convergence.wave import LaneRecord, Layout, Setting, Shard, Wave
from batchscale.records import row_files
from batchscale.untrusted_input import read_small

LARGEST_CURVES_BYTES = 1 << 30
"""What the curves of a wave may take beside its lanes, which never grow."""
TrialOf = tuple[Setting, int]
MALFORMED = (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, msgspec.DecodeError, RecursionError)
SEAL_BYTES = hashlib.sha256().digest_size


class Saved(msgspec.Struct, kw_only=True):
    """All of a wave but its arrays."""

    tick: int
    evaluation: int
    layouts: list[Layout]
    records: list[LaneRecord]


def _continues(wave: Wave, needed: Set[TrialOf], saved: Saved, leaves: Sequence[np.ndarray]) -> bool:
    """Whether what was saved is the wave further on, or what was left of it, and fits."""
    trials = trials_of(saved.records)
    return (
        _is_on_the_way(wave, saved)
        and len(set(trials)) == len(trials)
        and needed <= set(trials) <= set(trials_of(wave.records))
        and all(_places(layout, trials) for layout in saved.layouts)
        and [(leaf.shape, leaf.dtype) for leaf in leaves] == [*_leaves(wave, saved.layouts)]
    )


def _is_on_the_way(wave: Wave, saved: Saved) -> bool:
    """Whether the tick lies from the last evaluation to the next."""
    if not 0 <= saved.evaluation < len(wave.duration.evaluations):
        return False
    first = wave.tick_of(saved.evaluation - 1) if saved.evaluation else 0
    return first <= saved.tick <= wave.tick_of(saved.evaluation)


def trials_of(records: Iterable[LaneRecord]) -> list[TrialOf]:
    """The settings and seeds of lanes."""
    return [(record.setting, record.seed) for record in records]


def _places(layout: Layout, trials: Sequence[tuple[Setting, int]]) -> bool:
    """Whether every lane of a layout is the trial that its place names."""
    lanes = [[(setting, seed) for setting in layout.settings] for seed in layout.seeds]
    return [len(line) for line in layout.places] == [len(line) for line in lanes] and all(
        number is None or (0 <= number < len(trials) and trials[number] == lane)
        for line, named in zip(lanes, layout.places, strict=True)
        for lane, number in zip(line, named, strict=True)
    )


def _leaves(wave: Wave, layouts: Sequence[Layout]) -> Iterator[tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of every array that lanes of these layouts have."""
    for layout in layouts:
        for leaf in jax.tree.leaves(wave.shards[0].lanes):
            yield (len(layout.seeds), len(layout.settings), *leaf.shape[2:]), leaf.dtype


@dataclass(frozen=True)
class Checkpoint:
    """One file for the wave in progress; `identity` names what must agree before its lanes may be continued.

    A SHA-256 of both stands before the content, so that what is torn, altered or of another wave is never parsed. The
    hash says nothing of who wrote it, so what is parsed must still be lanes of this wave.
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
        row_files.write_whole(self.path, self._seal(content) + content)

    def _seal(self, content: bytes) -> bytes:
        return hashlib.sha256(self.identity.encode() + content).digest()

    def restore(self, wave: Wave, needed: Set[TrialOf]) -> bool:
        """Put a saved wave's state into this freshly started one; False when there is none that fits.

        It may be one of some of the trials alone, if those `needed` are among them. What was reported of these before
        is lost, and is reported again.
        """
        found = self._read(wave)
        if found is None or not _continues(wave, needed, *found):
            return False
        saved, leaves = found
        one = jax.tree.structure(wave.shards[0].lanes)
        width = one.num_leaves
        wave.shards = [
            Shard(layout, jax.tree.unflatten(one, map(jnp.asarray, leaves[number * width : (number + 1) * width])))
            for number, layout in enumerate(saved.layouts)
        ]
        wave.records, wave.tick, wave.evaluation = saved.records, saved.tick, saved.evaluation
        for record, trial in zip(wave.records, trials_of(wave.records), strict=True):
            record.reported = trial not in needed
        return True

    def _read(self, wave: Wave) -> tuple[Saved, list[np.ndarray]] | None:
        """What the file holds; None when there is none, or its seal or its format is not right."""
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
        """Remove the file once every lane of the wave is a row."""
        self.path.unlink(missing_ok=True)
