"""Rewards, BLEU and other scores without an ideal one: closed forms of their answers, and what is taken for percent."""

import math
import re

import click
import numpy as np
import pytest
from batchscale.analysis.exchange.analyze import Known, settled, write_folders
from batchscale.analysis.exchange.groups import answer_groups
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.outside import recognise
from batchscale.analysis.outside.runs import Asked
from batchscale.analysis.pages.groups import table
from batchscale.analysis.pages.report import write_report
from batchscale.analysis.summary.build import summarize
from batchscale.cli.outside_data import analyze
from batchscale.errors import InputError
from hypothesis import given
from hypothesis import strategies as st

SECONDS = {16: 0.01, 64: 0.012, 256: 0.02, 1024: 0.06}
KNEE, MOST = 200, 2**19
EARLIER = (-0.1, 0.0, 0.1)
"""How much earlier each seed is, in log examples: 0 on average."""


def effective(examples, size):
    """Return the examples that count: a batch size of the knee wastes half of them."""
    return examples / (1 + size / KNEE)


def curves(path, factor=1.0, offset=0.0, name="reward", tail=0.0):
    """Write scores that grow by 20 with every e-fold of examples, from -200 at 1,000 of them.

    A line over log examples is its own smooth curve. `tail` makes it end in noise, after the target of the tests.
    """
    rows = [f"run,batch_size,learning_rate,seed,step,seconds,{name}"]
    random = np.random.default_rng(0)
    for size, seconds in SECONDS.items():
        for seed, earlier in enumerate(EARLIER):
            for step in np.unique(np.geomspace(1000 / size + 1, MOST // size, 30).round().astype(int)).tolist():
                plain = -200 + 20 * (math.log(effective(step * size, size) / 1000) + earlier)
                plain += tail * random.normal() * (plain > -110)
                rows.append(f"{size}-{seed},{size},0.1,{seed},{step},{step * seconds:.9g},{factor * plain + offset!r}")
    path.write_text("\n".join(rows) + "\n")
    return path


def summary_of(path, out, target, metric="score", name="reward"):
    known = Known(target=target, scores=Asked(metric=metric, column=name))
    (folder,) = write_folders([path], None, out, known).values()
    return summarize(Sweep.of(frames.load(folder)))


def test_negative_rewards_cross_where_the_closed_form_does(tmp_path):
    """The reward is -120 after 1000 e^4 examples that count, which are as many times 1 + B / 200."""
    found = summary_of(curves(tmp_path / "c.csv"), tmp_path / "out", -120)
    times = {size: 1000 * math.exp(4) * (1 / size + 1 / KNEE) * seconds for size, seconds in SECONDS.items()}
    assert {cell.batch_size: cell.time_to_target.median for cell in found.cells} == pytest.approx(times, rel=1e-4)
    assert found.time_optimal.batch_size == min(times, key=times.__getitem__) == 256
    assert found.critical_batch_size.value == pytest.approx(KNEE, rel=1e-3)
    assert all(cell.typical_run and cell.doubt is None for cell in found.cells)
    assert found.goal.name == "reward"
    best = {size: -200 + 20 * (math.log(effective(MOST, size) / 1000)) for size in SECONDS}
    assert {cell.batch_size: cell.best_score.median for cell in found.cells} == pytest.approx(best, abs=1e-6)
    assert found.score_optimal.batch_size == 16


def test_no_answer_depends_on_the_unit_of_a_score_nor_on_its_zero_nor_on_its_sign(tmp_path):
    found, reference = [], []
    for at, (factor, offset, metric) in enumerate([(1, 0, "score"), (0.01, 7.0, "score"), (-30.0, -1e4, "cost")]):
        path = curves(tmp_path / f"{at}.csv", factor, offset, tail=1.0)
        one = summary_of(path, tmp_path / f"out{at}", factor * -130 + offset, metric)
        plain = sorted((end - offset) / factor for end in one.score_optimal.interval)
        ties = one.time_optimal.tied, one.score_optimal.tied, [budget.tied for budget in one.time_budgets]
        times = [one.time_optimal.seconds, *one.time_optimal.interval, *(c.time_to_target.median for c in one.cells)]
        scores = [(one.score_optimal.score - offset) / factor, *plain]
        scores += [(budget.score - offset) / factor for budget in one.time_budgets]
        found.append((ties, [cell.doubt for cell in one.cells], [cell.levelled_off for cell in one.cells]))
        reference.append([*times, *scores])
    assert found[0] == found[1] == found[2]
    assert reference[1] == pytest.approx(reference[0], rel=1e-6)
    assert reference[2] == pytest.approx(reference[0], rel=1e-6)


def test_a_page_shows_a_reward_by_its_name_and_never_in_percent(tmp_path):
    known = Known(target=-120, train_examples=100_000, scores=Asked(metric="score", column="reward"))
    write_folders([curves(tmp_path / "c.csv")], None, tmp_path / "out", known)
    write_report(tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    text = re.sub(r"<(svg|style|script)\b.*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)
    assert "reaches a reward of -120 fastest" in text
    assert "reaches the best reward, -76." in text
    assert "in the unit of the score" in text
    assert not re.search(r"-\d[\d.]*%", text)
    assert "ideal score" not in re.sub(r"Where there is an ideal score, the axis is stretched towards it", "", text)
    assert (tmp_path / "out" / "figures" / "learning_curves.svg").exists()


def test_final_rewards_have_the_best_point_of_their_surface(tmp_path):
    """The reward is a parabola over log2 B and log2 rate with its top, -150, at (64, 0.1)."""
    rows = ["batch_size,lr,N,reward"]
    for shift in (1, 4):
        for size in 2 ** np.arange(4, 12):
            for rate in 0.1 * 2.0 ** np.arange(-3, 4):
                off = math.log2(size / 64 / shift), math.log2(rate / 0.1)
                rows.append(f"{size},{rate},{shift},{-150 - 10 * off[0] ** 2 - 20 * off[1] ** 2!r}")
    path = tmp_path / "finals.csv"
    path.write_text("\n".join(rows) + "\n")
    groups = answer_groups([path], Known(tolerance=0.07, scores=Asked(metric="score", by=("N",))))
    first, second = groups.answers
    assert (first.score_optimal.batch_size, second.score_optimal.batch_size) == (64, 256)
    assert first.score_optimal.within_tolerance == [32, 64, 128], "-160 is within 7% of -150, and -190 is not"
    for one, size in ((first, 64), (second, 256)):
        assert one.score_surface.batch_size.value == pytest.approx(size, rel=1e-3)
        assert one.score_surface.learning_rate.value == pytest.approx(0.1, rel=1e-3)
        assert one.score_surface.score.value == pytest.approx(-150, rel=1e-3)
        assert one.score_surface.noise == pytest.approx(0, abs=1e-6)
    assert groups.movements[0].reason is not None, "two groups do not show a power"
    assert "reward" in [column.title for column in table(groups).columns]


def read(tmp_path, goal, name, values):
    """Read scores as the command does; return the metric, the first score and the notes."""
    path = tmp_path / "c.csv"
    path.write_text(f"run,batch_size,step,{name}\n" + "".join(f"a,16,{at},{v}\n" for at, v in enumerate(values, 1)))
    taken = {}
    with pytest.MonkeyPatch.context() as patch:
        target = "batchscale.analysis.exchange.analyze.write_folders"
        patch.setattr(target, lambda files, speeds, out, known, price: taken.update(known=known) or {"a": 1, "b": 2})
        patch.setattr("batchscale.analysis.pages.report.write_report", lambda *_: None)
        patch.setattr("batchscale.analysis.exchange.analyze.write_together", lambda *_: None)
        patch.setattr("batchscale.cli.outside_data.show", lambda *_: None)
        line = ["--convergence", str(path), "--out", str(tmp_path / "out"), *goal]
        analyze.main(line, standalone_mode=False)
    found = settled(recognise.read([path], taken["known"].scores), path, taken["known"])
    return found.metric, taken["known"].target, found.runs[0].evaluations[0].score, " ".join(found.notes)


@pytest.mark.parametrize(
    ("goal", "name", "values", "expected"),
    [
        ("val_acc>=0.9", "val_acc", [0.5, 0.95], ("accuracy", 0.9, 0.5, "")),
        ("val_acc>=90", "val_acc", [50, 95], ("accuracy", 0.9, 0.5, "read as percentages")),
        ("val_acc>=90%", "val_acc", [50, 95], ("accuracy", 0.9, 0.5, "read as percentages")),
        ("val_f1>=0.9", "val_f1", [0.5, 1.0], ("accuracy", 0.9, 0.5, "read as a share")),
        (
            "kills>=0.9",
            "kills",
            [0.5, 3.0],
            ("score", 0.9, 0.5, "read as a plain score: its values reach from 0.5 to 3"),
        ),
        ("kills>=0.9", "kills", [-0.5, 0.95], ("score", 0.9, -0.5, "no ideal score is known")),
        ("mean_reward>=0.5", "mean_reward", [0.1, 0.9], ("score", 0.5, 0.1, "")),
        ("val_bleu>=27", "val_bleu", [5, 28], ("score", 27, 5, "")),
        ("map>=37%", "map", [5, 40], ("accuracy", 0.37, 0.05, "read as percentages")),
        ("reward>=-100", "reward", [-200, -50], ("score", -100, -200, "")),
        ("val_nll<=-1.5", "val_nll", [2, -2], ("cost", -1.5, 2, "")),
        ("fid<=20", "fid", [90, 12], ("loss", 20, 90, "read as a loss")),
    ],
)
def test_the_content_and_the_goal_decide_what_a_score_is_and_it_is_noted(tmp_path, goal, name, values, expected):
    *found, notes = read(tmp_path, ["--goal", goal], name, values)
    assert found == pytest.approx([*expected[:3]])
    assert expected[3] in notes
    assert ("read as" in notes) == bool(expected[3])


@pytest.mark.parametrize(
    ("options", "name", "values", "reason"),
    [
        (["--goal", "val_acc>=0.9"], "val_acc", [50, 95], "accuracy 50, expected 0 to 1 (or"),
        (["--goal", "val_acc>=90"], "val_acc", [0.5, 0.95], "at most 0.95, expected percentages"),
        (["--goal", "val_acc>=90%"], "val_acc", [0.5, 0.95], "at most 0.95, expected percentages"),
        (["--metric", "val_acc:accuracy%"], "val_acc", [0.5, 0.95], "at most 0.95, expected percentages"),
        (["--goal", "val_f1>=90"], "val_f1", [0.5, 0.95], "from 0.5 to 0.95, and the goal is 90"),
        (["--goal", "iou>=0.9"], "iou", [20, 95], "from 20 to 95, and the goal is 0.9"),
        (["--goal", "val_loss<=2"], "val_loss", [3, -1], "row 3: val_loss: negative, expected 0 or more (--metric"),
        (["--goal", "reward>=1"], "reward", [3, -1e13], "row 3: reward: out of range"),
    ],
)
def test_scores_in_another_unit_than_the_goal_are_refused_in_one_line(tmp_path, options, name, values, reason):
    with pytest.raises(InputError, match=re.escape(reason)):
        read(tmp_path, options, name, values)


def test_goals_that_contradict_the_name_of_the_score_are_refused(tmp_path):
    for goal, reason in (("reward<=3", "score is better the other way"), ("val_acc>=101", "a percentage such as 97%")):
        with pytest.raises(click.UsageError, match=reason):
            read(tmp_path, ["--goal", goal], goal[:-3].rstrip("<>="), [1])


@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=6))
def test_a_score_is_read_as_it_is_written(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("any") / "c.csv"
    path.write_text("run,batch_size,step,reward\n" + "".join(f"a,8,{at},{one!r}\n" for at, one in enumerate(values)))
    (run,) = recognise.read([path], Asked(metric="score")).runs
    assert [one.score for one in run.evaluations] == values
