"""Every timed variant of a step has its own row: nothing is mixed, and failures are not left out."""

import dataclasses

import numpy as np
import pytest
import simulated_folder
from batchscale.analysis.frames import frames
from batchscale.analysis.pages.tables import flops_of_variant, timed_variants_table
from batchscale.records.row_types import Compilation, Limit, Round
from msgspec.structs import replace

TRUTH = simulated_folder.Truth(
    batch_sizes=(16, 64, 256), confirm_seeds=1, also=(), out_of_memory=(256,), microbatches=4
)
OTHERS = ({"precision": "bfloat16"}, {"input": "host"}, {"precision": "bfloat16", "input": "host"})


def rows():
    for row in simulated_folder.rows(TRUTH):
        if isinstance(row, Compilation | Round):
            for speed, other in enumerate(({}, *OTHERS), 1):
                changed = {"seconds": row.seconds / speed} if isinstance(row, Round) else {}
                yield replace(row, **other, **changed)
                if isinstance(row, Compilation) and row.status == "out_of_memory":
                    yield replace(row, **other, accumulation=4, status="ok", message=None)
        elif not isinstance(row, Limit):
            yield row


def table(extra=(), truth=TRUTH):
    return timed_variants_table(
        frames.from_rows(simulated_folder.experiment(truth), simulated_folder.machine_file(), [*rows(), *extra])
    )


def lines(made):
    titles = [column.title for column in made.columns]
    return [dict(zip(titles, row.entries, strict=True)) for row in made.rows]


def variant(line):
    return tuple(line[title].text for title in ("Batch size", "Loop", "Input from", "Precision", "Microbatches a step"))


def test_each_variant_is_one_row_with_its_own_median_and_its_own_peak():
    found = {variant(line): line for line in lines(table())}
    assert len(found) == len(table().rows) == (3 + 1) * 2 * (1 + len(OTHERS))
    for loop in ("scan", "dispatch"):
        plain, half = (found["64", loop, "device", precision, "1"] for precision in ("float32", "bfloat16"))
        seconds = [one.seconds / one.steps for one in simulated_folder.rows(TRUTH) if timed(one, loop)]
        assert plain["Examples/s"].value == pytest.approx(64 / np.median(seconds))
        assert half["Examples/s"].value == pytest.approx(2 * plain["Examples/s"].value)
        assert plain["FLOP/s, of peak"].text.endswith("%")
        share = half["FLOP/s, of peak"].value / 1e15
        assert float(half["FLOP/s, of peak"].text.split()[-1][:-1]) == pytest.approx(100 * share, rel=0.1)


def timed(row, loop):
    return isinstance(row, Round) and (row.batch_size, row.loop) == (64, loop)


def test_what_did_not_fit_is_a_line_with_its_message_and_its_microbatches_are_the_next():
    found = lines(table())
    full = [at for at, line in enumerate(found) if line["Status"].text == "out of memory"]
    assert len(full) == 2 * (1 + len(OTHERS))
    for at in full:
        assert "RESOURCE_EXHAUSTED" in found[at]["Message"].text
        assert found[at]["Examples/s"].text == "—"
        assert variant(found[at + 1]) == (*variant(found[at])[:-1], "4")
        assert found[at + 1]["Examples/s"].value > 0


def test_the_latest_row_of_a_variant_counts():
    again = [replace(row, status="failed", message="lost") for row in rows() if isinstance(row, Compilation)]
    assert {line["Status"].text for line in lines(table(again))} == {"failed"}


def test_only_what_differs_is_a_column(measured):
    plain = [column.title for column in timed_variants_table(measured).columns]
    assert plain[:2] == ["Batch size", "Loop"]
    assert not {"Precision", "Input from", "Microbatches a step"} & set(plain)
    fitting = measured.compilations.assign(message=None)
    without = timed_variants_table(dataclasses.replace(measured, compilations=fitting))
    assert [column.title for column in without.columns] == plain[:-1]
    assert {len(row.entries) for row in without.rows} == {len(plain) - 1}


def test_virtual_devices_share_the_peak_of_one(measured):
    posing = replace(measured.machine, machine=replace(measured.machine.machine, virtual_devices=True))
    one = {"precision": "float32", "flops_per_example": 1e6, "devices": 4}
    both = measured, dataclasses.replace(measured, machine=posing)
    assert [flops_of_variant(found, one, 1e4).text.split()[-1] for found in both] == ["2.5%", "10%"]


def test_tables_from_elsewhere_have_no_variants(measured):
    assert timed_variants_table(dataclasses.replace(measured, compilations=measured.compilations.iloc[:0])) is None
