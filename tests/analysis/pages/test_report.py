"""The page: complete, self-contained, and safe whatever the names in the files are."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections import Counter
from html.parser import HTMLParser

import msgspec
import pytest
import simulated_folder
from batchscale.analysis.exchange.analyze import Known, write_folders
from batchscale.analysis.figures import PLOTS
from batchscale.analysis.frames import frames
from batchscale.analysis.pages import html, report, tables
from batchscale.analysis.summary import build
from batchscale.analysis.summary_types import FurtherTarget, Verdict
from batchscale.analysis.text import answer, captions
from batchscale.records.row_types import Verification

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}"


class Page(HTMLParser):
    """Collects what a test asks about."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.attributes, self.text, self.figures = [], [], [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]
        self.ids += [named["id"]] if "id" in named else []
        if tag == "svg":
            self.figures[named["aria-label"]] = named

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def text(reported):
    return (reported / report.NAME).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_the_page_is_self_contained_and_light(text, page):
    assert len(text.encode()) < 3_000_000
    for tag, key, value in page.attributes:
        if key in ("src", "href", "xlink:href") and not re.match(r"#|data:", value):
            assert tag == "a"
            assert "/" not in value
    assert not re.search(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text


def test_the_answer_comes_first_with_interval_and_ties(text, summarized):
    shown = answer.answer(summarized)
    assert len(shown) == 3
    best = summarized.time_optimal
    assert f"batch size {best.batch_size}" in shown[0]
    assert "95% interval" in shown[0]
    assert text.index("The answer") < text.index("<svg")


def test_every_figure_has_its_alternative_text(page, sweep, summarized):
    for plot in PLOTS:
        if plot.name != "data_parallel":
            assert plot.alt_text(sweep, summarized) in page.figures


def test_ids_are_unique_and_references_resolve(text, page):
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []
    wanted = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    assert wanted <= set(page.ids)


def test_pointing_at_a_figure_finds_the_row(page, summarized):
    sizes = {value for _, key, value in page.attributes if key == "data-batch-size"}
    assert sizes
    assert {f"cell-{size}" for size in sizes} <= set(page.ids)
    assert {f"cell-{cell.batch_size}" for cell in summarized.cells} <= set(page.ids)


def test_downloads_are_the_files_next_to_the_page(page, reported, summarized):
    found = [value for tag, key, value in page.attributes if tag == "a" and value.startswith("data:text/csv")]
    inside = base64.b64decode(found[0].split(",")[1])
    assert inside == (reported / "cells.csv").read_bytes()
    rows = list(csv.DictReader(io.StringIO(inside.decode())))
    assert [int(row["batch_size"]) for row in rows] == [cell.batch_size for cell in summarized.cells]
    best = next(row for row in rows if int(row["batch_size"]) == summarized.time_optimal.batch_size)
    assert float(best["time_to_target"]) == pytest.approx(summarized.time_optimal.seconds)
    for name in ("trials.csv", "rounds.csv"):
        assert len((reported / name).read_text().splitlines()) > 10


def test_files_are_written_next_to_the_page(reported):
    drawn = {path.name for path in (reported / "figures").iterdir()}
    assert {"time_to_target.png", "time_to_target.svg", "throughput.png"} <= drawn
    assert (reported / "summary.json").is_file()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    simulated_folder.write(folder, batch_sizes=(16, 64, 256, 1024), confirm_seeds=2)
    toml = (folder / "experiment.toml").read_text()
    (folder / "experiment.toml").write_text(toml.replace("A simulated sweep", HOSTILE))
    machine = msgspec.json.decode((folder / "machine.json").read_bytes())
    machine["machine"] |= {"device_kind": HOSTILE, "cpu": HOSTILE}
    machine["environments"]["abcd"] |= {"os": HOSTILE, "packages": {HOSTILE[:60]: "</svg><script>"}}
    (folder / "machine.json").write_bytes(msgspec.json.encode(machine))
    report.write_report(folder)
    return folder / report.NAME


def test_a_figure_that_can_no_longer_be_drawn_is_removed_and_other_files_stay(tmp_path):
    simulated_folder.write(tmp_path, batch_sizes=(16, 64, 256), confirm_seeds=2, bytes_per_example=None)
    figures = tmp_path / "figures"
    figures.mkdir()
    for name in ("roofline.png", "roofline.svg", "mine.png"):
        (figures / name).write_text("old")
    report.write_report(tmp_path)
    assert not [*figures.glob("roofline.*")]
    assert (figures / "mine.png").read_text() == "old"
    assert (figures / "throughput.png").stat().st_size > 3


def test_names_from_files_stay_text(hostile):
    page = Page(hostile.read_text(encoding="utf-8"))
    assert page.tags.count("script") == 1
    assert not [key for _, key, _ in page.attributes if key.startswith("on")]
    assert "".join(page.text).count(HOSTILE) >= 3
    assert "49" not in page.tags


@pytest.mark.parametrize("left", ["throughput.jsonl", "convergence.jsonl"])
def test_half_a_folder_gives_half_an_answer(tmp_path, left):
    simulated_folder.write(tmp_path, batch_sizes=(16, 64, 256, 1024), confirm_seeds=2)
    for name in {"throughput.jsonl", "convergence.jsonl"} - {left}:
        (tmp_path / name).unlink()
    report.write_report(tmp_path)
    text = (tmp_path / report.NAME).read_text(encoding="utf-8")
    assert "is not known" in text
    assert "Figures that these measurements have no data for" in text


@pytest.mark.usefixtures("few_figures")
def test_that_nothing_reached_the_target_is_reported(tmp_path):
    simulated_folder.write(tmp_path, batch_sizes=(16, 64, 256), confirm_seeds=2, least_examples=1e8)
    written = report.write_report(tmp_path)
    assert written == build.read(tmp_path)
    sentence = answer.answer(written)[0]
    assert "is not known: no batch size reached" in sentence
    assert sentence.endswith("in the median.")


def test_an_optimum_at_the_edge_says_so(summarized):
    best = msgspec.structs.replace(summarized.time_optimal, at_edge=True, edge="largest")
    sentence = answer.answer(msgspec.structs.replace(summarized, time_optimal=best))[0]
    assert "is the largest one tried, so a larger one may be better." in sentence


def test_a_notice_and_a_join_are_loud(summarized):
    loud = msgspec.structs.replace(summarized, notice="No MNIST source answered.", convergence_from="elsewhere")
    assert answer.notices(loud)[0] == "No MNIST source answered."
    assert "elsewhere" in answer.notices(loud)[1]
    begun = msgspec.structs.replace(summarized, trained_on=["1 trial on old-cpu (EPYC)", "2 trials on old-gpu (L4)"])
    assert any("1 trial on old-cpu (EPYC), then 2 trials on old-gpu (L4)" in one for one in answer.notices(begun))
    assert captions.convergence_source(begun) == "convergence begun in another folder"


def test_long_runs_of_ties_are_named_by_their_ends(summarized):
    tied = [cell.batch_size for cell in summarized.cells][:8]
    best = msgspec.structs.replace(summarized.time_optimal, batch_size=tied[3], tied=tied)
    sentence = answer.answer(msgspec.structs.replace(summarized, time_optimal=best))[0]
    assert f"Tied with it (no significant difference): all others from {tied[0]} to {tied[-1]}." in sentence


def test_verified_runs_show_how_far_the_prediction_was_off(tmp_path, measured):
    truth = simulated_folder.write(tmp_path, batch_sizes=(16, 64, 256, 1024), confirm_seeds=2)
    run = Verification(
        **simulated_folder.origin(truth),
        batch_size=64,
        learning_rate=0.1,
        seed=1,
        status="ok",
        steps=110,
        seconds=1.1,
        predicted_steps=100,
        predicted_seconds=1.0,
    )
    runs = [msgspec.structs.replace(run, seconds=seconds) for seconds in (1.3, 0.9, 1.1)]
    verified = tmp_path / "verification.jsonl"
    verified.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in runs))
    table = report.verifications(frames.load(tmp_path))
    assert "as short as these" not in table.caption
    assert len(table.rows) == 1
    assert table.rows[0].entries[4].text == "3"
    assert [entry.text for entry in table.rows[0].entries][-5:] == ["110", "1.00 s", "1.10 s", "+10.0%", "+0.0%"]
    assert report.verifications(measured) is None
    verified.write_bytes(msgspec.json.encode(msgspec.structs.replace(run, predicted_seconds=0.001)) + b"\n")
    assert "as short as these" in report.verifications(frames.load(tmp_path)).caption


