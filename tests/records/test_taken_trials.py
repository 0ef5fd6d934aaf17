"""Trials of another machine: joined with the speeds of this one, or continued here."""

import msgspec
import pytest
from batchscale.errors import InputError
from batchscale.records import results_folder, row_files
from batchscale.records.row_types import Look, Stage, Trial
from batchscale.records.taken_trials import Source
from sample_rows import ORIGIN, trial
from tiny_workload import ENVIRONMENTS, experiment, filled, host, own, session

NEWER = {"fedcba9876543210": msgspec.structs.replace(host().environment, python="4")}
MANY_CORES = msgspec.structs.replace(host().machine, cpu_cores=64)


def prepared(folder, one, machine=None):
    results_folder.prepare(folder, one, machine or host().machine, NEWER)
    return folder


def data(tmp_path):
    return session(tmp_path / "any").data


def rows(folder):
    return list(row_files.read(folder / results_folder.CONVERGENCE))


def test_trials_are_joined_from_elsewhere_once_the_protocols_agree(tmp_path):
    source, folder = filled(tmp_path / "there", experiment()), prepared(tmp_path / "here", experiment())
    for _ in range(2):
        Source(source, continues=False).refuse(experiment(), folder, data(tmp_path))
        Source(source, continues=False).join(folder)
    assert (folder / results_folder.CONVERGENCE).read_bytes() == (source / results_folder.CONVERGENCE).read_bytes()
    full = filled(tmp_path / "full", experiment())
    with pytest.raises(InputError, match="already holds convergence rows measured here"):
        Source(source, continues=False).refuse(experiment(), full, data(tmp_path))


@pytest.mark.parametrize("continues", [True, False])
def test_trials_of_another_protocol_are_refused(tmp_path, continues):
    source, shorter = filled(tmp_path / "there", experiment()), experiment(budget={"epochs": 3})
    with pytest.raises(InputError, match=r"its protocol is not that of tiny \(budget\.epochs: 4\.0 there, 3\.0 here\)"):
        Source(source, continues=continues).refuse(shorter, tmp_path / "here", data(tmp_path))


@pytest.mark.parametrize("continues", [True, False])
def test_trials_of_other_data_are_refused(tmp_path, continues):
    known = data(tmp_path)
    source, other = filled(tmp_path / "there", experiment()), msgspec.structs.replace(known, sha256="0" * 64)
    with row_files.Writer(source / results_folder.CONVERGENCE) as writer:
        writer.append(own(known, experiment()))
    Source(source, continues=continues).refuse(experiment(), tmp_path / "here", known)
    with pytest.raises(InputError, match="measured on something else"):
        Source(source, continues=continues).refuse(experiment(), tmp_path / "here", other)


@pytest.mark.parametrize("continues", [True, False])
@pytest.mark.parametrize("missing", ["experiment.toml", "machine.json"])
def test_an_incomplete_source_leaves_no_trials(tmp_path, continues, missing):
    source, folder = filled(tmp_path / "there", experiment()), prepared(tmp_path / "here", experiment())
    (source / missing).unlink()
    with pytest.raises(InputError, match=f"{missing}: cannot be read"):
        (Source(source, True).begin if continues else Source(source, False).join)(folder)
    assert not (folder / results_folder.CONVERGENCE).exists()


def test_a_run_that_is_continued_begins_with_every_trial_and_no_look(tmp_path):
    source = filled(tmp_path / "there", experiment())
    look = Look(**ORIGIN, number=0, seeds=0, alpha=0.0, next_seeds=3, spent=0, left=9)
    with row_files.Writer(source / results_folder.CONVERGENCE) as writer:
        writer.append(own(look, experiment()))
    folder = prepared(tmp_path / "here", experiment(), MANY_CORES)
    Source(source, continues=True).begin(folder)
    assert [type(row) for row in rows(folder)] == [Trial, Stage]
    assert rows(folder) == rows(source)[:2]
    known = results_folder.read_machine(folder)
    assert (known.machine, known.trained_on) == (MANY_CORES, [host().machine])
    assert known.environments == {**ENVIRONMENTS, **NEWER}


def test_what_was_trained_since_stays_and_the_machines_add_up(tmp_path):
    source, folder = filled(tmp_path / "there", experiment()), prepared(tmp_path / "here", experiment(), MANY_CORES)
    Source(source, continues=True).begin(folder)
    more = own(msgspec.structs.replace(trial(), seed=77), experiment())
    with row_files.Writer(folder / results_folder.CONVERGENCE) as writer:
        writer.append(more)
    prepared(folder, experiment(), MANY_CORES)
    Source(source, continues=True).refuse(experiment(), folder, data(tmp_path))
    Source(source, continues=True).begin(folder)
    assert rows(folder) == [*rows(source), more]
    third = prepared(tmp_path / "third", experiment(), msgspec.structs.replace(MANY_CORES, cpu="new"))
    Source(folder, continues=True).begin(third)
    assert results_folder.read_machine(third).trained_on == [host().machine, MANY_CORES]
    back = prepared(tmp_path / "back", experiment())
    Source(folder, continues=True).begin(back)
    assert results_folder.read_machine(back).trained_on == [MANY_CORES], "this machine began it"


def test_other_trials_are_never_overwritten(tmp_path):
    source, full = filled(tmp_path / "there", experiment()), filled(tmp_path / "full", experiment())
    with row_files.Writer(source / results_folder.CONVERGENCE) as writer:
        writer.append(own(msgspec.structs.replace(trial(), seed=77), experiment()))
    with pytest.raises(InputError, match="already holds other convergence rows than"):
        Source(source, continues=True).refuse(experiment(), full, data(tmp_path))


def test_joined_trials_are_continued_where_they_were_trained(tmp_path):
    source, joined = filled(tmp_path / "there", experiment()), prepared(tmp_path / "joined", experiment())
    Source(source, continues=False).join(joined)
    with pytest.raises(InputError, match=r"its training runs are those of tiny/tiny-cpu; continue that folder"):
        Source(joined, continues=True).refuse(experiment(), tmp_path / "here", data(tmp_path))
    with pytest.raises(InputError, match=r"its training runs are those of tiny/tiny-cpu; continue that folder"):
        Source(source, continues=True).refuse(experiment(), joined, data(tmp_path))
