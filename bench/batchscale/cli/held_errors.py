"""Hold back what libraries write to standard error by themselves, past Python, where no setting keeps them silent."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

ERRORS = 2
"""The file descriptor of standard error."""


@contextmanager
def held_back() -> Iterator[None]:
    """Hold back what is written to standard error; write it after all if an exception ends the context.

    With the compilers for other devices installed, importing JAX says for each of its libraries that no GPU is here.
    """
    try:
        kept = os.dup(ERRORS)
    except OSError:  # standard error is closed
        yield
        return
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), ERRORS)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, ERRORS)
            os.close(kept)
