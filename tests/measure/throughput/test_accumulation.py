"""Batches that do not fit into memory: known before or found out, and split into ever smaller microbatches."""

import pytest
from batchscale.records.row_types import Compilation
from fake_throughput import KEYS, Pretended


@pytest.mark.parametrize("calls", [0, 3, 12])
def test_what_does_not_fit_although_the_compiler_said_so_keeps_what_it_said(monkeypatch, calls):
    said_again = "Error dispatching computation: " * 40
    made = Pretended(monkeypatch, fails={KEYS[0]: (calls, f"INTERNAL: {said_again}Out of memory allocating 9 bytes")})
    made.measure(KEYS[:1])
    (row,) = [row for row in made.rows if isinstance(row, Compilation) and row.status == "out_of_memory"]
    assert (row.predicted_bytes, row.compile_seconds) == (made.predicted_bytes(KEYS[0]), 0.25)
    assert row.message == "INTERNAL: Error dispatching computation: Out of memory allocating 9 bytes"


def test_beyond_memory_the_sweep_goes_on_in_the_fewest_doublings_of_microbatches(monkeypatch):
    made = Pretended(monkeypatch)
    made.timing.memory_bytes = 10_000
    forms = {(row.batch_size, row.accumulation) for row in made.measure()}
    assert forms == {(1, 1), (8, 1), (64, 8)}
    refused = [row for row in made.rows if isinstance(row, Compilation) and row.status == "out_of_memory"]
    assert {(row.batch_size, row.accumulation) for row in refused} == {(64, 1), (64, 2), (64, 4)}
    assert all("64000 bytes, expected at most the 10000" in row.message for row in refused if row.accumulation == 1)
    assert Pretended(monkeypatch).again(made.rows).measure() == []


def test_what_not_even_fits_by_single_examples_ends(monkeypatch):
    made = Pretended(monkeypatch)
    made.timing.memory_bytes = 999
    assert made.measure() == []
    assert {row.status for row in made.rows} == {"out_of_memory"}
    assert max(row.accumulation for row in made.rows) == 64
