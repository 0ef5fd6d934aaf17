from __future__ import annotations

import msgspec
import numpy as np
import pytest
import simulated_folder
from batchscale.analysis.frames import frames
from batchscale.analysis.frames.schema import COLUMNS, COUNT
from batchscale.errors import InputError
from batchscale.records.row_types import Curve, NoiseEstimate

SMALL = simulated_folder.Truth(batch_sizes=(16, 64), confirm_seeds=2)
FRAME_NAMES = tuple(COLUMNS)


def made(rows, truth=SMALL):
    return frames.from_rows(simulated_folder.experiment(truth), simulated_folder.machine_file(), rows)


def one_trial(**changes):
    row = next(row for row in simulated_folder.rows(SMALL) if type(row).__name__ == "Trial")
    return msgspec.structs.replace(row, **changes)


@pytest.mark.parametrize("rows", [[], simulated_folder.rows(SMALL)])
def test_every_frame_always_has_its_columns_and_types(rows):
    found = made(rows)
    for name, columns in COLUMNS.items():
        frame = getattr(found, name)
        whole = {column: "int64" if dtype == COUNT else dtype for column, dtype in columns.items()}
        assert {column: str(dtype) for column, dtype in frame.dtypes.items()} == whole


def test_a_folder_holds_what_was_written(tmp_path):
    truth = simulated_folder.write(tmp_path, SMALL, watts=50.0, gradient_noise_scale=100.0)
    found = frames.load(tmp_path)
    assert found.train_examples == truth.train_examples
    assert len(found.trials) == 2 * (5 + 3 * 2)
    assert len(found.searched) == 10
    assert len(found.rounds) == 2 * 2 * truth.rounds
    assert len(found.noise) == 4 * len(found.trials)
    np.testing.assert_allclose(found.rounds["joules"] / found.rounds["seconds"], 50.0)
    np.testing.assert_allclose(found.curves["examples"], found.curves["steps"] * found.curves["batch_size"])


def test_environments_that_no_row_names_are_left_out():
    machine = simulated_folder.machine_file()
    (known,) = machine.environments.values()
    twice = msgspec.structs.replace(machine, environments={"abcd": known, "ffff": known})
    experiment = simulated_folder.experiment(SMALL)
    assert frames.from_rows(experiment, twice, simulated_folder.rows(SMALL)).machine == machine
    assert frames.from_rows(experiment, twice, []).machine == twice


def test_a_miss_is_infinite_and_never_missing():
    found = made(simulated_folder.rows(simulated_folder.Truth(batch_sizes=(16, 64), ceiling=0.5)))
    assert np.isinf(found.trials["examples_to_target"]).all()
    assert np.isinf(found.trials["steps_to_target"]).all()


def test_a_repeated_trial_keeps_the_last_that_ended_well():
    good, failed = one_trial(steps=1), one_trial(status="failed", reason="lost", steps=2)
    for order, steps in (((failed, good), 1), ((good, failed), 1), ((good, one_trial(steps=3)), 3)):
        found = made(order)
        assert found.trials["steps"].tolist() == [steps]


def test_rows_of_another_protocol_are_refused(tmp_path):
    simulated_folder.write(tmp_path, SMALL)
    other = simulated_folder.write(tmp_path / "other", SMALL, target=0.9)
    (tmp_path / "convergence.jsonl").write_bytes((tmp_path / "other/convergence.jsonl").read_bytes())
    with pytest.raises(InputError, match=simulated_folder.experiment(other).fingerprint):
        frames.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"curve": Curve(examples=[2, 2], steps=[1, 1], accuracy=[0.1, 0.2], loss=[1.0, 1.0])}, "not growing"),
        (
            {"curve": Curve(examples=[16, 32], steps=[1, 10**9], accuracy=[0.1, 0.2], loss=[1.0, 1.0])},
            r"curve\.steps: 1000000000 after 32 examples, expected 2",
        ),
        (
            {
                "noise": NoiseEstimate(
                    examples=[2, 1],
                    gradient_squared=[1.0, 1.0],
                    noise_trace=[1.0, 1.0],
                    small_batch_size=1,
                    big_batch_size=2,
                )
            },
            "not growing",
        ),
    ],
)
def test_a_trial_that_contradicts_itself_is_refused_by_name(changes, said):
    with pytest.raises(InputError, match=said) as error:
        made([one_trial(**changes)])
    assert "batch size 16" in str(error.value)
    assert "\n" not in str(error.value)


def test_training_sets_of_two_sizes_are_refused():
    with pytest.raises(InputError, match="train_examples"):
        made([one_trial(), one_trial(seed=7, train_examples=5)])


def test_joined_convergence_is_marked(tmp_path):
    simulated_folder.write(tmp_path, SMALL)
    (tmp_path / "convergence_from.json").write_text('{"schema": 1, "folder": "elsewhere", "machine": "big-gpu"}')
    assert frames.load(tmp_path).convergence_from == "big-gpu"


@pytest.mark.parametrize("text", ["{", '{"schema": 2, "folder": "a", "machine": "b"}', '{"machine": "../x"}'])
def test_a_bad_label_is_one_line(tmp_path, text):
    simulated_folder.write(tmp_path, SMALL)
    (tmp_path / "convergence_from.json").write_text(text)
    with pytest.raises(InputError, match="not valid"):
        frames.load(tmp_path)
