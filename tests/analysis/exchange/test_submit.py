"""What may be published."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import msgspec
import pytest
import simulated_convergence
import simulated_folder
from batchscale.analysis.exchange import submit as submitting
from batchscale.analysis.exchange.submit import submit
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary.build import summarize
from batchscale.records import row_files
from batchscale.records.taken_trials import Source

pytestmark = pytest.mark.usefixtures("few_figures")

PACKAGES = {"jax": "0.10.0", "jaxlib": "0.10.0", "flax": "0.12.8", "optax": "0.2.8", "numpy": "2.4.0"}


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    simulated_folder.write(folder, batch_sizes=(16, 64, 256, 1024), confirm_seeds=2)
    change_machine(folder, packages=PACKAGES)
    return folder


@pytest.fixture
def folder(fit, tmp_path):
    return shutil.copytree(fit, tmp_path / "folder")


def change_machine(folder, **changes):
    machine = msgspec.json.decode((folder / "machine.json").read_bytes())
    machine["environments"]["abcd"] |= changes
    (folder / "machine.json").write_bytes(msgspec.json.encode(machine))


def replace(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


def test_a_whole_folder_is_placed_with_its_page(folder, tmp_path):
    (folder / "notes.txt").write_text("private")
    found = submit(folder, tmp_path / "published")
    place = tmp_path / "published" / "simulated" / "simulated-cpu"
    assert found.problems == []
    assert found.place == str(place)
    assert (place / "report.html").is_file()
    assert (place / "throughput.jsonl").read_bytes() == (folder / "throughput.jsonl").read_bytes()
    assert not (place / "notes.txt").exists()


def test_a_folder_with_a_loss_goal_is_placed_with_its_corpus_and_its_tokens(tmp_path):
    simulated_folder.write(
        tmp_path / "text",
        batch_sizes=(16, 64, 256, 1024),
        confirm_seeds=2,
        metric="bits_per_byte",
        tokens_per_example=64,
        facts={"gzip_bits_per_byte": 0.3},
    )
    change_machine(tmp_path / "text", packages=PACKAGES)
    found = submit(tmp_path / "text", tmp_path / "published")
    assert found.problems == []
    published = answer(Path(found.place))
    assert published == answer(tmp_path / "text")
    assert published.goal.metric == "bits_per_byte"
    assert published.tokens_per_example == 64
    assert "gzip" in (Path(found.place) / "report.html").read_text()


def answer(folder):
    return summarize(Sweep.of(frames.load(folder)))


@pytest.fixture
def joined(folder, tmp_path):
    """The folder of another machine, whose trials are those of `folder`."""
    other = shutil.copytree(folder, tmp_path / "joined")
    (other / "convergence.jsonl").unlink()
    for name in ("machine.json", "throughput.jsonl"):
        replace(other / name, b'"simulated-cpu"', b'"simulated-gpu"')
        replace(other / name, b'"abcd"', b'"ef01"')
    Source(folder, continues=False).take(other)
    return other


def test_trials_of_another_machine_are_published_where_theirs_are(folder, joined, tmp_path):
    published = tmp_path / "published"
    (problem,) = submit(joined, published).problems
    assert problem.startswith("convergence_from.json: 'simulated/simulated-cpu' is not in")
    assert submit(folder, published).problems == []
    found = submit(joined, published)
    assert found.problems == []
    place = published / "simulated" / "simulated-gpu"
    assert found.place == str(place)
    published_frames = frames.load(place)
    assert published_frames.convergence_from == "simulated-cpu"
    assert {*published_frames.machine.environments} == {"ef01"}, "the trials' own is described where they were made"
    shutil.rmtree(place)
    replace(joined / "convergence.jsonl", b'"seed":1001', b'"seed":1003')
    (problem,) = submit(joined, published).problems
    assert problem.startswith("convergence.jsonl: holds other rows than")


@pytest.mark.parametrize(
    "named", ["../published", "/etc/passwd", "simulated", "simulated/..", "a/b/c", "a" * 300 + "/simulated-cpu", ".."]
)
def test_joined_trials_come_from_a_published_folder_alone(folder, joined, tmp_path, named):
    submit(folder, tmp_path / "published")
    label = joined / "convergence_from.json"
    replace(label, b"simulated/simulated-cpu", named.encode())
    (problem,) = submit(joined, tmp_path / "published").problems
    assert problem.startswith("convergence_from.json: ")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"machine": "simulated-cpu"', b'"machine": "big-gpu"'),
        (b'"machine": "simulated-cpu"', b'"machine": "simulated-gpu"'),
        (b'"machine"', b'"more":1,"machine"'),
    ],
)
def test_a_label_that_names_another_machine_or_more_is_refused(folder, joined, tmp_path, old, new):
    submit(folder, tmp_path / "published")
    replace(joined / "convergence_from.json", old, new)
    (problem,) = submit(joined, tmp_path / "published").problems
    assert "convergence_from.json" in problem


def test_trials_that_the_named_folder_joined_itself_are_refused(folder, joined, tmp_path):
    submit(folder, tmp_path / "published")
    submit(joined, tmp_path / "published")
    third = shutil.copytree(joined, tmp_path / "third")
    for name in ("machine.json", "throughput.jsonl"):
        replace(third / name, b'"simulated-gpu"', b'"simulated-tpu"')
    replace(third / "convergence_from.json", b"simulated-cpu", b"simulated-gpu")
    (problem,) = submit(third, tmp_path / "published").problems
    assert problem.startswith("convergence.jsonl: holds rows of simulated-cpu")


def test_a_label_that_is_a_link_is_refused(folder, joined, tmp_path):
    submit(folder, tmp_path / "published")
    (joined / "convergence_from.json").rename(tmp_path / "label")
    (joined / "convergence_from.json").symlink_to(tmp_path / "label")
    (problem,) = submit(joined, tmp_path / "published").problems
    assert problem.endswith("not a plain file")


@pytest.mark.parametrize(("sha256", "said"), [("ab" * 32, []), ("0" * 64, ["measured on something else"])])
def test_joined_trials_of_other_data_are_refused(folder, joined, tmp_path, sha256, said):
    trials = simulated_convergence.data(simulated_folder.Truth())
    first = next(iter(row_files.read(folder / "convergence.jsonl")))
    trials = msgspec.structs.replace(trials, fingerprint=first.fingerprint, train_examples=first.train_examples)
    timed = msgspec.structs.replace(trials, machine="simulated-gpu", environment="ef01", sha256=sha256)
    for path, row in ((folder / "convergence.jsonl", trials), (joined / "throughput.jsonl", timed)):
        path.write_bytes(path.read_bytes() + row_files.encode(row))
    shutil.copy(folder / "convergence.jsonl", joined)
    assert submit(folder, tmp_path / "published").problems == []
    problems = submit(joined, tmp_path / "published").problems
    assert len(problems) == len(said)
    assert all(words in problem for words, problem in zip(said, problems, strict=True))


@pytest.fixture
def continued(folder):
    """The folder, where another machine made the first trials."""
    path, machine = folder / "convergence.jsonl", msgspec.json.decode((folder / "machine.json").read_bytes())
    lines = path.read_bytes().splitlines(keepends=True)
    began = [line.replace(b'"machine":"simulated-cpu"', b'"machine":"old-cpu"') for line in lines[:3]]
    path.write_bytes(b"".join([*began, *lines[3:]]))
    machine["trained_on"] = [{"machine": {**machine["machine"], "name": "old-cpu"}, "trials": 3}]
    (folder / "machine.json").write_bytes(msgspec.json.encode(machine))
    return folder


def test_trials_of_a_machine_that_trained_before_are_published_and_its_rounds_are_not(continued):
    described, timed = ((continued / name).read_bytes() for name in ("machine.json", "throughput.jsonl"))
    replace(continued / "machine.json", b'"name":"old-cpu"', b'"name":"older-cpu"')
    assert problems(continued) == "rows: some are of machine 'old-cpu', machine.json describes simulated-cpu"
    (continued / "machine.json").write_bytes(described)
    replace(continued / "throughput.jsonl", b'"machine":"simulated-cpu"', b'"machine":"old-cpu"')
    assert "some are of machine 'old-cpu'" in problems(continued)
    (continued / "throughput.jsonl").write_bytes(timed)
    assert problems(continued) == ""


def test_trials_of_a_run_that_was_continued_are_joined_and_published(continued, joined, tmp_path):
    assert submit(continued, tmp_path / "published").problems == []
    Source(continued, continues=False).take(joined)
    found = submit(joined, tmp_path / "published")
    assert found.problems == []
    assert answer(Path(found.place)).trained_on == ["3 trials on old-cpu (Simulated processor)"]


def test_published_results_are_not_overwritten(folder, tmp_path):
    submit(folder, tmp_path / "published")
    again = submit(folder, tmp_path / "published")
    assert "already holds results" in again.problems[0]


def problems(folder):
    found = submit(folder, folder.parent / "published").problems
    assert all("\n" not in one for one in found)
    return "; ".join(found)


def test_a_missing_file_is_named(folder):
    (folder / "convergence.jsonl").unlink()
    assert "convergence.jsonl: missing" in problems(folder)


def test_an_invalid_file_is_named(folder):
    (folder / "machine.json").write_text("{}")
    assert "machine.json: not valid" in problems(folder)


def test_uncommitted_changes_are_named(folder):
    replace(folder / "throughput.jsonl", b'"dirty":false', b'"dirty":true')
    assert "measured with uncommitted changes" in problems(folder)


def test_an_unmeasured_batch_size_is_named(folder):
    replace(folder / "experiment.toml", b"    1024,\n", b"    1024,\n    4096,\n")
    assert "batch sizes 4096: not measured" in problems(folder)


def test_an_unfinished_stage_is_named(folder):
    lines = (folder / "convergence.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "convergence.jsonl").write_bytes(b"".join(lines[:-1]))
    assert "stage convergence: did not finish" in problems(folder)
    (folder / "convergence.jsonl").write_bytes(b"".join(lines))
    assert "did not finish" not in problems(folder)
    stopped = lines[-1].replace(b'"finished":true', b'"finished":false')
    (folder / "convergence.jsonl").write_bytes(b"".join([*lines, stopped]))
    assert "stage convergence: did not finish" in problems(folder)


def test_missing_versions_are_named(folder):
    change_machine(folder, packages={"jax": "0.10.0"})
    assert "lacks the version of jaxlib, flax, optax, numpy" in problems(folder)


def test_rows_of_another_machine_are_named(folder):
    replace(folder / "throughput.jsonl", b'"machine":"simulated-cpu"', b'"machine":"other-cpu"')
    assert "rows: some are of machine 'other-cpu'" in problems(folder)


@pytest.mark.parametrize("private", ["/home/someone/data", "C:\\\\Users\\\\someone", "someone@example.org"])
def test_private_paths_and_addresses_are_named(folder, private):
    change_machine(folder, settings={"cache": private.replace("\\\\", "\\")})
    assert "holds a private path or address" in problems(folder)


def test_host_and_user_names_are_named(folder, monkeypatch):
    change_machine(folder, settings={"where": "on squirrel, by badger"})
    monkeypatch.setattr(socket, "gethostname", lambda: "squirrel")
    monkeypatch.setattr(submitting.getpass, "getuser", lambda: "badger")
    assert "host name, 'squirrel'" in problems(folder)
    assert "user name, 'badger'" in problems(folder)
