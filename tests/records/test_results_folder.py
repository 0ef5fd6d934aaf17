"""Results folders: what may be added to one, and what is refused with the difference named."""

from pathlib import Path

import msgspec
import pytest
from batchscale.config import experiment as experiments
from batchscale.errors import InputError
from batchscale.records import results_folder, row_files
from sample_rows import ORIGIN, trial
from tiny_workload import ENVIRONMENTS, experiment, filled, host, own


def prepared(folder, one, machine=None):
    results_folder.prepare(folder, one, machine or host().machine, ENVIRONMENTS)


def test_a_prepared_folder_labels_itself(tmp_path):
    prepared(tmp_path, experiment())
    assert experiments.read(tmp_path / "experiment.toml") == experiment()
    assert results_folder.read_machine(tmp_path).machine == host().machine


@pytest.mark.parametrize("name", [results_folder.CONVERGENCE, results_folder.THROUGHPUT])
def test_an_edited_protocol_is_refused_once_there_are_rows(tmp_path, name):
    filled(tmp_path, experiment(), name)
    label = (tmp_path / "experiment.toml").read_bytes()
    with pytest.raises(InputError, match=r"another protocol \(budget\.epochs: 4\.0 there, 3\.0 here\)") as error:
        prepared(tmp_path, experiment(budget={"epochs": 3}))
    assert str(error.value).isprintable()
    assert (tmp_path / "experiment.toml").read_bytes() == label


def test_an_edited_protocol_is_accepted_while_there_are_no_rows(tmp_path):
    prepared(tmp_path, experiment())
    for name in (results_folder.CONVERGENCE, results_folder.THROUGHPUT):
        row_files.Writer(tmp_path / name).close()
    prepared(tmp_path, experiment(budget={"epochs": 3}))
    assert experiments.read(tmp_path / "experiment.toml").budget.epochs == 3


def test_a_wider_sweep_is_the_same_protocol(tmp_path):
    filled(tmp_path, experiment())
    wider = experiment(batch_sizes={"values": [5, 10, 50]}, seeds={"confirm": 9})
    prepared(tmp_path, wider)
    assert experiments.read(tmp_path / "experiment.toml") == wider
    assert len(list(results_folder.rows(tmp_path, results_folder.CONVERGENCE, wider))) == 2


def test_rows_of_another_machine_are_refused(tmp_path):
    filled(tmp_path, experiment())
    other = msgspec.structs.replace(host().machine, cpu_cores=64)
    with pytest.raises(InputError, match=r"\(cpu_cores: 1 there, 64 here\); give another --results, and --continue"):
        prepared(tmp_path, experiment(), other)


def test_environments_add_up(tmp_path):
    prepared(tmp_path, experiment())
    newer = {"fedcba9876543210": msgspec.structs.replace(host().environment, python="4")}
    results_folder.prepare(tmp_path, experiment(), host().machine, newer)
    assert results_folder.read_machine(tmp_path).environments == {**ENVIRONMENTS, **newer}


def test_a_row_of_another_protocol_is_named_by_line(tmp_path):
    with row_files.Writer(tmp_path / results_folder.CONVERGENCE) as writer:
        writer.append(own(trial(), experiment()), trial())
    with pytest.raises(
        InputError, match=r"convergence\.jsonl:2: a trial row of experiment .*, expected experiment tiny"
    ):
        list(results_folder.rows(tmp_path, results_folder.CONVERGENCE, experiment()))
    assert ORIGIN["fingerprint"] != experiment().fingerprint


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "nesterov": 1.0}, {"weight_decay": 0.1}])
def test_a_run_with_other_options_than_are_searched_is_named_by_line(tmp_path, options):
    searching = experiment(search={"momentum": [0.5, 0.9]})
    row = msgspec.structs.replace(own(trial(), searching), options={"momentum": 0.9})
    with row_files.Writer(tmp_path / results_folder.CONVERGENCE) as writer:
        writer.append(row, msgspec.structs.replace(row, options=options))
    with pytest.raises(InputError, match=r"convergence\.jsonl:2: options: \[.*\], expected \['momentum'\], which"):
        list(results_folder.rows(tmp_path, results_folder.CONVERGENCE, searching))


def test_published_rows_are_of_the_protocol_that_their_folder_states():
    published = sorted(Path("results/published").glob("*/*/experiment.toml"))
    assert published
    for path in published:
        experiment_there = experiments.read(path)
        for name in (results_folder.THROUGHPUT, results_folder.CONVERGENCE, results_folder.VERIFICATION):
            if (path.parent / name).exists():
                assert next(results_folder.rows(path.parent, name, experiment_there))
