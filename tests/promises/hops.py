"""Print as JSON, from a child process, the modules of batchscale whose functions a command enters.

`hops.py ROW COMMAND...` counts until the first row of type ROW is written, then ends. With "-" it counts to the end.
Bodies of modules and classes do not count, nor do calls made while a module is imported.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from inspect import CO_OPTIMIZED
from types import FrameType
from typing import Any

from batchscale.cli import command_line
from batchscale.records import row_files
from repository import ROOT

FOLDERS = tuple(str(ROOT / name) + os.sep for name in ("bench", "models"))
entered: dict[str, None] = {}
_seen_code: set[Any] = set()


def notice(frame: FrameType, event: str, _: Any) -> None:
    """Profile function: add the module of a called function to `entered`."""
    code = frame.f_code
    if event != "call" or code in _seen_code:
        return
    function_of_ours = code.co_filename.startswith(FOLDERS) and code.co_filename.endswith(".py")
    if not function_of_ours or not code.co_flags & CO_OPTIMIZED:
        _seen_code.add(code)
    elif not imports(frame):
        _seen_code.add(code)
        entered[os.path.relpath(code.co_filename, ROOT)] = None


def imports(frame: FrameType | None) -> bool:
    """Return whether a module other than this program is being executed below `frame`."""
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_code.co_filename != __file__:
            return True
        frame = frame.f_back
    return False


def finish(status: int = 0) -> None:
    """Print the modules and end the process at once, threads included."""
    sys.setprofile(None)
    print("\n" + json.dumps(list(entered)), flush=True)
    os._exit(status)


def end_at(row_type: str) -> None:
    """Let the first row of this type that is written be the last thing that happens."""
    append = row_files.Writer.append

    def append_and_end(self: row_files.Writer, *rows: Any) -> None:
        append(self, *rows)
        if row_type in {type(row).__name__ for row in rows}:
            finish()

    row_files.Writer.append = append_and_end


if __name__ == "__main__":
    end_at(sys.argv[1])
    threading.setprofile(notice)
    sys.setprofile(notice)
    finish(command_line.run(sys.argv[2:]))
