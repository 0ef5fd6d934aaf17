"""Studies whose numbers are strange, really trained: each ends as a page that says so, never as a traceback."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from batchscale.analysis.frames import frames
from batchscale.cli import command_line
from batchscale.measure.data import datasets
from batchscale.measure.device.machine import Host
from batchscale.measure.throughput import rounds
from batchscale.records import results_folder
from tiny_workload import TRAIN_EXAMPLES, experiment, host, tiny_dataset

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("brief")]

QUICK = {
    "seeds": {"search": 1, "confirm": 2},
    "learning_rate": {"anchor": 0.02, "span": 0, "extend": 0},
    "budget": {"epochs": 4, "max_epochs": 8},
    "throughput": {"rounds": 5, "round_seconds": 0.001, "loops": ["scan"]},
}


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Runs an experiment with some keys of its tables replaced; its answer and the text of its page."""
    corner = tiny_dataset()
    monkeypatch.setattr(Host, "describe", staticmethod(host))

    def run(data=corner, **tables):
        monkeypatch.setattr(datasets, "load", lambda *_: data)
        made = experiment(**{name: {**QUICK.get(name, {}), **tables.get(name, {})} for name in {**QUICK, **tables}})
        (tmp_path / "strange.toml").write_bytes(results_folder.to_toml(msgspec.structs.replace(made, name="strange")))
        assert command_line.run(["run", str(tmp_path / "strange.toml"), "--results", str(tmp_path / "results")]) == 0
        folder = tmp_path / "results" / "strange" / host().machine.name
        text = (folder / "report.html").read_text()
        assert "nan" not in json.dumps(json.loads((folder / "summary.json").read_bytes())).lower().split('"')
        return frames.load(folder), json.loads((folder / "summary.json").read_bytes()), text

    return run


def statuses(answer):
    return {cell["batch_size"]: cell["status"] for cell in answer["cells"]}


def test_a_target_that_is_never_reached(page):
    _, answer, text = page(target={"accuracy": 0.9999})
    assert statuses(answer) == {10: "not_reached", 50: "not_reached"}
    assert answer["time_optimal"] is None
    assert "99.99%" in answer["time_optimal_reason"]
    assert answer["time_optimal_reason"] in text


def test_lanes_that_all_leave_the_numbers(page):
    measured, answer, text = page(
        # Decoupled weight decay at this rate multiplies the weights by -999 at every step.
        workload={"optimizer": "adamw", "optimizer_options": {"weight_decay": 1.0}},
        learning_rate={"anchor": 1000.0, "factor": 100.0, "rule": "none"},
    )
    assert set(measured.trials["status"]) == {"diverged"}
    assert statuses(answer) == {10: "diverged", 50: "diverged"}
    assert "diverged" in text


def test_times_without_any_variance(page, monkeypatch):
    monkeypatch.setattr(rounds, "timed", lambda _work, steps, *_: steps * 1e-3)
    measured, answer, _ = page()
    assert set(measured.rounds["seconds_per_step"]) == {1e-3}
    assert answer["throughput_optimal"]["batch_size"] == 50
    for cell in answer["cells"]:
        low, high = cell["examples_per_second_interval"]
        assert low <= cell["examples_per_second"] <= high


@pytest.mark.parametrize("size", [10, TRAIN_EXAMPLES])
def test_one_batch_size(page, size):
    _, answer, _ = page(batch_sizes={"values": [size]})
    assert list(statuses(answer)) == [size]
    assert answer["throughput_optimal"]["batch_size"] == size
    assert answer["critical_batch_size"] is None
    assert answer["critical_batch_size_reason"]


def test_one_seed(page):
    _, answer, _ = page(seeds={"search": 1, "confirm": 1})
    assert {cell["seeds"] for cell in answer["cells"]} == {1}
    assert answer["time_optimal"]["batch_size"] in (10, 50)


def test_a_validation_split_of_one_class(page):
    data = tiny_dataset()
    one_class = replace(data, validation=data.validation._replace(labels=np.zeros_like(data.validation.labels)))
    measured, answer, _ = page(one_class)
    assert np.isfinite(measured.curves["score"]).all()
    assert set(statuses(answer).values()) <= {"ok", "not_reached"}


def test_the_whole_training_set_as_a_batch(page):
    measured, answer, _ = page(batch_sizes={"values": [10, TRAIN_EXAMPLES]})
    whole = measured.trials[measured.trials["batch_size"] == TRAIN_EXAMPLES]
    assert (whole["steps"] <= 8).all()
    assert TRAIN_EXAMPLES in statuses(answer)


def test_everything_strange_at_once(page):
    data = tiny_dataset()
    one_class = replace(data, validation=data.validation._replace(labels=np.zeros_like(data.validation.labels)))
    _, answer, _ = page(
        one_class,
        batch_sizes={"values": [TRAIN_EXAMPLES]},
        seeds={"search": 1, "confirm": 1},
        target={"accuracy": 0.9999},
        budget={"epochs": 1, "max_epochs": 1},
    )
    assert statuses(answer) == {TRAIN_EXAMPLES: "not_reached"}
