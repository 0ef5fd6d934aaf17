"""Checkpoints: what fits continues bit for bit; what is torn, foreign or hostile is as if it were not there."""

import io

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workbench import Bench, assert_same

from bench.measure.checkpoint import Checkpoint
from bench.measure.interrupts import Stopped


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A bench stopped in mid-training, and the bytes it saved."""
    bench = Bench(tmp_path_factory.mktemp("saved"), shapes=((1, 6), (1, 3)))
    with pytest.raises(Stopped):
        bench.run(stop_after=4)
    return bench, bench.checkpoint.path.read_bytes()


def lanes_of(wave):
    return [jax.tree.leaves(shard.lanes) for shard in wave.shards]


def restored(bench, path, data, identity="tiny"):
    """Whether `data` is taken for a checkpoint; if not, the wave must be as it was."""
    wave = bench.fresh()
    before, layouts = (
        [[np.asarray(leaf) for leaf in one] for one in lanes_of(wave)],
        [one.layout for one in wave.shards],
    )
    path.write_bytes(data)
    taken = Checkpoint(path, identity).restore(wave)
    if not taken:
        assert_same(lanes_of(wave), before)
        assert [one.layout for one in wave.shards] == layouts
        assert (wave.tick, wave.evaluation) == (0, 0)
    return taken


def test_what_was_saved_is_restored_whole(tmp_path, saved):
    bench, data = saved
    wave = bench.fresh()
    (tmp_path / "copy").write_bytes(data)
    assert Checkpoint(tmp_path / "copy", "tiny").restore(wave)
    assert wave.tick == 80
    assert wave.evaluation == 4
    Checkpoint(tmp_path / "again", "tiny").save(wave)
    assert (tmp_path / "again").read_bytes() == data


def test_another_identity_is_ignored(tmp_path, saved):
    assert not restored(saved[0], tmp_path / "c", saved[1], identity="other")
    assert restored(saved[0], tmp_path / "c", saved[1])


def test_a_torn_file_is_ignored_wherever_it_was_torn(tmp_path, saved):
    bench, data = saved
    for length in [0, 1, 4, 30, 100, *range(200, len(data), len(data) // 12), len(data) - 1]:
        assert not restored(bench, tmp_path / "c", data[:length])


@settings(max_examples=20)
@given(st.integers(0), st.integers(0, 7))
def test_a_flipped_bit_is_noticed(tmp_path_factory, saved, at, bit):
    flipped = bytearray(saved[1])
    flipped[at % len(flipped)] ^= 1 << bit
    assert not restored(saved[0], tmp_path_factory.getbasetemp() / "flipped", flipped)


def packed(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data", [b"", b"not a checkpoint", packed(meta=np.zeros(3)), packed(meta=np.array([{}], object))]
)
def test_a_foreign_file_is_ignored(tmp_path, saved, data):
    assert not restored(saved[0], tmp_path / "checkpoint", data)
    assert not restored(saved[0], tmp_path / "checkpoint", bytes(32) + data)


def test_an_absent_file_and_a_folder_in_its_place_are_ignored(tmp_path, saved):
    assert not Checkpoint(tmp_path / "absent", "tiny").restore(saved[0].fresh())
    assert not Checkpoint(tmp_path, "tiny").restore(saved[0].fresh())
    Checkpoint(tmp_path / "absent", "tiny").discard()
