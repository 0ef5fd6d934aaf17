"""Disks that are full, end early or may only be read, for real: one line, no row lost, and a run that goes on after."""

from __future__ import annotations

import shutil
import subprocess
import sys

import msgspec
import pytest
import simulated_folder
from batchscale.records import results_folder, row_files
from long_proofs import long_unless
from repository import ROOT
from sample_rows import stage
from subprocess_study import RUN, SWEEP, environment, only_folder, rounds
from tiny_workload import experiment, trials

MOUNTS = subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode == 0
"""Whether this system lets a user mount a small disk of their own, seen by nobody else."""

needs_mounts = pytest.mark.skipif(not MOUNTS, reason="this system gives users no mounts of their own (unshare -rm)")

FILL = """
import sys
from pathlib import Path
import msgspec
from batchscale.records import row_files
from batchscale.errors import InputError
from batchscale.records.row_types import Stage
row = msgspec.json.decode(sys.stdin.buffer.read(), type=Stage)
path, written = Path(sys.argv[1]), 0
with row_files.Writer(path) as writer:
    try:
        while written < 100_000:
            writer.append(row)
            written += 1
    except InputError as refused:
        print(refused)
rows = list(row_files.read(path))
assert rows == [row] * written, (len(rows), written)
whole = path.read_bytes()
assert whole.endswith(b"\\n")
print(written)
"""


def fill(folder, prepare, command=(sys.executable, "-c", FILL)):
    """Append rows to `rows.jsonl` in `folder` until they are refused; the refusal, and how many rows there are."""
    line = " ".join([prepare, "&&", "exec", *(f"'{part}'" for part in [*command, str(folder / "rows.jsonl")])])
    done = subprocess.run(
        [*(["unshare", "-rm"] if "mount" in prepare else []), "sh", "-c", line],
        input=msgspec.json.encode(stage()),
        capture_output=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr.decode()
    refusal, count = done.stdout.decode().splitlines()
    return refusal, int(count)


@needs_mounts
def test_a_disk_that_fills_up_keeps_every_row_written_before(tmp_path):
    refusal, count = fill(tmp_path, f"mount -t tmpfs -o size=64k tmpfs '{tmp_path}'")
    assert "No space left on device" in refusal
    assert "rows before it are whole" in refusal
    assert count > 100


def test_a_file_that_may_grow_no_further_keeps_every_row_written_before(tmp_path):
    refusal, count = fill(tmp_path, "ulimit -f 16")
    assert "File too large" in refusal
    assert count > 10
    with row_files.Writer(tmp_path / "rows.jsonl") as writer:
        writer.append(stage())
    assert len(list(row_files.read(tmp_path / "rows.jsonl"))) == count + 1


@needs_mounts
@pytest.mark.parametrize("verb", long_unless(["report"], ["report", "figures"]))
def test_a_results_folder_that_may_only_be_read_is_refused_in_one_line(tmp_path, verb):
    simulated_folder.write(tmp_path / "folder", batch_sizes=(16, 64), confirm_seeds=2, epochs=3.0, max_epochs=4.0)
    mounted = f"mount --bind '{tmp_path}' '{tmp_path}' && mount -o remount,bind,ro '{tmp_path}'"
    command = f"exec '{sys.executable}' -m batchscale {verb} '{tmp_path / 'folder'}'"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{mounted} && {command}"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert "Read-only file system" in line


@needs_mounts
@pytest.mark.slow
def test_a_run_on_a_disk_that_fills_up_goes_on_once_there_is_room(tmp_path):
    """One run on a disk of 12 kB, the same again with 12 MB, and a run that always had room."""
    (tmp_path / "sweep.toml").write_bytes(results_folder.to_toml(experiment(**SWEEP)).replace(b'"tiny"', b'"sweep"', 1))
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    run = f"'{sys.executable}' -c '{RUN}' run sweep.toml --results '{disk}'"
    script = f"""
        mount -t tmpfs -o size=12k tmpfs '{disk}' || exit 9
        {run} && exit 8
        test $? = 2 || exit 7
        cp -r '{disk}' '{kept}'
        mount -o remount,size=12m '{disk}' || exit 6
        {run} || exit 5
        cp -r '{disk}' '{tmp_path / "after"}'
    """
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (refusal,) = [line for line in done.stderr.splitlines() if line.startswith("batchscale: ")]
    assert "No space left on device" in refusal
    before, after = only_folder(kept), only_folder(tmp_path / "after")
    for name in (results_folder.THROUGHPUT, results_folder.CONVERGENCE):
        whole = (before / name).read_bytes() if (before / name).exists() else b""
        assert (after / name).read_bytes().startswith(whole[: whole.rfind(b"\n") + 1])
    whole = tmp_path / "whole"
    command = [sys.executable, "-c", RUN, "run", "sweep.toml", "--results", str(whole)]
    subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, check=True)
    assert trials(after) == trials(only_folder(whole))
    assert rounds(after) == rounds(only_folder(whole))
    shutil.rmtree(whole)
