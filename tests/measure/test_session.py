"""A session: what it refuses before anything is measured, and where its rows go."""

import json

import msgspec
import pytest
from batchscale.errors import InputError
from batchscale.measure.device.machine import Host
from batchscale.records import results_folder, row_files
from batchscale.records.row_types import Data
from fake_training import best_at, study
from sample_rows import one_line
from tiny_workload import experiment, host, session, tiny_dataset


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


def described(folder, name=results_folder.CONVERGENCE):
    return [row for row in row_files.read(folder / name) if isinstance(row, Data)]


def test_a_rows_file_names_its_data_once_before_anything_else(tmp_path, monkeypatch):
    study(tmp_path, monkeypatch, best_at(0.01))
    study(tmp_path, monkeypatch, best_at(0.01), seeds={"search": 3, "confirm": 2})
    first, *others = row_files.read(tmp_path / results_folder.CONVERGENCE)
    assert described(tmp_path) == [first]
    assert isinstance(first, Data)
    assert (first.dataset, first.task, first.classes) == ("digits", "classification", 10)
    assert first.sha256 == tiny_dataset().sha256
    assert [first.train_examples, first.validation_examples, first.test_examples] == [100, 60, 60]
    assert len(others) > 10


def test_a_folder_without_a_description_of_its_data_gets_one_when_it_goes_on(tmp_path, monkeypatch):
    study(tmp_path, monkeypatch, best_at(0.01))
    path = tmp_path / results_folder.CONVERGENCE
    _, *older = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(older))
    assert not described(tmp_path)
    study(tmp_path, monkeypatch, best_at(0.01))
    assert path.read_bytes() == b"".join(older), "a run with nothing to do adds no row"
    study(tmp_path, monkeypatch, best_at(0.01), seeds={"search": 3, "confirm": 2})
    assert len(described(tmp_path)) == 1


def test_other_data_or_other_code_in_the_same_folder_is_refused_with_both_hashes(tmp_path, monkeypatch):
    study(tmp_path, monkeypatch, best_at(0.01))
    (known,) = described(tmp_path)
    before = [(tmp_path / name).read_bytes() for name in (results_folder.EXPERIMENT, results_folder.CONVERGENCE)]
    for field, words in (("sha256", "the data of digits"), ("model_sha256", "model"), ("task_sha256", "task")):
        again = session(tmp_path)
        again.data = msgspec.structs.replace(known, **{field: "f" * 64})
        old = (getattr(known, field) or "none")[:16]
        with pytest.raises(InputError, match=rf"{words}: SHA-256 {old}.* there, f{{16}}\.\.\. here") as error:
            again.prepare_folder()
        assert "--results" in one_line(error)
    assert before == [
        (tmp_path / name).read_bytes() for name in (results_folder.EXPERIMENT, results_folder.CONVERGENCE)
    ]


def test_a_description_holds_no_folder_of_the_user(tmp_path):
    made = session(tmp_path)
    workload = msgspec.structs.replace(
        made.experiment.workload, dataset="../secret/digits.npz", task="secret/t.py:Task"
    )
    made.experiment = msgspec.structs.replace(made.experiment, workload=workload)
    monkey = "batchscale.measure.session.code_hash"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(monkey, lambda name, folder: "ab" * 32 if name.endswith(":Task") else None)
        found = made.data
    assert (found.dataset, found.task, found.task_sha256) == ("digits.npz", "t.py:Task", "ab" * 32)
    assert "secret" not in str(found)
