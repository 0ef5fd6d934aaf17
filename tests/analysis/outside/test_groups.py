"""Runs in groups: an answer for each, and powers of the columns that a hand calculation gives."""

import json
import re
import time

import numpy as np
import pytest
from batchscale.analysis.exchange.analyze import Known
from batchscale.analysis.exchange.groups import answer_groups
from batchscale.analysis.outside.runs import Asked
from batchscale.analysis.pages import groups as page
from batchscale.cli import command_line
from batchscale.errors import InputError
from batchscale.statistics.curve_fit import Refusal, fit_powers

MODELS, TOKENS = (1e8, 2e8, 4e8), (1e9, 4e9, 1.6e10)


def written(path, models=MODELS, tokens=TOKENS, rates=9):
    """Write runs whose best batch size is 128 (D / 4e9)^0.5, and best rate 0.002 (N / 2e8)^-1 (D / 4e9)^0.25."""
    draw = np.random.default_rng(2)
    rows = ["N,D,lr,bs,smooth loss,loss"]
    for model in models:
        for data in tokens:
            size, rate = 128 * (data / 4e9) ** 0.5, 0.002 * (model / 2e8) ** -1 * (data / 4e9) ** 0.25
            for power in range(4, 11):
                for step in range(rates):
                    tried = 0.002 * 2.0 ** (step - rates // 2)
                    loss = 2 + 0.01 * np.log2(2**power / size) ** 2 + 0.02 * np.log2(tried / rate) ** 2
                    loss += 0.001 * draw.normal()
                    rows.append(f"{model:.0f},{data:.0f},{tried:.6g},{2**power},0,{loss:.6f}")
    path.write_text("\n".join(rows) + "\n")
    return path


def known(*by, **more):
    return Known(scores=Asked(metric="loss", column="loss", by=by), **more)


def test_the_optima_move_with_the_powers_of_the_columns(tmp_path):
    began = time.perf_counter()
    found = answer_groups([written(tmp_path / "runs.csv")], known("N", "D", tolerance=0.0025))
    assert time.perf_counter() - began < 10
    assert [(one.group["N"], one.group["D"]) for one in found.answers[:2]] == [
        ("100000000", "1000000000"),
        ("100000000", "4000000000"),
    ]
    assert found.answers[1].score_optimal.batch_size == 128
    assert found.answers[1].learning_rate == 0.004
    assert found.answers[1].score_optimal.within_tolerance == [128]
    sizes, rates = (one.exponents for one in found.movements)
    assert (sizes["N"].value, sizes["D"].value) == pytest.approx((0, 0.5), abs=0.02)
    assert (rates["N"].value, rates["D"].value) == pytest.approx((-1, 0.25), abs=0.02)
    assert all(low < high for low, high in (one.interval for one in rates.values()))
    assert "The best batch size moves as N^" in page.sentences(found)[1]


def test_powers_are_those_of_a_product():
    """y = 3 a^2 b^-1 at five points, by logarithms."""
    where = np.log([[1, 1], [2, 1], [1, 2], [2, 4], [4, 2]])
    (first, ends), (second, _) = fit_powers(where, np.log(3) + where @ [2, -1])
    assert (first, second, *ends) == pytest.approx((2, -1, 2, 2))
    with pytest.raises(Refusal, match="4 groups have an answer, and 2 exponents need 5"):
        fit_powers(where[:4], where[:4, 0])
    with pytest.raises(Refusal, match="move together"):
        fit_powers(where[:, [0, 0]], where[:, 0])


def test_groups_without_a_surface_answer_by_their_best_runs_and_give_the_reason(tmp_path):
    found = answer_groups([written(tmp_path / "runs.csv", rates=2)], known("N", "D"))
    assert {one.rests_on for one in found.movements} == {"best run"}
    assert all("3 rates at 0 batch sizes" in one.score_surface_reason for one in found.answers)
    assert "9 of 9 groups support no surface" in page.sentences(found)[-1]
    named = answer_groups([written(tmp_path / "few.csv", models=MODELS[:1], tokens=TOKENS[:2])], known("N", "D"))
    assert {one.reason for one in named.movements} == {"2 groups have an answer, and an exponent needs 4"}


def curves(path, seconds=True):
    """Write runs that reach a loss of 2 after 6400 (1 + B / knee) examples; the knee is 64 (N / 1e8)^0.5.

    A step takes 1 ms + 10 us for each example, so the time at B is 6400 (1 / B + 1 / knee) (1 + B / 100) ms.
    """
    rows = ["N,run,batch_size,learning_rate,step,val_loss" + ",seconds" * seconds]
    for model in (1e8, 4e8, 1.6e9, 6.4e9):
        knee = 64 * (model / 1e8) ** 0.5
        for size in (16, 64, 256, 1024):
            crossing = 6400 * (1 / size + 1 / knee)
            for share in np.arange(1, 31) / 20:
                step, loss = share * crossing, 2 + np.log(1 / share)
                clock = f",{step * (1 + size / 100) / 1000:.9g}" * seconds
                rows.append(f"{model:.0f},{model:.0f}-{size},{size},0.1,{step:.9g},{loss:.9g}{clock}")
    path.write_text("\n".join(rows) + "\n")
    return path


def test_groups_of_curves_answer_with_their_knees_and_their_times(tmp_path):
    """The critical batch size moves as N^0.5, because the examples were made so; times are those of the product."""
    found = answer_groups([curves(tmp_path / "curves.csv")], Known(target=2.0, scores=Asked(metric="loss", by=("N",))))
    assert found.goal.threshold == 2.0
    knees = [one.critical_batch_size.value for one in found.answers]
    assert knees == pytest.approx([64, 128, 256, 512], rel=0.05)
    for one, knee in zip(found.answers, (64, 128, 256, 512), strict=True):
        times = {size: 6.4 * (1 / size + 1 / knee) * (1 + size / 100) for size in (16, 64, 256, 1024)}
        best = min(times, key=times.__getitem__)
        assert one.time_optimal.batch_size == best
        assert one.time_optimal.seconds == pytest.approx(times[best], rel=0.03)
    moved = {one.quantity: one for one in found.movements}
    assert moved["critical_batch_size"].exponents["N"].value == pytest.approx(0.5, abs=0.01)
    assert moved["time_optimal"].rests_on == "least time"
    assert "trained to a validation loss of 2" in page.sentences(found)[0]
    without = answer_groups(
        [curves(tmp_path / "bare.csv", seconds=False)], Known(target=2.0, scores=Asked(metric="loss", by=("N",)))
    )
    assert [one.quantity for one in without.movements] == ["batch_size", "learning_rate", "critical_batch_size"]
    assert {one.time_optimal_reason for one in without.answers} == {"no batch size has timed rounds"}


MANY = "N,lr,bs,loss\n" + "".join(f"{one},0.1,8,2\n" for one in range(201))


@pytest.mark.parametrize(
    ("text", "by", "reason"),
    [
        ("N,lr,bs,loss\n1,0.1,8,2\n", ("D",), r"row 1: --by: D: no such column, expected one of N, loss"),
        ("N,lr,bs,loss\n1,0.1,8,2\n", ("bs",), r"--by: bs: is answered for, expected one of N"),
        ("N,run,bs,step,loss\n1,a,8,1,2\n1,a,8,2,1\n", ("N",), r"expected --target, the loss to reach"),
        ("batch_size,seed,steps_to_target\n8,0,5\n", ("seed",), r"--by: groups a CSV of scores alone, expected one"),
        ("N,lr,bs,loss\n,0.1,8,2\n", ("N",), r"row 2: N: not a name of 1 to 80"),
        ('{"a": {"BS": 8, "Epochs to converge": [1]}}', ("N",), r"--by: groups a CSV of scores alone"),
        (MANY, ("N",), r"201 groups, expected at most 200"),
        ("N,lr,bs,loss,seed\n1,0.1,8,2,1\n1,0.1,8,3,1\n", ("N",), r"seed 1: 2 scores of one run, expected one"),
    ],
)
def test_what_cannot_be_grouped_is_one_line(tmp_path, text, by, reason):
    path = tmp_path / "bs8.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=reason) as error:
        answer_groups([path], known(*by))
    assert str(error.value).isprintable()


@pytest.mark.slow
def test_the_command_answers_for_groups_of_curves(tmp_path, capsys):
    path, out = curves(tmp_path / "runs.csv"), tmp_path / "out"
    line = ["analyze", "--convergence", str(path), "--goal", "val_loss<=2", "--out", str(out), "--by", "N"]
    assert command_line.run(line) == 0
    assert "The critical batch size moves as N^0.5" in capsys.readouterr().out
    text = (out / "groups.html").read_text()
    assert "Fastest batch size" in text
    assert "Optima against N" in text
    assert command_line.run([*line, "--throughput", str(path)]) == 2


def test_the_command_writes_a_page_and_replaces_only_its_own(tmp_path, capsys):
    path, out = written(tmp_path / "runs.csv", tokens=TOKENS[:1], models=MODELS[:2]), tmp_path / "out"
    line = ["analyze", "--convergence", str(path), "--metric", "loss:loss", "--out", str(out), "--by", "N"]
    assert command_line.run(line) == 0
    assert command_line.run([*line, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown == json.loads((out / "groups.json").read_text())
    text = (out / "groups.html").read_text()
    assert "Optima against N" in text
    assert re.search(r"<th[^>]*>100000000</th>", text)
    (out / "groups.json").write_text("{}")
    assert command_line.run(line) == 2
    assert "was not made from tables" in capsys.readouterr().err
