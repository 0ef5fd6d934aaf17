"""Rows from strangers: whatever the bytes are, they become rows or one clear refusal, in little time and memory."""

import json
import time
import tracemalloc

import msgspec
import pytest
import simulated_folder
from batchscale.errors import InputError
from batchscale.records import results_folder, row_files
from batchscale.records.row_types import AnyRow
from hypothesis import given
from hypothesis import strategies as st
from sample_rows import one_line, stage, trial


def read_strange(path, data):
    """Read the rows of an untrusted file; None if it was refused, in one line."""
    path.write_bytes(data)
    message, found = "", None
    try:
        found = list(row_files.read(path))
    except InputError as refused:
        message = str(refused)
    assert not message or message.isprintable()
    assert len(message) < 400 + len(str(path))
    return found


@given(st.binary(max_size=300))
def test_any_bytes_are_rows_or_one_refusal(tmp_path_factory, data):
    read_strange(tmp_path_factory.getbasetemp() / "strange.jsonl", data + b"\n")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted(msgspec.to_builtins(trial()))


@given(st.sampled_from(FIELDS), json_values)
def test_a_row_with_any_value_in_any_field_is_read_back_equal_or_refused(tmp_path_factory, field, value):
    path = tmp_path_factory.getbasetemp() / "altered.jsonl"
    line = json.dumps({**msgspec.to_builtins(trial()), field: value}).encode() + b"\n"
    found = read_strange(path, line)
    if found is not None:
        again = read_strange(tmp_path_factory.getbasetemp() / "again.jsonl", msgspec.json.encode(found[0]) + b"\n")
        assert again == found


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"kind":' * 50_000,
        b'{"kind":"nonsense"}',
        b'{"kind":"stage","schema":2}',
        b"\xff\xfe",
        b'"\x1b[31m"',
        b"NaN",
        b"1" * 5000,
    ],
)
def test_hostile_lines_are_refused_by_file_and_number(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(msgspec.json.encode(stage()) + b"\n" + line + b"\n")
    found = []
    with pytest.raises(InputError) as error:
        found.extend(row_files.read(path))
    message = one_line(error)
    with pytest.raises(Exception, match=r".") as reason:
        msgspec.json.decode(line, type=AnyRow)
    assert message.startswith(f"{path}:2: not a valid row (")
    assert message.endswith(f"{str(reason.value)[-20:]})")


def test_limits_are_refused_before_memory_is_spent(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    monkeypatch.setattr(row_files, "LONGEST_LINE_BYTES", 100)
    path.write_bytes(b" " * (4 << 20))
    tracemalloc.start()
    with pytest.raises(InputError, match="a line of more than 100 bytes"):
        list(row_files.read(path))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    path.write_bytes(b"")
    monkeypatch.setattr(row_files, "LARGEST_FILE_BYTES", 0)
    assert list(row_files.read(path)) == []
    path.write_bytes(b" ")
    with pytest.raises(InputError, match="expected at most 0"):
        list(row_files.read(path))


def seconds_to_read(path, count):
    """The best of three readings, because others use this machine too."""
    path.write_bytes((msgspec.json.encode(stage()) + b"\n") * count)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert sum(1 for _ in row_files.read(path)) == count
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def test_many_rows_are_read_in_linear_time(tmp_path):
    assert seconds_to_read(tmp_path / "many.jsonl", 20_000) < 12 * seconds_to_read(tmp_path / "few.jsonl", 5_000)


def test_a_folder_or_an_unreadable_place_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        list(row_files.read(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be read"):
        list(row_files.read(tmp_path / ("x" * 300)))


def test_a_machine_file_is_what_was_written(tmp_path):
    (tmp_path / "machine.json").write_bytes(msgspec.json.encode(simulated_folder.machine_file()))
    assert results_folder.read_machine(tmp_path) == simulated_folder.machine_file()


@pytest.mark.parametrize("data", [b"", b"{}", b"[[" * 10_000, b"\xff", b'{"schema": 1, "machine": {"name": "../x"}}'])
def test_a_machine_file_that_is_none_is_refused(tmp_path, data):
    with pytest.raises(InputError, match="cannot be read"):
        results_folder.read_machine(tmp_path)
    (tmp_path / "machine.json").write_bytes(data)
    with pytest.raises(InputError, match="not valid") as error:
        results_folder.read_machine(tmp_path)
    one_line(error)
