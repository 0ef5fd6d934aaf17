"""A folder of text with a goal in bits per byte, through every command that reads results."""

import json
from dataclasses import replace

import msgspec
import pytest
import simulated_folder
from batchscale.analysis import figures
from batchscale.analysis.compare.compare import compare
from batchscale.analysis.exchange.export import export
from batchscale.analysis.exchange.predict import predict
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics.known_losses import known_losses
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.pages import comparison, tables
from batchscale.analysis.pages.report import write_report
from batchscale.analysis.pages.site import site
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.text import answer, method
from batchscale.errors import InputError
from batchscale.records import results_folder, row_files
from batchscale.records.row_types import Data
from truth import LOSS_SCALE, Truth

T = 64
TRUTH = Truth(
    batch_sizes=(16, 64, 256, 1024),
    metric="bits_per_byte",
    tokens_per_example=T,
    facts={"gzip_bits_per_byte": 0.3, "bzip2_bits_per_byte": 0.2, "entropy_bits_per_byte": 0.01},
    also=(0.9,),
    rounds=3,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("loss") / "simulated" / "simulated-cpu"
    simulated_folder.write(place, TRUTH)
    return place


@pytest.fixture(scope="module")
def summary(folder):
    return write_report(folder)


def test_a_loss_gives_the_answer_that_the_accuracy_behind_it_gives(summary, tmp_path):
    simulated_folder.write(tmp_path, replace(TRUTH, metric="accuracy"))
    accurate = summarize(Sweep.of(frames.load(tmp_path)))
    assert summary.time_optimal.batch_size == accurate.time_optimal.batch_size
    assert summary.time_optimal.seconds == pytest.approx(accurate.time_optimal.seconds)
    assert summary.score_optimal.tied == accurate.score_optimal.tied
    assert summary.further_targets[0].time_optimal.seconds < summary.time_optimal.seconds, "a higher loss is easier"


def test_losses_below_zero_reach_a_target_above_it(tmp_path):
    """The loss of a density has no least value."""
    truth = replace(TRUTH, metric="loss", facts={}, also=())
    simulated_folder.write(tmp_path, truth)
    path = tmp_path / results_folder.CONVERGENCE
    rows = [msgspec.to_builtins(row) for row in row_files.read(path)]
    for row in rows:
        if "curve" in row:
            losses = row["curve"]["scores"]["loss"]
            row["curve"]["scores"]["loss"] = [
                loss if loss > truth.score(truth.target) else loss - 1.0 for loss in losses
            ]
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    found = summarize(Sweep.of(frames.load(tmp_path)))
    assert found.time_optimal.batch_size in TRUTH.batch_sizes
    assert found.score_optimal.batch_size in TRUTH.batch_sizes


def test_tokens_are_examples_times_the_window(summary):
    assert summary.tokens_per_example == T
    for cell in summary.cells:
        assert cell.batch_size_tokens == T * cell.batch_size
        assert cell.tokens_per_second == pytest.approx(T * cell.examples_per_second)
        assert cell.tokens_to_target.median == pytest.approx(T * cell.batch_size * cell.steps_to_target.median)


def test_sentences_tables_and_files_name_windows_and_tokens(summary, folder):
    best = summary.time_optimal.batch_size
    fastest, score, *_ = answer.answer(summary)
    assert f"batch size {best} ({T * best:,} tokens) reaches" in fastest
    assert "best validation bits per byte" in score
    assert any("windows/s (" in fact.more and "tokens/s)" in fact.more for fact in answer.facts(summary))
    titles = [column.title for column in tables.batch_size_table(summary).columns]
    assert {"Windows/s", "Tokens/s", "Tokens per step", "Tokens to target", "Best bits per byte"} <= set(titles)
    assert "tokens_to_target" in (folder / "cells.csv").read_text().splitlines()[0]
    assert json.loads((folder / "summary.json").read_text())["tokens_per_example"] == T


@pytest.mark.slow
def test_images_have_no_word_of_tokens(tmp_path):
    simulated_folder.write(tmp_path, replace(TRUTH, metric="accuracy", tokens_per_example=None, facts={}))
    write_report(tmp_path)
    for name in ("report.html", "cells.csv"):
        assert "token" not in (tmp_path / name).read_text().lower()


def test_every_axis_over_batch_sizes_has_one_in_tokens(folder, summary):
    sweep = Sweep.of(frames.load(folder))
    for name in ("time_to_target", "throughput", "rate_map"):
        (plot,) = figures.choose([name])
        (drawn,) = figures.draw(sweep, summary, [plot], ("svg",))
        picture = drawn.files["svg"].decode()
        assert "batch size (windows)" in picture
        assert "batch size (tokens)" in picture
        assert "4096" in picture, "64 windows of 64 tokens"


def test_programs_and_entropy_are_lines_of_the_curves_and_a_line_of_the_page(folder, summary):
    sweep = Sweep.of(frames.load(folder))
    assert known_losses(sweep.frames) == pytest.approx({"gzip -9": 0.3, "bzip2 -9": 0.2, "entropy": 0.01})
    (plot,) = figures.choose(["learning_curves"])
    (drawn,) = figures.draw(sweep, summary, [plot], ("svg",))
    picture = drawn.files["svg"].decode()
    assert "gzip -9" in picture
    assert "bzip2 -9" in picture
    assert "entropy" not in picture, "far below every curve"
    text = " ".join(method.paragraphs(sweep, summary))
    assert "gzip -9 to 0.300 and bzip2 -9 to 0.200" in text
    assert "entropy is 0.0100 bits per byte" in text


def test_in_nats_the_lines_are_shorter_by_log_2(tmp_path):
    simulated_folder.write(tmp_path, replace(TRUTH, metric="loss"))
    found = frames.load(tmp_path)
    assert found.goal.threshold == pytest.approx(LOSS_SCALE * (1 - TRUTH.target))
    assert known_losses(found)["gzip -9"] == pytest.approx(0.3 * 0.6931, rel=1e-3)


@pytest.mark.slow
def test_a_loss_is_compared_predicted_exported_and_shown_in_the_gallery(folder, summary, tmp_path):
    other = tmp_path / "published" / "simulated" / "other-cpu"
    simulated_folder.write(other, TRUTH, seed=1, machine="other-cpu", seconds_per_example=1e-5)
    compared = compare([folder, other])
    assert "other-cpu is faster" in comparison.sentences(compared)[0]
    comparison.write_comparison(compared, tmp_path / "comparison")
    assert predict(folder, other)["other-cpu"].time_optimal.seconds < summary.time_optimal.seconds
    assert export(folder, "pytest-benchmark", tmp_path / "export.json").is_file()
    page = site(tmp_path / "published", tmp_path / "site").read_text()
    assert "Best score" in page
    assert "accurate" not in page


def test_folders_measured_on_other_data_are_not_compared(folder, tmp_path):
    simulated_folder.write(tmp_path, TRUTH, seed=1, machine="other-cpu")
    path = tmp_path / results_folder.CONVERGENCE
    rows = [replace_hash(row) for row in row_files.read(path)]
    path.write_bytes(b"".join(map(row_files.encode, rows)))
    for read in (lambda: compare([folder, tmp_path]), lambda: predict(folder, tmp_path)):
        with pytest.raises(InputError, match=r"the data of simulated: SHA-256 abababab.* there, cdcd.* here"):
            read()


def replace_hash(row):
    return simulated_folder.change(row, sha256="cd" * 32) if isinstance(row, Data) else row
