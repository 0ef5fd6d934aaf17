"""Rows on disk: whole lines and one writer, whatever happens in between."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from batchscale.errors import InputError
from batchscale.records import row_files
from batchscale.records.row_types import Calibration
from hypothesis import given
from hypothesis import strategies as st
from sample_rows import ORIGIN, one_line, stage, trial


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "made" / "deeper" / "rows.jsonl"
    rows = [stage(), trial(), Calibration(**ORIGIN, quantity="copy_bytes_per_second", value=1e10)]
    with row_files.Writer(path) as writer:
        writer.append(rows[0])
        assert writer.torn_bytes == 0
        writer.append()
        writer.append(*rows[1:])
    assert list(row_files.read(path)) == rows
    assert list(row_files.read(tmp_path / "absent.jsonl")) == []


def test_a_claimed_folder_is_held_against_others_and_removed_if_it_stays_empty(tmp_path):
    folder = tmp_path / "experiment" / "machine"
    with row_files.claimed(folder):
        with pytest.raises(InputError, match="machine: another run is writing here"), row_files.claimed(folder):
            pass
        assert folder.is_dir()
    assert not (tmp_path / "experiment").exists()
    with row_files.claimed(folder):
        (folder / "row").write_text("kept")
    with row_files.claimed(folder):
        assert (folder / "row").read_text() == "kept"
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"file: cannot be written \(File exists\)"),
        row_files.claimed(tmp_path / "file"),
    ):
        pass


def test_a_file_system_that_locks_no_folders_is_no_other_run(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(row_files.fcntl, "flock", refuse)
    with row_files.claimed(tmp_path / "folder"):
        (tmp_path / "folder" / "row").write_text("kept")
    with pytest.raises(InputError, match=r"rows\.jsonl: cannot be locked \(Bad file descriptor\)"):
        row_files.Writer(tmp_path / "rows.jsonl")


def test_a_torn_line_that_cannot_be_set_aside_stays_where_it_is(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"torn")
    path.with_suffix(".torn").mkdir()
    with pytest.raises(
        InputError, match=r"rows\.torn: cannot hold the torn last line of rows\.jsonl \(Is a directory\)"
    ):
        row_files.Writer(path)
    assert path.read_bytes() == b"torn"


def test_a_file_whose_end_cannot_be_read_is_not_called_locked(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"whole\n")
    monkeypatch.setattr(row_files.os, "pread", fail)
    with pytest.raises(InputError, match=r"rows\.jsonl: cannot be read \(Input/output error\)"):
        row_files.Writer(path)


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_torn_last_line_is_left_out_and_set_aside_by_the_next_writer(tmp_path, cut):
    path = tmp_path / "rows.jsonl"
    with row_files.Writer(path) as writer:
        writer.append(stage(1.0), stage(2.0))
    whole = path.read_bytes()
    assert not row_files.is_torn(path)
    path.write_bytes(whole[:-cut])
    assert row_files.is_torn(path)
    assert list(row_files.read(path)) == [stage(1.0)]
    with row_files.Writer(path) as writer:
        writer.append(stage(3.0))
    assert list(row_files.read(path)) == [stage(1.0), stage(3.0)]
    assert path.with_suffix(".torn").read_bytes().rstrip(b"\n") == whole.splitlines(keepends=True)[1][:-cut]


@pytest.mark.parametrize(
    ("data", "torn"), [(b"", False), (b"\n", False), (b"{}\n", False), (b"{", True), (b"\n{", True)]
)
def test_a_file_is_torn_where_its_last_line_has_no_end(tmp_path, data, torn):
    (tmp_path / "rows.jsonl").write_bytes(data)
    assert row_files.is_torn(tmp_path / "rows.jsonl") is torn
    assert row_files.is_torn(tmp_path / "absent.jsonl") is False


def test_json_is_written_whole_for_people_to_read(tmp_path):
    row_files.write_json(tmp_path / "one.json", {"name": "é", "values": [1, None]})
    text = (tmp_path / "one.json").read_text(encoding="utf-8")
    assert text == '{\n  "name": "é",\n  "values": [\n    1,\n    null\n  ]\n}\n'


@given(
    st.lists(st.sampled_from([b"\n", b"x", b"{}\n", b"y" * 70]), max_size=12).map(b"".join), st.sampled_from([1, 2, 64])
)
def test_whatever_follows_the_last_end_of_a_line_is_set_aside_whole(tmp_path_factory, data, block_bytes):
    path = tmp_path_factory.mktemp("torn") / "rows.jsonl"
    path.write_bytes(data)
    whole = data.rfind(b"\n") + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_files, "BLOCK_BYTES", block_bytes)
        with row_files.Writer(path) as writer:
            assert writer.torn_bytes == len(data) - whole
    assert path.read_bytes() == data[:whole]
    aside = path.with_suffix(".torn")
    assert (aside.read_bytes() if aside.exists() else b"\n") == data[whole:] + b"\n"


def test_torn_lines_add_up(tmp_path):
    path = tmp_path / "rows.jsonl"
    for torn in (b"first", b"second"):
        path.write_bytes(torn)
        row_files.Writer(path).close()
    assert path.with_suffix(".torn").read_bytes() == b"first\nsecond\n"


def open_files():
    return len([*Path("/proc/self/fd").iterdir()])


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.torn"])
@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/dev/null"), lambda path: path.symlink_to("elsewhere")])
def test_a_link_in_place_of_a_file_is_not_followed(tmp_path, name, make):
    (tmp_path / "elsewhere").write_text("not ours")
    (tmp_path / "rows.jsonl").write_text("torn")
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)
    before = open_files()
    with pytest.raises(InputError, match="symbolic links") as error:
        row_files.Writer(tmp_path / "rows.jsonl")
    one_line(error)
    assert open_files() == before
    assert (tmp_path / "elsewhere").read_text() == "not ours"


@pytest.mark.parametrize("target", ["gone.jsonl", "rows.jsonl"])
def test_a_link_that_leads_nowhere_is_not_a_file_without_rows(tmp_path, target):
    path = tmp_path / "rows.jsonl"
    assert list(row_files.read(path)) == []
    path.symlink_to(target)
    with pytest.raises(InputError, match=r"rows\.jsonl: cannot be read"):
        list(row_files.read(path))


def test_a_pipe_in_place_of_a_file_is_neither_written_nor_waited_for(tmp_path):
    path = tmp_path / "rows.jsonl"
    os.mkfifo(path)
    before = open_files()
    with pytest.raises(InputError, match=r"cannot be written \(not a regular file\)"):
        row_files.Writer(path)
    with pytest.raises(InputError, match=r"cannot be read \(not a regular file\)"):
        list(row_files.read(path))
    assert open_files() == before


def test_files_are_for_their_owner_to_write_and_for_all_to_read(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b"torn")
    mask = os.umask(0)
    try:
        (tmp_path / "rows.jsonl").rename(tmp_path / "old.jsonl")
        row_files.Writer(tmp_path / "rows.jsonl").close()
        row_files.Writer(tmp_path / "old.jsonl").close()
    finally:
        os.umask(mask)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("rows.jsonl", "old.torn")} == {0o644}


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path):
    path = tmp_path / "rows.jsonl"
    with row_files.Writer(path), pytest.raises(InputError, match=r"rows\.jsonl: another run") as error:
        row_files.Writer(path)
    one_line(error)
    row_files.Writer(path).close()


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / "rows.jsonl"
    writer = f"row_files.Writer(__import__('pathlib').Path({str(path)!r}))"
    script = f"import time\nfrom batchscale.records import row_files\nw = {writer}\n"
    holder = subprocess.Popen(
        [sys.executable, "-c", script + "print('held', flush=True)\ntime.sleep(60)"], stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match="another run"):
        row_files.Writer(path)
    holder.kill()
    holder.communicate()
    row_files.Writer(path).close()


def test_a_full_disk_leaves_the_rows_before_it_whole(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    with row_files.Writer(path) as writer:
        writer.append(stage(1.0))
        real = os.write

        def half(descriptor, data):
            if len(data) < 20:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(descriptor, data[: len(data) // 2])

        def refused(*_):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(row_files.os, "write", half)
        with pytest.raises(InputError, match="No space left") as error:
            writer.append(stage(2.0))
        one_line(error)
        monkeypatch.undo()
        assert list(row_files.read(path)) == [stage(1.0)]
        writer.append(stage(3.0))
        monkeypatch.setattr(row_files.os, "write", half)
        monkeypatch.setattr(row_files.os, "ftruncate", refused)
        with pytest.raises(InputError, match="No space left"):
            writer.append(stage(4.0))
        monkeypatch.undo()
    row_files.Writer(path).close()
    assert list(row_files.read(path)) == [stage(1.0), stage(3.0)]


def test_a_row_larger_than_may_be_read_is_never_written(tmp_path, monkeypatch):
    longest = len(msgspec.json.encode(trial(2))) + 1
    monkeypatch.setattr(row_files, "LONGEST_LINE_BYTES", longest)
    with row_files.Writer(tmp_path / "rows.jsonl") as writer:
        writer.append(trial(2))
        with pytest.raises(InputError, match=f"expected at most {longest}; evaluate less often"):
            writer.append(trial(3))
    assert list(row_files.read(tmp_path / "rows.jsonl")) == [trial(2)]


def test_a_folder_removed_in_mid_run_is_said(tmp_path):
    path = tmp_path / "results" / "rows.jsonl"
    with row_files.Writer(path) as writer:
        writer.append(stage())
        path.unlink()
        path.parent.rmdir()
        with pytest.raises(InputError, match=r"\(the results folder was removed\)") as error:
            writer.append(stage())
        one_line(error)


@pytest.mark.parametrize(
    "write", [lambda path: row_files.Writer(path).close(), lambda path: row_files.write_whole(path, b"x")]
)
def test_a_place_that_is_no_folder_is_refused_in_one_line(tmp_path, write):
    (tmp_path / "file").write_text("in the way")
    write(tmp_path / "made" / "deeper" / "rows.jsonl")
    for path in (tmp_path / "file" / "rows.jsonl", tmp_path / "file" / "deeper" / "rows.jsonl", tmp_path):
        with pytest.raises(InputError, match="cannot be written") as error:
            write(path)
        one_line(error)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "made"]


def test_a_file_is_replaced_in_one_move_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "machine.json"
    row_files.write_whole(path, b"before")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(row_files.os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        row_files.write_whole(path, b"after")
    monkeypatch.undo()
    assert path.read_bytes() == b"before"
    assert [one.name for one in tmp_path.iterdir()] == ["machine.json"]
    row_files.write_whole(path, b"after")
    assert path.read_bytes() == b"after"
