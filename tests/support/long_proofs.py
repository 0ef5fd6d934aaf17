"""Leave most cases of a proof to `make test-rest`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def long_unless(quick: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """Return the cases as parameters; those that are not `quick` are marked `slow`."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=() if case in quick else pytest.mark.slow)
        for case in cases
    ]
