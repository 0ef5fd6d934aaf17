"""Signals: the first asks, the second stops now, and afterwards everything is as before."""

import os
import signal
import subprocess
import sys
import time

import pytest
from batchscale.measure.control.signals import ASKED, FORCED, SIGNALS, Stopped, Stopper
from repository import ROOT


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_a_request_and_the_second_stops_now(number):
    with Stopper() as stopper:
        stopper.check()
        os.kill(os.getpid(), number)
        assert stopper.requested
        with pytest.raises(Stopped):
            stopper.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_a_signal_is_answered_before_anything_that_is_said_afterwards(monkeypatch):
    said, write = [], os.write

    def slowly(descriptor, data):
        if descriptor == 2:
            time.sleep(0.2)
            said.append(data)
            return len(data)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", slowly)
    with Stopper():
        os.kill(os.getpid(), signal.SIGINT)
    assert said == [ASKED]


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with Stopper():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


STUCK = """
import hashlib, sys
from batchscale.measure.control import signals
signals.GRACE_SECONDS = 0.2
with signals.Stopper():
    print("in", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


def test_a_library_that_hears_no_signal_is_ended_by_the_second_and_the_first_is_answered_at_once():
    with subprocess.Popen(
        [sys.executable, "-c", STUCK], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"in\n"
        process.terminate()
        assert process.stderr.read(len(ASKED)) == ASKED
        assert process.poll() is None
        process.terminate()
        assert process.wait(timeout=30) == 130
        assert process.stderr.read() == FORCED
