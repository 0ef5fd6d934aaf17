"""Epochs to the target from one place joined with speeds from another."""

import json

import msgspec
import pytest
import simulated_folder
from batchscale.analysis.exchange.predict import predict
from batchscale.analysis.text import answer
from batchscale.errors import InputError


def test_needs_here_and_speeds_there_make_a_prediction(tmp_path):
    truth = simulated_folder.write(tmp_path / "here", rate_penalty=1.0)
    slow = simulated_folder.write(tmp_path / "there", machine="there", fixed_seconds=0.05)
    found = predict(tmp_path / "here", tmp_path / "there")["there"]
    assert found.machine == "there"
    assert found.convergence_from == "simulated-cpu"
    assert slow.time_optimal_batch_size in found.time_optimal.tied
    assert truth.time_optimal_batch_size not in found.time_optimal.tied


def test_predicting_from_a_table_agrees_with_predicting_from_its_folder(tmp_path):
    simulated_folder.write(tmp_path / "here", rate_penalty=1.0)
    slow = simulated_folder.write(tmp_path / "there", machine="there", fixed_seconds=0.05, round_noise=1e-4)
    lines = [f"{size},{slow.seconds_per_step(size):.9g}" for size in slow.batch_sizes]
    (tmp_path / "t.csv").write_text("batch_size,seconds_per_step\n" + "\n".join(lines) + "\n")
    by_folder = predict(tmp_path / "here", tmp_path / "there")["there"]
    by_table = predict(tmp_path / "here", tmp_path / "t.csv")["imported"]
    assert by_table.time_optimal.seconds == pytest.approx(by_folder.time_optimal.seconds, rel=0.01)
    assert answer.notices(by_table)[-1].endswith(f"joined with speeds from {tmp_path / 't.csv'}.")
    assert answer.notices(by_folder)[-1].endswith(f"joined with speeds from {tmp_path / 'there'}.")


def test_a_table_of_any_name_is_named_in_a_summary(tmp_path):
    simulated_folder.write(tmp_path / "here")
    table = tmp_path / "t\x1b\udcff.csv"
    table.write_text("batch_size,seconds_per_step\n16,0.1\n64,0.2\n")
    found = predict(tmp_path / "here", table)["imported"]
    assert json.loads(msgspec.json.encode(found))["speeds_from"].endswith(r"t\x1b\udcff.csv")


def test_unlike_workloads_are_not_joined(tmp_path):
    simulated_folder.write(tmp_path / "here")
    simulated_folder.write(tmp_path / "there")
    file = tmp_path / "there/experiment.toml"
    file.write_text(file.read_text().replace('"momentum"', '"adam"'))
    for name in ("throughput.jsonl", "convergence.jsonl"):
        (tmp_path / "there" / name).unlink()
    with pytest.raises(InputError, match=r"workload\.optimizer: 'adam'"):
        predict(tmp_path / "here", tmp_path / "there")
    file.write_text(file.read_text().replace("[workload]", f'[workload]\nmodel_options.name = "{"x" * 10_000}"'))
    with pytest.raises(InputError) as refused:
        predict(tmp_path / "here", tmp_path / "there")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300 + len(str(tmp_path))


def test_speeds_of_a_step_with_other_options_are_not_joined(tmp_path):
    simulated_folder.write(tmp_path / "here", momenta={0.5: 1.0, 0.9: 1.0})
    simulated_folder.write(tmp_path / "there")
    with pytest.raises(InputError, match=r"there: search: 'not set', expected \['momentum'\] as in the training runs"):
        predict(tmp_path / "here", tmp_path / "there")


def test_a_prediction_needs_training_runs(tmp_path):
    simulated_folder.write(tmp_path)
    (tmp_path / "convergence.jsonl").unlink()
    with pytest.raises(InputError, match="no training runs"):
        predict(tmp_path, tmp_path)