def test_what_is_not_shipped_is_measured_again_from_the_file_next_to_the_page(summarized, measured):
    assert report.reproduce(measured, summarized).startswith("batchscale run experiment.toml\n")
    shipped = msgspec.structs.replace(summarized, experiment="lenet_mnist")
    assert report.reproduce(measured, shipped).startswith("batchscale run lenet_mnist\n")


def test_verdicts_and_further_targets_become_tables(summarized):
    shown = Verdict(claim=2, statement="larger is faster", verdict="supported", numbers="1 against 2")
    target = FurtherTarget(
        threshold=0.9,
        within_epochs=60.0,
        reached=[16, 32],
        time_optimal=None,
        time_optimal_reason="none",
        critical_batch_size=None,
        critical_batch_size_reason="none",
    )
    changed = msgspec.structs.replace(summarized, verdicts=[shown], further_targets=[target])
    assert [entry.text for entry in report.verdicts(changed).rows[0].entries][2] == "supported"
    table = report.further_targets(changed)
    assert table.rows[0].entries[-1].text == "16 and 32"
    assert "†" not in table.caption
    searched = msgspec.structs.replace(target, unconfirmed=[32])
    table = report.further_targets(msgspec.structs.replace(changed, further_targets=[target, searched]))
    assert [row.entries[-1].text for row in table.rows] == ["16 and 32", "16 and 32†"]
    assert "† not confirmed" in table.caption
    assert "judged within" not in table.caption
    harder = msgspec.structs.replace(target, threshold=0.97, within_epochs=20.0)
    table = report.further_targets(msgspec.structs.replace(changed, further_targets=[target, harder]))
    assert "Targets above 95% are judged within 20 epochs, because runs that reach 95% may end there." in table.caption


