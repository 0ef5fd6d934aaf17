"""Jobs of a cluster: the rows of a plain run, whatever dies; and refusals in one line before anything is measured."""

import shutil
from dataclasses import replace
from pathlib import Path

import batchscale
import msgspec
import pytest
from batchscale.config.vocabulary import CellKey
from batchscale.errors import DeviceError, InputError
from batchscale.measure.cluster.driver import MOST_ATTEMPTS
from batchscale.measure.cluster.kinds import Kind
from batchscale.measure.cluster.messages import Greeting, Refusal, answered, encoded, package_hash
from batchscale.measure.convergence.stage import Convergence
from batchscale.measure.convergence.trial_job import TrialJob
from batchscale.measure.throughput.stage import Throughput
from batchscale.records import row_files
from batchscale.records.row_types import Round, Stage
from fake_training import best_at, made_up, study, without_training
from pretended_cluster import Pretended, on_cluster
from tiny_workload import host, session, trials

TWO_TIERS = {"batch_sizes": {"values": [7, 10, 50]}, "evaluation": {"first_epoch": 2}}
EXTENDED = best_at(0.12)
"""A worth at which every grid is extended twice, so that later jobs depend on rows of earlier ones."""


def studied(folder, monkeypatch, scheduler, worth=EXTENDED, **tables):
    without_training(monkeypatch, made_up(worth))
    made = on_cluster(folder, monkeypatch, scheduler, **{**TWO_TIERS, **tables})
    made.prepare_folder()
    Convergence(made).run()
    return trials(folder)


def test_a_cluster_trains_what_a_plain_run_trains_one_job_of_each_tier_at_a_time(tmp_path, monkeypatch):
    plain = study(tmp_path / "plain", monkeypatch, EXTENDED, **TWO_TIERS)
    scheduler = Pretended()
    assert studied(tmp_path / "cluster", monkeypatch, scheduler) == plain
    jobs = [work.assignment.job for work in scheduler.works]
    assert all(isinstance(job, TrialJob) for job in jobs)
    assert {job.phase for job in jobs} == {"search", "extension 1", "extension 2", "confirm"}
    assert scheduler.most == len({tuple(job.tier.batch_sizes) for job in jobs}) > 1
    assert {place.whole for place in scheduler.places} == {False}
    (cost,) = [one for one in row_files.read(tmp_path / "cluster" / "convergence.jsonl") if isinstance(one, Stage)]
    assert cost.finished


@pytest.mark.parametrize("lines", [0, 1, 2, 7])
def test_work_that_dies_is_repeated_and_ends_the_same(tmp_path, monkeypatch, lines):
    plain = study(tmp_path / "plain", monkeypatch, EXTENDED, **TWO_TIERS)
    scheduler = Pretended(dies=lambda number, _: lines if number in (0, 3) else None)
    assert studied(tmp_path / "cluster", monkeypatch, scheduler) == plain
    again = [work.assignment.job for work in scheduler.works]
    assert len(again) == len({(job.item, job.phase) for job in again}) + 2, "the two that died, once more each"


def test_work_that_dies_every_time_becomes_rows_that_say_why(tmp_path, monkeypatch):
    scheduler = Pretended(dies=lambda _, work: 2 if work.assignment.job.tier.batch_sizes == [7] else None)
    found = studied(tmp_path, monkeypatch, scheduler)
    assert sum(work.assignment.job.tier.batch_sizes == [7] for work in scheduler.works) == MOST_ATTEMPTS
    ended = [(key.batch_size, one["status"], one["reason"]) for key, one in found.items()]
    assert set(ended) == {
        (7, "ok", None),
        (7, "failed", "its node was lost"),
        (10, "ok", None),
        (50, "ok", None),
    }
    assert ended.count((7, "ok", None)) == 1, "the row that came before it died is kept"


def test_a_cluster_whose_nodes_all_die_ends_the_run_in_one_line(tmp_path, monkeypatch):
    tables = {"batch_sizes": {"values": [7, 11, 13, 50]}}
    with pytest.raises(DeviceError, match=r"3 failures in a row, the last at search .*its node was lost"):
        studied(tmp_path, monkeypatch, Pretended(dies=lambda *_: 1), **tables)


