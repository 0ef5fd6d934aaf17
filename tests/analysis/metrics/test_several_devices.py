"""Several devices: efficiencies against a known truth, joined with epochs, and never mixed into what one device did."""

import dataclasses

import msgspec
import numpy as np
import pytest
import simulated_folder
from batchscale.analysis import figures
from batchscale.analysis.figures import style
from batchscale.analysis.frames import frames
from batchscale.analysis.frames.schema import only
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.pages import report
from batchscale.analysis.summary.build import summarize
from matplotlib.backends.backend_agg import FigureCanvasAgg
from simulated_answers import answered

TRUTH = simulated_folder.Truth(
    devices=(2, 4), round_noise=1e-6, confirm_seeds=3, batch_sizes=(16, 32, 64, 128, 256, 512)
)


@pytest.fixture(scope="module")
def measured():
    return frames.from_rows(
        simulated_folder.experiment(TRUTH), simulated_folder.machine_file(), simulated_folder.rows(TRUTH)
    )


@pytest.fixture(scope="module")
def found(measured):
    return summarize(Sweep.of(measured))


def virtual(measured):
    machine = msgspec.structs.replace(measured.machine.machine, virtual_devices=True, device_count=4)
    return dataclasses.replace(measured, machine=msgspec.structs.replace(measured.machine, machine=machine))


def test_every_shared_batch_is_a_point(found):
    sizes = list(TRUTH.batch_sizes)
    assert [(one.devices, one.batch_size) for one in found.data_parallel] == [
        (devices, size) for devices in (2, 4) for size in sizes
    ]


def test_efficiencies_are_those_of_the_truth(found):
    for one in found.data_parallel:
        shared = one.batch_size / TRUTH.shared_seconds_per_step(one.batch_size, one.devices)
        part = one.batch_size // one.devices
        strong = one.batch_size / TRUTH.seconds_per_step(one.batch_size)
        weak = part / TRUTH.seconds_per_step(part)
        assert one.examples_per_second == pytest.approx(shared, rel=1e-4)
        assert one.strong_efficiency == pytest.approx(shared / strong / one.devices, rel=1e-4)
        if part in TRUTH.batch_sizes:
            assert one.weak_efficiency == pytest.approx(shared / weak / one.devices, rel=1e-4)
        else:
            assert one.weak_efficiency is None


def test_updates_and_epochs_are_joined_in(found):
    cells = {cell.batch_size: cell for cell in found.cells}
    for one in found.data_parallel:
        part = cells.get(one.batch_size // one.devices)
        assert one.updates_per_epoch * one.batch_size == pytest.approx(TRUTH.train_examples)
        assert one.epochs_to_target == pytest.approx(cells[one.batch_size].epochs_to_target.median)
        epoch_seconds = TRUTH.train_examples / one.examples_per_second
        assert one.time_to_target == pytest.approx(one.epochs_to_target * epoch_seconds)
        if part:
            assert one.epochs_ratio == pytest.approx(one.epochs_to_target / part.epochs_to_target.median)
        else:
            assert one.epochs_ratio is None


def test_one_device_is_answered_as_if_there_were_no_others(measured, found):
    rounds = only(measured.rounds, measured.rounds["devices"] == 1)
    alone = summarize(Sweep.of(dataclasses.replace(measured, rounds=rounds)))
    assert alone.data_parallel == []
    same = {"data_parallel": [], "verdicts": [], "drift": None}  # rounds on several devices drift with the others
    assert msgspec.structs.replace(found, **same) == msgspec.structs.replace(alone, **same)


def test_a_batch_that_only_several_devices_took_is_no_cell():
    truth = dataclasses.replace(TRUTH, batch_sizes=(16, 32))
    rows = simulated_folder.rows(truth)
    together = [msgspec.structs.replace(row, batch_size=64) for row in rows if getattr(row, "devices", 1) == 4]
    found = answered(truth, [*rows, *together])
    assert [cell.batch_size for cell in found.cells] == [16, 32]
    (point,) = [one for one in found.data_parallel if one.batch_size == 64]
    assert point.epochs_to_target is point.strong_efficiency is point.time_to_target is None
    assert point.weak_efficiency > 0


def test_the_claim_about_workers_names_those_that_were_used(found):
    said = found.verdicts[8].numbers
    assert found.verdicts[8].verdict == "supported"
    assert "4 devices with 128 examples each: 1/4 of the updates in an epoch" in said


@pytest.mark.parametrize("width", [3.3, style.PAGE_INCHES])
def test_a_long_foot_stays_on_the_page(measured, width):
    posing = virtual(measured)
    (plot,) = figures.choose(["data_parallel"])
    with style.applied(width):
        figure = plot.draw(Sweep.of(posing), summarize(Sweep.of(posing)))
        renderer = FigureCanvasAgg(figure).get_renderer()
        assert figure._supxlabel.get_window_extent(renderer).x1 <= figure.bbox.x1


def test_what_did_not_reach_the_target_is_named_beside_the_claim():
    truth = dataclasses.replace(TRUTH, devices=(), ceilings={512: 0.5}, ceiling_noise=0)
    found = answered(truth)
    assert "; 512 did not reach the target." in found.verdicts[8].numbers


def test_the_figure_draws_both_kinds_of_scaling(measured, found):
    (plot,) = figures.choose(["data_parallel"])
    with style.applied():
        strong, weak, *_ = plot.draw(Sweep.of(measured), found).axes
    for axes, kind in ((strong, "strong_efficiency"), (weak, "weak_efficiency")):
        drawn = sorted(y for line in axes.lines if line.get_marker() == "o" for y in line.get_ydata() if y != 1)
        known = [one.devices * getattr(one, kind) for one in found.data_parallel if getattr(one, kind)]
        assert np.allclose(drawn, sorted(known))


def test_a_page_notes_that_speeds_of_virtual_devices_are_not_meaningful(measured, found):
    posing = virtual(measured)
    (plot,) = figures.choose(["data_parallel"])
    for frame, summary, posed in ((measured, found, False), (posing, summarize(Sweep.of(posing)), True)):
        with style.applied():
            foot = plot.draw(Sweep.of(frame), summary)._supxlabel.get_text()
        texts = [
            foot.replace("\n", " "),
            plot.alt_text(Sweep.of(frame), summary),
            report.several_devices(summary).caption,
        ]
        assert ["speeds are not meaningful" in text for text in texts] == [posed] * 3
        assert summary.virtual_devices == posed
        assert ("times the examples per second" in summary.verdicts[8].numbers) != posed
