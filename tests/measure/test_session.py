"""A session: what it refuses before anything is measured, and where its rows go."""

import json

import pytest
from batchscale.errors import InputError
from batchscale.measure.device.machine import Host
from batchscale.records import results_folder
from fake_training import best_at, study
from tiny_workload import experiment, host, session


def test_a_folder_of_another_machine_or_protocol_is_refused_and_left_as_it_is(tmp_path, monkeypatch):
    study(tmp_path, monkeypatch, best_at(0.01))
    before = (tmp_path / results_folder.CONVERGENCE).read_bytes()
    with pytest.raises(InputError, match=r"budget\.epochs: 4\.0 there, 5\.0 here"):
        session(tmp_path, budget={"epochs": 5}).prepare_folder()
    with pytest.raises(InputError, match="another machine"):
        session(tmp_path, workers=8).prepare_folder()
    assert (tmp_path / results_folder.CONVERGENCE).read_bytes() == before


def test_a_batch_size_above_the_training_set_is_refused_at_once(tmp_path):
    with pytest.raises(InputError, match="101, expected at most the 100 training examples of digits"):
        session(tmp_path, batch_sizes={"values": [101]})


def test_a_host_describes_itself_once():
    described = Host.describe()
    assert described.machine.platform in ("cpu", "gpu", "tpu")
    assert described.free_memory_bytes() > 0
    assert host(3).workers == 3
    json.dumps(experiment().protocol)