def test_a_worker_with_another_version_is_refused_before_it_measures(tmp_path, monkeypatch):
    made = on_cluster(tmp_path, monkeypatch, Pretended(), **TWO_TIERS)
    made.runner._versions["jax"] = "0.0.1"
    made.prepare_folder()
    with pytest.raises(InputError, match=r"^here: jax none there, 0\.0\.1 here, expected the same versions$"):
        Convergence(made).run()
    assert trials(tmp_path) == {}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"platform": "gpu"}, r"JAX computes on cpu \(cpu\) there, expected gpu \(cpu\)"),
        ({"device_kind": "another"}, r"expected cpu \(another\)"),
    ],
)
def test_a_worker_on_another_device_measures_nothing(tmp_path, monkeypatch, changed, says):
    made = on_cluster(tmp_path, monkeypatch, Pretended())
    made.host = replace(made.host, machine=msgspec.structs.replace(made.host.machine, **changed))
    made.prepare_folder()
    with pytest.raises(InputError, match=says):
        Convergence(made).run()
    assert trials(tmp_path) == {}


def test_a_worker_with_other_data_measures_nothing(tmp_path, monkeypatch):
    made = on_cluster(tmp_path, monkeypatch, Pretended())
    made.prepare_folder()
    made.data = msgspec.structs.replace(made.data, sha256="0" * 64)
    with pytest.raises(InputError, match=r"^here: the data of digits: SHA-256 .* there, 0000000000000000\.\.\. here; "):
        Convergence(made).run()
    assert trials(tmp_path) == {}


def test_cells_are_timed_on_a_node_of_their_own_and_go_on_after_a_death(tmp_path, monkeypatch):
    scheduler = Pretended(dies=lambda number, _: 6 if number == 0 else None)
    made = on_cluster(tmp_path, monkeypatch, scheduler, throughput={"loops": ["scan"]})
    monkeypatch.setattr("batchscale.measure.device.peak_rates.PARTS", ())
    made.prepare_folder()
    stage = Throughput(made)
    stage.plan()
    stage.run()
    timed = [row for row in row_files.read(tmp_path / "throughput.jsonl") if isinstance(row, Round)]
    assert sorted((CellKey.of(row), row.round) for row in timed) == [
        (CellKey(size, "scan"), number) for size in (10, 50) for number in range(5)
    ]
    assert [place.whole for place in scheduler.places] == [True, True]
    assert len(scheduler.works[1].assignment.rows) > len(scheduler.works[0].assignment.rows)


def test_a_line_that_is_no_answer_is_a_death():
    with pytest.raises(msgspec.DecodeError):
        answered(b'{"kind":"nonsense"}\n')
    greeting = Greeting(host=host(), memory_bytes=1)
    assert answered(encoded(greeting)) == greeting
    assert answered(encoded(Refusal(reason="no"))) == Refusal(reason="no")


def test_a_job_is_cut_between_batch_sizes_and_no_trial_is_lost(tmp_path):
    made = session(tmp_path, batch_sizes={"values": [10, 20, 30, 40, 50]})
    (search,) = [tier for tier in Convergence(made).tiers if len(tier.tier.batch_sizes) > 1]
    job = next(search.search())
    assert job.parts(1) == [job]
    for most in (2, 3, 9):
        parts = job.parts(most)
        assert len(parts) == min(most, len(search.tier.batch_sizes))
        assert sorted(key for part in parts for key in part.missing) == job.missing
        sizes = [{one.batch_size for one in part.settings} for part in parts]
        assert sum(map(len, sizes)) == len(set.union(*sizes)) == len(search.tier.batch_sizes)
        assert all({key.batch_size for key in part.missing} == own for part, own in zip(parts, sizes, strict=True))
        assert {part.shards for part in parts} == {"own"}
    one = msgspec.structs.replace(job, missing=[key for key in job.missing if key.batch_size == 30])
    assert one.parts(4) == [one], "one batch size races as a whole"


def test_accelerators_that_are_left_over_train_parts_of_a_job_and_the_next_job_waits_for_all(tmp_path, monkeypatch):
    plain = study(tmp_path / "plain", monkeypatch, EXTENDED, **TWO_TIERS)
    monkeypatch.setattr(Kind, "accelerators", 64)
    scheduler = Pretended(dies=lambda number, _: 3 if number == 1 else None)
    assert studied(tmp_path / "cluster", monkeypatch, scheduler) == plain


def test_one_release_with_a_change_is_another_version(tmp_path):
    """An installation without git names its release alone."""
    folder = tmp_path / "batchscale"
    shutil.copytree(Path(batchscale.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    same = package_hash(folder)
    assert same == package_hash()
    with (folder / "measure" / "session.py").open("a") as file:
        file.write("\n")
    package_hash.cache_clear()
    assert package_hash(folder) != same
