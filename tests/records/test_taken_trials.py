"""Trials of another machine: joined with the speeds of this one, or continued here."""

import msgspec
import pytest
from batchscale.errors import InputError
from batchscale.records import results_folder, row_files
from batchscale.records.machine_file import TrainedOn
from batchscale.records.results_folder import MACHINE
from batchscale.records.row_types import Look
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
        Source(source, continues=False).take(folder)
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
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("experiment.toml", None, "experiment.toml: cannot be read"),
        ("machine.json", None, "machine.json: cannot be read"),
        ("convergence.jsonl", None, "convergence.jsonl: 0 trials to use, expected one or more"),
        ("convergence.jsonl", b"", "convergence.jsonl: 0 trials to use, expected one or more"),
        ("convergence.jsonl", b"{}\n", "convergence.jsonl:1: "),
    ],
)
def test_a_source_without_what_is_needed_is_refused(tmp_path, continues, name, content, message):
    source = filled(tmp_path / "there", experiment())
    (source / name).unlink()
    if content is not None:
        (source / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        Source(source, continues=continues).refuse(experiment(), tmp_path / "here", data(tmp_path))


def continued(tmp_path, source, name, machine):
    """Return a folder of a machine that continues a source."""
    folder = prepared(tmp_path / name, experiment(), machine)
    Source(source, continues=True).refuse(experiment(), folder, data(tmp_path))
    Source(source, continues=True).take(folder)
    return folder


def append(folder, *added):
    with row_files.Writer(folder / results_folder.CONVERGENCE) as writer:
        writer.append(*(own(row, experiment()) for row in added))


def seeded(seed, **changes):
    return own(msgspec.structs.replace(trial(), seed=seed, **changes), experiment())


def test_a_run_that_is_continued_takes_the_trials_that_did_not_fail_alone(tmp_path):
    source = filled(tmp_path / "there", experiment())
    look = Look(**ORIGIN, number=0, seeds=0, alpha=0.0, next_seeds=3, spent=0, left=9)
    append(source, look, seeded(5, status="failed", reason="out of memory"), seeded(6))
    folder = continued(tmp_path, source, "here", MANY_CORES)
    assert rows(folder) == [rows(source)[0], seeded(6)]
    known = results_folder.read_machine(folder)
    assert (known.machine, known.trained_on) == (MANY_CORES, [TrainedOn(machine=host().machine, trials=2)])
    assert known.environments == {**ENVIRONMENTS, **NEWER}


def test_what_was_trained_since_stays_and_the_machines_add_up(tmp_path):
    source = filled(tmp_path / "there", experiment())
    folder = continued(tmp_path, source, "here", MANY_CORES)
    append(folder, seeded(77))
    append(source, seeded(78))
    updated = host().machine.host_memory_bytes - 4096
    results_folder.prepare(
        source, experiment(), msgspec.structs.replace(host().machine, host_memory_bytes=updated), ENVIRONMENTS
    )
    before = rows(folder)
    assert Source(folder, continues=True).not_taken(folder) == 0
    continued(tmp_path, source, "here", MANY_CORES)
    assert rows(folder) == before, "the source holds more by now, and what was trained here stays"
    assert Source(source, continues=True).not_taken(folder) == 1
    third = continued(tmp_path, folder, "third", msgspec.structs.replace(MANY_CORES, cpu="new"))
    one_each = [TrainedOn(machine=machine, trials=1) for machine in (host().machine, MANY_CORES)]
    assert results_folder.read_machine(third).trained_on == one_each
    assert results_folder.read_machine(continued(tmp_path, folder, "back", host().machine)).trained_on == one_each


def test_a_run_goes_on_in_its_own_folder_as_without_the_option(tmp_path):
    source = filled(tmp_path / "there", experiment())
    before = (source / results_folder.CONVERGENCE).read_bytes(), results_folder.read_machine(source)
    Source(source, continues=True).refuse(experiment(), source, data(tmp_path))
    Source(source, continues=True).take(source)
    assert before == ((source / results_folder.CONVERGENCE).read_bytes(), results_folder.read_machine(source))


@pytest.mark.parametrize("kept", [(), (MACHINE,)])
def test_a_copy_that_was_interrupted_is_made_again(tmp_path, kept):
    source = filled(tmp_path / "there", experiment())
    whole = continued(tmp_path, source, "whole", MANY_CORES)
    torn = prepared(tmp_path / "torn", experiment(), MANY_CORES)
    for name in kept:
        (torn / name).write_bytes((whole / name).read_bytes())
    continued(tmp_path, source, "torn", MANY_CORES)
    assert rows(torn) == rows(whole)
    assert results_folder.read_machine(torn) == results_folder.read_machine(whole)


def test_a_machine_without_trials_is_not_named(tmp_path):
    source = filled(tmp_path / "there", experiment())
    torn = continued(tmp_path, source, "torn", MANY_CORES)
    (torn / results_folder.CONVERGENCE).unlink()
    prepared(torn, experiment(), MANY_CORES)
    assert results_folder.read_machine(torn).trained_on == []


def test_a_folder_without_a_trial_may_still_continue_a_run(tmp_path):
    source, folder = filled(tmp_path / "there", experiment()), prepared(tmp_path / "here", experiment(), MANY_CORES)
    append(folder, rows(source)[1])
    continued(tmp_path, source, "here", MANY_CORES)
    assert rows(folder) == rows(source)[:1]


def test_other_trials_are_never_overwritten(tmp_path):
    source, full = filled(tmp_path / "there", experiment()), filled(tmp_path / "full", experiment())
    with pytest.raises(InputError, match="already holds training runs that are not those of"):
        Source(source, continues=True).refuse(experiment(), full, data(tmp_path))
    more = filled(tmp_path / "more", experiment())
    append(more, seeded(5))
    fewer = continued(tmp_path, more, "fewer", MANY_CORES)
    with pytest.raises(InputError, match="already holds training runs that are not those of"):
        Source(source, continues=True).refuse(experiment(), fewer, data(tmp_path))


@pytest.mark.parametrize("continues", [True, False])
def test_joined_trials_are_taken_from_the_folder_that_trained_them(tmp_path, continues):
    source, joined = filled(tmp_path / "there", experiment()), prepared(tmp_path / "joined", experiment())
    Source(source, continues=False).take(joined)
    with pytest.raises(InputError, match=r"its training runs are those of tiny/tiny-cpu; name that folder instead"):
        Source(joined, continues=continues).refuse(experiment(), tmp_path / "here", data(tmp_path))


def test_a_folder_with_joined_trials_continues_no_run(tmp_path):
    began = continued(tmp_path, filled(tmp_path / "there", experiment()), "began", MANY_CORES)
    for source in (began, tmp_path / "there"):
        joined = prepared(tmp_path / f"joined {source.name}", experiment())
        Source(source, continues=False).take(joined)
        with pytest.raises(InputError, match="already holds training runs that are not those of"):
            Source(tmp_path / "there", continues=True).refuse(experiment(), joined, data(tmp_path))
