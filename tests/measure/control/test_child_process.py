"""How a child process ended, in words, and the line of its standard error that names the cause."""

import sys

import msgspec
import pytest
from batchscale.measure.control.child_process import ChildProcess

FATAL = "F1127 12:43:30.416011   25640 parse_flags_from_env.cc:234] Unknown flag in XLA_FLAGS: --nonsense=1"


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ([], ""),
        (["Traceback (most recent call last):", "ValueError: it broke", " "], "ValueError: it broke"),
        (["a warning", FATAL], "Unknown flag in XLA_FLAGS: --nonsense=1"),
        (
            [FATAL, "*** Check failure stack trace: ***", "    @ 0x7f3a  main"],
            "Unknown flag in XLA_FLAGS: --nonsense=1",
        ),
        (["E0000 00:00:1795783545.767964   27065 common_lib.cc:554] no host"], "no host"),
        (["Failed to start"], "Failed to start"),
    ],
)
def test_the_cause_is_the_fatal_line_of_a_library_or_the_last_one(said, cause):
    text = "".join(f"{line}\n" for line in said)
    script = f"import sys; sys.stderr.write({text!r}); sys.exit(3)"
    with ChildProcess(msgspec.Raw(b"{}"), (sys.executable, "-c", script), {}) as process:
        assert list(process.lines()) == []
        assert process.how_it_ended() == "ended with exit status 3"
        assert process.cause() == cause
