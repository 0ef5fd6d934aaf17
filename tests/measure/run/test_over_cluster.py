"""A cluster of two kinds of machines: one run works on both at once and fills a folder of each; compare shows both."""

import math
import threading
from dataclasses import replace

import msgspec
import pytest
from batchscale.cli import command_line
from batchscale.errors import DeviceError, InputError
from batchscale.measure.cluster import worker_main
from batchscale.measure.control.progress import Progress
from batchscale.measure.control.signals import Stopped, Stopper
from batchscale.measure.device.machine import Host
from batchscale.measure.run import over_cluster, suite
from batchscale.records import results_folder, row_files
from batchscale.records.row_types import Curve, Round, Trial
from fake_training import without_training
from pretended_cluster import Pretended
from tiny_workload import experiment, host, tiny_dataset

KINDS = {"a": "fast-cpu", "b": "slow-cpu"}
PATIENCE = 20.0


class TwoKinds(Pretended):
    """Two nodes of different kinds, whose workers run in this process, one at a time."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.busy, self.here = set(), None
        monkeypatch.setattr(Host, "describe", lambda: of_kind(self.here))
        data = tiny_dataset()
        for module in (worker_main.datasets, suite.datasets):
            monkeypatch.setattr(module, "load", lambda *_: data)

    def nodes(self):
        return list(KINDS)

    def events(self, seconds):
        if not self._waiting:
            return []
        (self.here,) = self.places[self._waiting[0]].nodes
        self.busy.add(frozenset(node for ticket in self._waiting for node in self.places[ticket].nodes))
        return super().events(seconds)


def trained(wave, reporter):
    """Reach the target after ten steps, and later at other rates than the best one."""
    for record in wave.records:
        last = 10 + round(10 * abs(math.log(record.setting.point.learning_rate / 0.05)))
        steps = [last - 1, last]
        examples = [record.setting.batch_size * one for one in steps]
        scores = {"accuracy": [0.1, 0.9], "loss": [1.0, 0.5]}
        record.curve = Curve(examples=examples, steps=steps, scores=scores)
        record.finish("ok")
        reporter.finished(record)


def of_kind(node):
    one = host()
    return replace(one, machine=msgspec.structs.replace(one.machine, name=KINDS.get(node, "driver-cpu")))


@pytest.fixture
def measured(tmp_path, monkeypatch):
    without_training(monkeypatch, trained)
    monkeypatch.setattr("batchscale.measure.device.peak_rates.PARTS", ())
    tables = {"throughput": {"rounds": 5, "round_seconds": 0.001, "loops": ["scan"], "max_batch_size": "skip"}}
    (tmp_path / "tiny.toml").write_bytes(results_folder.to_toml(experiment(**tables)))
    scheduler = TwoKinds(monkeypatch)
    asked = suite.Request([str(tmp_path / "tiny.toml")], tmp_path / "results", progress=Progress(quiet=True))
    return scheduler, over_cluster.measure(scheduler, asked, Stopper())


def test_each_kind_fills_a_folder_at_the_same_time_and_compare_shows_both(measured, tmp_path, capsys):
    scheduler, folders = measured
    assert [folder.name for folder in folders] == sorted(KINDS.values())
    for folder in folders:
        for name, kind in ((results_folder.THROUGHPUT, Round), (results_folder.CONVERGENCE, Trial)):
            rows = [row for row in row_files.read(folder / name) if isinstance(row, kind)]
            assert rows
            assert {row.machine for row in rows} == {folder.name}
    assert frozenset(KINDS) in scheduler.busy, "both kinds had work at the same time"
    (results,) = {folder.parent for folder in folders}
    assert command_line.run(["compare", *map(str, folders), "--out", str(tmp_path / "both")]) == 0
    shown = capsys.readouterr().out
    assert all(kind in shown for kind in KINDS.values())
    assert results.parent == tmp_path / "results"


def works_of(*endings):
    def work(ending):
        if isinstance(ending, BaseException):
            raise ending
        return [ending]

    return [lambda ending=ending: work(ending) for ending in endings]


@pytest.mark.parametrize(
    ("error", "stops"), [(DeviceError("the device is lost"), False), (InputError("other versions"), True)]
)
def test_a_kind_that_fails_ends_the_run_after_the_others(error, stops):
    stopper, ended = Stopper(), threading.Event()

    def other():
        ended.wait(0.5)
        stopper.check()
        return ["rows"]

    with pytest.raises(type(error), match=str(error)):
        over_cluster._side_by_side([other, *works_of(error)], stopper)
    assert stopper.requested is stops


def test_a_stop_is_a_stop_and_folders_come_in_the_order_of_kinds():
    assert over_cluster._side_by_side(works_of("a", "b"), Stopper()) == [["a"], ["b"]]
    with pytest.raises(Stopped):
        over_cluster._side_by_side(works_of("a", Stopped()), Stopper())
