"""Signals: the first asks, the second stops now, and afterwards everything is as before."""

import os
import signal

import pytest

from bench.measure.interrupts import SIGNALS, Stopped, Stopper


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


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with Stopper():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
