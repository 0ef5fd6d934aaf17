"""Run studies with made-up curves. `worth` decides which rate is best, so the expected choice is known."""

import math

from batchscale.config import plan
from batchscale.measure.control.signals import Stopped
from batchscale.measure.convergence import tiers, wave, wave_loop
from batchscale.measure.convergence.lanes import Lanes, Programs
from batchscale.measure.convergence.stage import Convergence
from batchscale.measure.convergence.wave import SHARE_OF_LANES, SHARE_OF_MEMORY
from batchscale.measure.device.machine import Host
from batchscale.measure.training.learner import TrainState
from batchscale.records.row_types import Curve
from tiny_workload import session, trials


def without_training(monkeypatch, run):
    """Replace `wave_loop.run` by `run`, and make the lanes empty, so that no model is traced or compiled."""
    if not isinstance(Programs.lane_bytes, int):  # `hold` has not limited the memory
        monkeypatch.setattr(Programs, "lane_bytes", 1)
    monkeypatch.setattr(wave_loop, "run", run)
    monkeypatch.setattr(tiers, "compile_together", lambda *_: [])
    monkeypatch.setattr(Programs, "fit", lambda _, shape, *given: shape)
    monkeypatch.setattr(wave, "first_lanes", lambda *_: Lanes(TrainState((), ()), ()))


def made_up(worth, stop_after=None, trained=None):
    """Return a `wave_loop.run` that trains nothing. A rate of higher `worth` in (0, 1] reaches the target sooner.

    `trained` collects the records of all lanes that would have been trained.
    """
    reported = 0

    def run(wave, reporter):
        nonlocal reported
        if trained is not None:
            trained.extend(wave.records)
        for record in wave.records:
            value = worth(record.setting.batch_size, record.setting.point) * (1 - 0.001 * (record.seed % 10))
            first = math.ceil(100 / value)
            points = [first - 1, first]
            record.curve = Curve(examples=points, steps=points, accuracy=[0.1, 0.75 + value / 10], loss=[1.0, 1.0])
            record.finish("ok")
            if reported == stop_after:
                raise Stopped
            reported += 1
            reporter.finished(record)

    return run


def best_at(rate):
    """Return a `worth` that is greatest at the effective `rate` for every batch size."""
    return lambda _, point: math.exp(-abs(math.log(plan.effective_rate(point) / rate)))


def study(folder, monkeypatch, worth, stop_after=None, trained=None, **tables):
    without_training(monkeypatch, made_up(worth, stop_after, trained))
    made = session(folder, **tables)
    made.prepare_folder()
    Convergence(made).run()
    return trials(folder)


def hold(lanes, monkeypatch):
    """Pretend that memory holds `lanes` lanes."""
    monkeypatch.setattr(Programs, "lane_bytes", int((1 << 30) * SHARE_OF_MEMORY * SHARE_OF_LANES / lanes))
    monkeypatch.setattr(Host, "free_memory_bytes", lambda _: 3 << 29)
