"""The share of the machine that a batch size uses, and the limit that explains its time, where the truth is known."""

import html
from dataclasses import replace

import msgspec
import pytest
import simulated_answers
import simulated_folder
from batchscale.analysis.figures import choose, style
from batchscale.analysis.metrics import hardware
from batchscale.analysis.pages import report, tables
from batchscale.analysis.text import captions
from batchscale.records.row_types import Calibration, Compilation

TRUTH = simulated_folder.Truth(batch_sizes=(16, 64, 256, 1024), round_noise=1e-6, confirm_seeds=2, also=())


def answered(keep=lambda row: True, **changes):
    truth = replace(TRUTH, **changes)
    return simulated_answers.answered(truth, [row for row in simulated_folder.rows(truth) if keep(row)])


def test_achieved_flops_are_the_models_over_the_time_of_a_step():
    for cell in answered().cells:
        expected = 1e6 * cell.batch_size / TRUTH.seconds_per_step(cell.batch_size)
        assert cell.achieved_flops_per_second == pytest.approx(expected, rel=1e-3)
        assert cell.fraction_of_peak == pytest.approx(expected / 1e11, rel=1e-3)
        assert cell.flops_per_byte == pytest.approx(10)


def test_the_ceiling_is_the_best_round_in_the_precision_that_was_trained_in():
    top = answered().ceilings
    assert top.matmul_flops_per_second == 1e11
    assert top.copy_bytes_per_second == 8e9
    assert top.timer_resolution_seconds is None


def test_each_limit_is_named_where_it_explains_the_step():
    """2e-5 s an example and 1e-3 s a step: the fixed cost rules small batches, then what makes up the 2e-5."""
    copying = answered(bytes_per_example=1.6e-5 * 8e9)
    assert [cell.limited_by for cell in copying.cells] == ["fixed_cost", None, "copying", "copying"]
    assert copying.cells[-1].limit_share == pytest.approx(1.6e-5 * 1024 / TRUTH.seconds_per_step(1024), rel=1e-2)
    arithmetic = answered(flops_per_example=1.8e-5 * 1e11, bytes_per_example=1.0)
    assert [cell.limited_by for cell in arithmetic.cells][-2:] == ["arithmetic", "arithmetic"]


def test_copies_that_would_take_longer_than_the_step_came_from_caches():
    cached = answered(bytes_per_example=1e-4 * 8e9, flops_per_example=1.8e-5 * 1e11)
    assert cached.cells[-1].limited_by == "arithmetic"


@pytest.mark.parametrize(
    ("dropped", "kept"),
    [
        ({"matmul_flops_per_second"}, {"achieved_flops_per_second", "flops_per_byte"}),
        (
            {"copy_bytes_per_second"},
            {"achieved_flops_per_second", "flops_per_byte", "fraction_of_peak", "limit_share"},
        ),
        ({"matmul_flops_per_second", "copy_bytes_per_second"}, {"achieved_flops_per_second", "flops_per_byte"}),
    ],
)
def test_what_was_not_calibrated_is_null(dropped, kept):
    found = answered(keep=lambda row: not (isinstance(row, Calibration) and row.quantity in dropped))
    of_machine = ("achieved_flops_per_second", "fraction_of_peak", "flops_per_byte", "limit_share")
    for cell in found.cells:
        assert {name for name in of_machine if getattr(cell, name) is not None} == kept
        assert cell.limited_by != "copying"
    assert (found.ceilings is None) == (len(dropped) == 2)
    assert (found.ceilings_reason is None) == (len(dropped) < 2)


def test_rows_of_before_flops_were_counted_stay_readable():
    def as_before(row):
        nothing = dict.fromkeys(("flops_per_example", "compiler_flops_per_example", "moved_bytes_per_example"))
        return msgspec.structs.replace(row, **nothing) if isinstance(row, Compilation) else row

    rows = [as_before(row) for row in simulated_folder.rows(TRUTH) if not isinstance(row, Calibration)]
    found = simulated_answers.answered(TRUTH, rows)
    assert {cell.achieved_flops_per_second for cell in found.cells} == {None}
    assert captions.step_limits(found) == ""
    assert {row.entries[-1].text for row in tables.batch_size_table(found).rows} == {"—"}


def test_the_limits_of_a_step_are_in_the_table_and_in_the_remark():
    found = answered(bytes_per_example=1.6e-5 * 8e9)
    last = tables.batch_size_table(found).rows[-1].entries[-1]
    assert last.text == "47.7 GFLOP/s, 48%"
    said = captions.step_limits(found)
    assert "The fixed cost of a step explains 76% of a step at B = 16." in said
    assert "No single limit explains 50% of a step at B = 64." in said
    assert "Copying memory explains 67% to 76% of a step at B = 256 to 1024." in said


def test_nothing_explains_more_than_all():
    assert hardware._binding({"arithmetic": 3.0, "copying": 2.0, "fixed_cost": float("nan")}) == (None, None)


def test_the_roofline_shows_both_limits_and_which_one_binds(sweep, summarized):
    with style.applied():
        (plot,) = choose(["roofline"])
        (axes,) = plot.draw(sweep, summarized).axes
    roof = next(line for line in axes.lines if line.get_label() == "measured limit of the machine")
    across, up = roof.get_xdata(), roof.get_ydata()
    assert up[-1] == pytest.approx(100)
    assert up[0] == pytest.approx(8 * across[0])
    drawn = {line.get_label() for line in axes.lines}
    assert {f"limited by {captions.LIMITS[cell.limited_by]}" for cell in summarized.cells if cell.limited_by} <= drawn


def test_remarks_are_in_the_captions_of_their_figures(reported, summarized):
    text = html.unescape((reported / report.NAME).read_text(encoding="utf-8"))
    for remark, figure in ((captions.drift(summarized), "throughput"), (captions.step_limits(summarized), "roofline")):
        caption = text[text.index(f'id="figure-{figure}"') :].partition("</figcaption>")[0]
        assert remark
        assert remark in caption
