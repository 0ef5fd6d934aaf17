"""Programs of the system: bounded in time, and ended with all they started."""

import time
from pathlib import Path

import pytest
from archives import client
from batchscale import subprocesses


def alive(process):
    """Whether a process runs; one that ended but was not waited for does not."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and ") Z " not in status.read_text()


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path):
    client(tmp_path, "hang", f'sleep 20 & echo $! > "{tmp_path / "child"}"; wait')
    with pytest.raises(subprocesses.CommandError, match="no answer"):
        subprocesses.run([str(tmp_path / "hang")], 0.5)
    child = int((tmp_path / "child").read_text())
    for _ in range(50):
        if not alive(child):
            return
        time.sleep(0.05)
    pytest.fail("the child outlived its parent")
