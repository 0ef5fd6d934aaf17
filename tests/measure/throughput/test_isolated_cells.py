"""Cells timed in a process of their own: which ones are, and what is left of one whose process fails."""

import msgspec
import pytest
from batchscale.config.vocabulary import CellKey
from batchscale.measure.control.failures import Failure
from batchscale.measure.control.signals import Stopped
from batchscale.measure.throughput.timing import SAFE_SHARE_OF_MEMORY
from batchscale.records.row_types import Compilation, Round
from fake_throughput import KEYS, Pretended, Scripted, cell_rows
from sample_rows import ORIGIN


@pytest.mark.parametrize(
    ("isolate", "isolated"),
    [("never", []), ("auto", [KEYS[4], KEYS[5]]), ("always", KEYS)],
    ids=["never", "auto", "always"],
)
def test_cells_that_may_not_fit_run_in_a_process_of_their_own(monkeypatch, isolate, isolated):
    made, asked = Pretended(monkeypatch), []
    made.asks(throughput={"isolate": isolate})
    made.timing.memory_bytes = int(64_000 / SAFE_SHARE_OF_MEMORY) - 1
    made.timing.known.rounds[KEYS[4]] = 2

    def opened(_, cells):
        ((key, _),) = cells
        asked.append((key, made.timing.known.rounds[key]))
        return Scripted(cell_rows(key, made.timing.known.rounds[key]))

    made.timing.isolates, made.timing.child = True, opened
    assert len(made.measure()) == 5 * len(KEYS) - 2
    assert asked == [(key, 2 if key == KEYS[4] else 0) for key in KEYS if key in isolated]
    assert {CellKey.of(row) for row in made.rows if isinstance(row, Compilation) and row.isolated} == set(isolated)
    assert isolate != "always" or made.built == []


@pytest.mark.parametrize(
    ("given", "dies_of", "status", "says"),
    [
        ([], Failure("failed", "ended by SIGSEGV"), "failed", "SIGSEGV"),
        (cell_rows(KEYS[0], rounds=2), Failure("out_of_memory", "killed"), "out_of_memory", "killed"),
        (cell_rows(KEYS[0], rounds=4), None, "failed", "before all rounds were timed"),
        (cell_rows(KEYS[1]), None, "failed", "a row of another cell"),
    ],
    ids=["crash", "killed in mid-rounds", "early end", "other rows"],
)
def test_a_process_that_fails_is_a_row_and_its_rounds_are_kept(monkeypatch, given, dies_of, status, says):
    made, child = Pretended(monkeypatch), Scripted(given, dies_of)
    made.asks(throughput={"isolate": "always"})
    made.timing.isolates, made.timing.child = True, lambda *_: child
    made.measure(keys=KEYS[:1])
    assert child.ended
    assert (made.rows[-1].status, CellKey.of(made.rows[-1])) == (status, KEYS[0])
    assert says in made.rows[-1].message
    assert sum(isinstance(row, Round) for row in made.rows) == sum(
        isinstance(row, Round) and CellKey.of(row) == KEYS[0] for row in given
    )


def test_a_process_that_tells_its_failure_and_then_dies_failed_once(monkeypatch):
    told = Compilation(**ORIGIN, **msgspec.structs.asdict(KEYS[0]), status="failed", message="INTERNAL")
    for dies_of in (None, Failure("failed", "ended by SIGABRT")):
        made = Pretended(monkeypatch)
        made.asks(throughput={"isolate": "always"})
        made.timing.isolates, made.timing.child = True, lambda *_, dies_of=dies_of: Scripted([told], dies_of)
        made.measure(keys=KEYS[:1])
        assert [row.message for row in made.rows] == ["INTERNAL"]


def test_a_retried_cell_is_isolated_and_a_stop_ends_its_process_after_a_whole_row(monkeypatch):
    first = Pretended(monkeypatch, fails={KEYS[3]: (0, "INTERNAL")})
    first.measure()
    made, child = Pretended(monkeypatch).again(first.rows, retries_failed=True), Scripted(cell_rows(KEYS[3]))
    made.timing.isolates, made.timing.child = True, lambda *_: child
    made.stop_at = 3
    with pytest.raises(Stopped):
        made.measure()
    assert child.ended
    assert [type(row) for row in made.rows] == [Compilation, Round]
