"""What libraries write past Python is held back, and shown where it explains an exception."""

import os

import pytest
from batchscale.cli.held_errors import ERRORS, held_back


def test_what_is_written_is_not_shown(capfd):
    with held_back():
        os.write(ERRORS, b"I0000 no GPU here\n")
    os.write(ERRORS, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_what_is_written_before_an_exception_is_shown(capfd):
    def starts() -> None:
        with held_back():
            os.write(ERRORS, b"a library is missing\n")
            raise ImportError

    with pytest.raises(ImportError):
        starts()
    assert capfd.readouterr().err == "a library is missing\n"
