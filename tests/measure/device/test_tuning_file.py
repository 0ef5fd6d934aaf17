"""Choices by measurement: the fastest wins, is kept, and a file that cannot be read is measured again."""

import jax
import pytest
from batchscale.measure.device import compiled_programs
from batchscale.measure.device.compiled_programs import Tuned, TuningFile


def test_a_choice_is_measured_once_and_kept(tmp_path):
    asked = []

    def measure():
        asked.append(1)
        return Tuned("banded", 1234.5)

    for _ in range(3):
        assert TuningFile(tmp_path, ("patches", "banded")).get("tier", measure) == Tuned("banded", 1234.5)
    assert len(asked) == 1
    assert TuningFile(tmp_path, ("patches",)).get("tier", lambda: Tuned("patches", 1.0)) == Tuned("patches", 1.0)
    assert TuningFile(tmp_path, ("patches",)).get("tier", measure) == Tuned("patches", 1.0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[",
        b"\xff",
        b"[" * 10_000,
        b" " * (2 << 20),
        b'{"tier": 3}',
        *(
            b'{"tier": {"lowering": %s, "examples_per_second": %s}}' % choice
            for choice in (
                (b"null", b"0"),
                (b"null", b"1e-300"),
                (b"null", b"1e300"),
                (b"null", b'"fast"'),
                (b'"nonsense"', b"1"),
                (b'"../../x"', b"1"),
            )
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_measured_again(tmp_path, data):
    (tmp_path / "tuning.json").write_bytes(data)
    assert TuningFile(tmp_path, (None,)).get("tier", lambda: Tuned(None, 1.0)) == Tuned(None, 1.0)
    assert TuningFile(tmp_path, (None,)).get("tier", lambda: pytest.fail("not kept")) == Tuned(None, 1.0)


def test_the_fastest_wins_and_ties_go_to_the_first():
    speeds = {"xla": 5.0, "patches": 9.0, "banded": 9.0}
    assert compiled_programs.fastest(list(speeds), lambda name: speeds[name]) == Tuned("patches", 9.0)


def test_what_fails_loses_and_where_all_fail_the_first_reason_is_given():
    def speed(name):
        if name != "patches":
            raise jax.errors.JaxRuntimeError(name)
        return 5.0

    assert compiled_programs.fastest(["xla", "patches", "banded"], speed) == Tuned("patches", 5.0)
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla"):
        compiled_programs.fastest(["xla", "banded"], speed)


def test_shapes_are_tried_as_long_as_each_is_worth_a_change():
    speeds, tried = {1: 100.0, 4: 120.0, 16: 121.0, 64: 900.0}, []

    def speed(shape):
        tried.append(shape)
        return speeds[shape]

    assert compiled_programs.climbed(list(speeds), speed, 10, lambda: 0.0) == (4, 120.0)
    assert tried == [1, 4, 16]
    assert compiled_programs.climbed([16, 64], speed, 10, lambda: 0.0) == (64, 900.0)


def test_no_shape_is_tried_after_the_time_is_over_and_one_that_fails_loses():
    def speed(shape):
        if shape == 16:
            raise jax.errors.JaxRuntimeError("out of memory")
        return float(shape)

    clock = iter([0.0, 5.0, 11.0])
    assert compiled_programs.climbed([1, 2, 4, 8], speed, 10, lambda: next(clock)) == (2, 2.0)
    assert compiled_programs.climbed([8, 16, 64], speed, 10, lambda: 0.0) == (8, 8.0)
    with pytest.raises(jax.errors.JaxRuntimeError, match="out of memory"):
        compiled_programs.climbed([16, 64], speed, 10, lambda: 0.0)


def test_a_choice_of_an_earlier_version_has_no_shape(tmp_path):
    (tmp_path / "tuning.json").write_text('{"tier": {"lowering": null, "examples_per_second": 5.0}}')
    known = TuningFile(tmp_path, (None,)).get("tier", lambda: pytest.fail("measured again"))
    assert (known.shard_settings, known.microbatch_size) == (None, None)
