"""Checkpoints: a fitting file continues bit for bit; a torn, foreign or oversized one is ignored."""

import io

import jax
import msgspec
import numpy as np
import pytest
from batchscale.measure.control.signals import Stopped
from batchscale.measure.convergence import wave_loop
from batchscale.measure.convergence.wave_loop import SEAL_BYTES, Checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_workload import Bench, assert_same


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
    """Return True if `data` is taken for a checkpoint; if not, the wave must be as it was."""
    wave = bench.fresh()
    before, layouts = (
        [[np.asarray(leaf) for leaf in one] for one in lanes_of(wave)],
        [one.layout for one in wave.shards],
    )
    path.write_bytes(data)
    taken = Checkpoint(path, identity).restore(wave, set(wave.trials))
    if not taken:
        assert_same(lanes_of(wave), before)
        assert [one.layout for one in wave.shards] == layouts
        assert (wave.tick, wave.evaluation) == (0, 0)
    return taken


def test_what_was_saved_is_restored_whole(tmp_path, saved):
    bench, data = saved
    wave = bench.fresh()
    (tmp_path / "copy").write_bytes(data)
    needed = set(wave.trials) - {record.trial for record in bench.reported}
    assert Checkpoint(tmp_path / "copy", "tiny").restore(wave, needed)
    assert wave.tick == 80
    assert wave.evaluation == 4
    Checkpoint(tmp_path / "again", "tiny").save(wave)
    assert (tmp_path / "again").read_bytes() == data


def test_what_was_left_of_a_wave_is_restored_into_the_whole_unless_more_is_needed(tmp_path, saved):
    bench, _ = saved
    some = Bench(tmp_path, settings=bench.settings[1:4], shapes=((1, 3),))
    with pytest.raises(Stopped):
        some.run(stop_after=4)
    whole, needed = bench.fresh(), set(some.fresh().trials)
    assert not some.checkpoint.restore(whole, set(whole.trials))
    assert whole.tick == 0
    assert some.checkpoint.restore(whole, needed)
    assert set(whole.trials) == needed
    assert whole.tick == 80
    assert not bench.checkpoint.restore(some.fresh(), needed), "trials that nobody asked for"


@pytest.mark.parametrize("shapes", [((2, 6),), ((1, 3),), ((3, 4),)], ids=str)
def test_lanes_saved_in_other_shapes_are_cut_anew_and_continue_as_they_were(tmp_path, saved, shapes):
    bench, data = saved
    whole, (expected,) = Bench(tmp_path, shapes=bench.shapes), [bench.fresh()]
    other = Bench(tmp_path, shapes=shapes)
    (tmp_path / "copy").write_bytes(data)
    checkpoint, wave = Checkpoint(tmp_path / "copy", "tiny"), other.fresh()
    assert checkpoint.restore(expected, set(expected.trials))
    assert checkpoint.restore(wave, set(wave.trials))
    assert {shard.layout.shape for shard in wave.shards} == {shapes[0]}
    assert placed(wave).keys() == placed(expected).keys()
    for trial, lane in placed(wave).items():
        assert_same(lane, placed(expected)[trial])
    wave_loop.run(wave, other.reporter(lambda: None))
    wave_loop.run(expected, whole.reporter(lambda: None))
    assert [one.curve.examples for one in wave.records] == [one.curve.examples for one in expected.records]


def placed(wave):
    """Return the state of every lane that trains, by trial; its place must be that of its seed and setting."""
    found = {}
    for shard in wave.shards:
        for row, column, record in shard.alive(wave.records):
            assert (shard.layout.seeds[row], shard.layout.settings[column]) == (record.seed, record.setting)
            found[record.trial] = jax.tree.map(lambda leaf, at=(row, column): np.asarray(leaf)[at], shard.lanes)
    return found


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


def sealed(bench, **changes):
    """Return what another version of the code could have written: other arrays or labels under a right seal."""
    data = bench.checkpoint.path.read_bytes()
    with np.load(io.BytesIO(data[SEAL_BYTES:])) as file:
        arrays = {name: file[name] for name in file.files}
    meta = msgspec.json.decode(arrays["meta"].tobytes())
    meta |= {name: value for name, value in changes.items() if name in meta}
    arrays["meta"] = np.frombuffer(msgspec.json.encode(meta), np.uint8)
    arrays |= {name: value for name, value in changes.items() if name not in meta}
    content = packed(**{name: value for name, value in arrays.items() if value is not None})
    return bench.checkpoint._seal(content) + content


@pytest.mark.parametrize(
    "changes",
    [
        {"meta": None},
        {"meta": np.zeros(3)},
        {"leaf0": None},
        {"leaf0": np.zeros(3)},
        {"leaf0": np.zeros((1, 3, 8, 8), np.float64)},
        {"leaf999": np.zeros(3)},
        {"tick": "late"},
        {"records": []},
        {"layouts": []},
        {"layouts": "none"},
    ],
    ids=str,
)
def test_a_right_seal_on_arrays_that_are_not_of_this_wave_is_ignored(tmp_path, saved, changes):
    assert restored(saved[0], tmp_path / "c", sealed(saved[0]))
    assert not restored(saved[0], tmp_path / "c", sealed(saved[0], **changes))


def test_content_that_is_no_archive_is_ignored_under_any_seal(tmp_path, saved):
    for content in (b"", b"PK", packed(meta=np.zeros(3))[:-30], b"x" * 1000):
        assert not restored(saved[0], tmp_path / "c", saved[0].checkpoint._seal(content) + content)


def test_a_file_larger_than_its_lanes_could_be_is_not_read(tmp_path, saved):
    path = tmp_path / "checkpoint"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert not Checkpoint(path, "tiny").restore(saved[0].fresh(), set())


def test_an_absent_file_and_a_folder_in_its_place_are_ignored(tmp_path, saved):
    assert not Checkpoint(tmp_path / "absent", "tiny").restore(saved[0].fresh(), set())
    assert not Checkpoint(tmp_path, "tiny").restore(saved[0].fresh(), set())
    Checkpoint(tmp_path / "absent", "tiny").discard()
