"""The price of an hour: cost is time at that price, it stays with the results, and nothing is priced unasked."""

import json
from dataclasses import replace

import msgspec
import pytest
import simulated_folder
from batchscale.analysis.exchange.predict import predict
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.pages import report
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.text import answer
from batchscale.cli import command_line
from batchscale.errors import InputError
from batchscale.records import results_folder

pytestmark = pytest.mark.usefixtures("few_figures")

TRUTH = simulated_folder.Truth(batch_sizes=(32, 64, 128, 256, 512), confirm_seeds=3)
PRICE = 2.5
ABSENT = (None, "no price was given; --price-per-hour gives one")


@pytest.fixture(scope="module")
def measured():
    return frames.from_rows(
        simulated_folder.experiment(TRUTH), simulated_folder.machine_file(), simulated_folder.rows(TRUTH)
    )


@pytest.fixture
def folder(tmp_path):
    simulated_folder.write(tmp_path / "results", TRUTH)
    return tmp_path / "results"


def reported(folder, capsys, *options):
    assert command_line.run(["report", str(folder), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_cost_is_time_at_the_price_of_an_hour(measured):
    found = summarize(Sweep.of(replace(measured, price_per_hour=PRICE)))
    for cell in found.cells:
        times = [cell.time_to_target.median, *cell.time_to_target.interval]
        costs = [cell.cost_to_target.median, *cell.cost_to_target.interval]
        assert costs == pytest.approx([None if time is None else time * PRICE / 3600 for time in times])
    best, fastest = found.cost_optimal, found.time_optimal
    assert (best.batch_size, best.tied, best.edge) == (fastest.batch_size, fastest.tied, fastest.edge)
    assert best.cost == pytest.approx(fastest.seconds * PRICE / 3600)
    assert best.price_per_hour == found.price_per_hour == PRICE
    assert f"The training costs {best.cost:.3g} at 2.5 an hour." in answer.answer(found)[0]
    assert "Cheapest to the target" in [fact.name for fact in answer.facts(found)]


def test_without_a_price_nothing_is_priced(measured):
    found = summarize(Sweep.of(measured))
    assert (found.cost_optimal, found.cost_optimal_reason) == ABSENT
    assert all(cell.cost_to_target is None for cell in found.cells)
    assert "cost" not in answer.answer(found)[0]
    assert "Cheapest to the target" not in [fact.name for fact in answer.facts(found)]


def test_a_price_changes_nothing_else(measured):
    plain = msgspec.to_builtins(summarize(Sweep.of(measured)))
    priced = msgspec.to_builtins(summarize(Sweep.of(replace(measured, price_per_hour=PRICE))))
    for one in (plain, priced, *plain["cells"], *priced["cells"]):
        for field in ("price_per_hour", "cost_optimal", "cost_optimal_reason", "cost_to_target"):
            one.pop(field, None)
    assert plain == priced


def test_a_price_stays_until_another_is_given(folder, capsys, monkeypatch):
    monkeypatch.setattr(report, "write_page", lambda *_: None)  # pages take seconds
    first = reported(folder, capsys, "--price-per-hour", "2.5")
    assert reported(folder, capsys) == first
    assert first["cost_optimal"]["price_per_hour"] == 2.5
    second = reported(folder, capsys, "--price-per-hour", "5")
    assert second["cost_optimal"]["cost"] == pytest.approx(2 * first["cost_optimal"]["cost"])


@pytest.mark.parametrize("price", ["0", "-1", "nan", "inf", "free", "2,50"])
@pytest.mark.parametrize("verb", ["run", "report results", "analyze --convergence c --throughput t --out o"])
def test_a_price_that_is_none_is_one_line(capsys, verb, price):
    assert command_line.run([*verb.split(), f"--price-per-hour={price}"]) == 2
    assert f"'{price}' is not a price such as 2.5, expected a number above 0 and at most" in capsys.readouterr().err


def test_a_folder_without_results_gets_no_price(tmp_path, capsys):
    assert command_line.run(["report", str(tmp_path / "absent"), "--price-per-hour", "2"]) == 2
    assert "experiment.toml: cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("text", ["{}", '{"per_hour": 0}', '{"per_hour": "2"}', "[", '{"schema": 2, "per_hour": 1}'])
def test_a_price_file_is_not_trusted(folder, text):
    (folder / results_folder.PRICE).write_text(text)
    with pytest.raises(InputError, match=r"price\.json: not valid"):
        frames.load(folder)


def test_a_prediction_takes_the_price_of_the_machine_it_is_for(folder, tmp_path):
    other = tmp_path / "other"
    simulated_folder.write(other, TRUTH, machine="other-cpu")
    results_folder.set_price(folder, PRICE)
    assert predict(folder, other)["other-cpu"].price_per_hour is None
    results_folder.set_price(other, 7.0)
    assert predict(folder, other)["other-cpu"].price_per_hour == 7.0


def test_tables_from_elsewhere_are_priced_for_every_machine(tmp_path, capsys):
    (tmp_path / "c.csv").write_text("batch_size,seed,steps_to_target\n8,1,100\n16,1,60\n")
    (tmp_path / "t.csv").write_text("machine,batch_size,seconds_per_step\na,8,36\na,16,72\nb,8,72\nb,16,36\n")
    line = ["--convergence", tmp_path / "c.csv", "--throughput", tmp_path / "t.csv", "--out", tmp_path / "out"]
    assert command_line.run(["analyze", *map(str, line), "--price-per-hour", "10", "--json"]) == 0
    machines = json.loads(capsys.readouterr().out)["machines"]
    assert machines["a"]["cost_optimal"]["cost"] == pytest.approx(10.0)
    assert machines["b"]["cost_optimal"]["cost"] == pytest.approx(6.0)