def test_the_largest_batch_size_that_fits_is_given_with_its_limit(summarized):
    facts = {fact.name: fact for fact in answer.facts(summarized)}
    assert facts["Largest that fits"].value == "3000"
    assert "limited by memory; needs" in facts["Largest that fits"].more


def test_cells_say_how_many_seeds_missed(summarized):
    cell = msgspec.structs.replace(summarized.cells[0], status="not_reached", seeds=5, seeds_reached=2)
    assert tables.status(cell) == "not reached, 2 of 5 seeds"
    seen = msgspec.structs.replace(cell, seeds_reached=0, first_evaluation_epochs=3.5)
    assert tables.status(seen) == "seen, but not by the typical run"
    never = msgspec.structs.replace(seen, first_evaluation_epochs=None)
    assert tables.status(never) == "not reached"
    assert tables.status(msgspec.structs.replace(cell, status="not_measured")) == "reached, not timed"


def test_an_empty_text_is_an_empty_field():
    assert tables.as_csv(["options", "status"], [["", "ok"]]) == b"options,status\n,ok\n"


def test_csv_fields_cannot_start_a_formula():
    content = tables.as_csv(["a"], [["=1+1"], ["@SUM(A1)"], [-1.5], [None], [float("inf")]])
    assert content.decode().splitlines() == ["a", "'=1+1", "'@SUM(A1)", "-1.5", '""', '""']


def test_inline_figures_take_the_colours_of_the_page(reported):
    svg = (reported / "figures" / "throughput.svg").read_bytes()
    inline = html.inline(svg, "x", 'a "label" <b>', {})
    assert "currentColor" in inline
    assert 'aria-label="a &quot;label&quot; &lt;b&gt;"' in inline


def test_tables_from_elsewhere_are_not_called_measured_here(tmp_path):
    (tmp_path / "c.csv").write_text(
        "batch_size,seed,epochs_to_target\n" + "".join(f"{2**n},0,{n}\n" for n in range(4, 9))
    )
    (tmp_path / "t.csv").write_text(
        "batch_size,seconds_per_epoch\n" + "".join(f"{2**n},{9 - n / 2}\n" for n in range(4, 9))
    )
    (folder,) = write_folders(
        [tmp_path / "c.csv"], tmp_path / "t.csv", tmp_path / "out", Known(train_examples=1000)
    ).values()
    report.write_report(folder)
    text = (folder / report.NAME).read_text(encoding="utf-8")
    assert "tables measured elsewhere" in text
    for untrue in ("measured here", "one step per call", "float32", 'id="figure-learning_curves"'):
        assert untrue not in text
