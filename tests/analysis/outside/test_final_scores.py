"""Final scores: the surface of a grid, whether the best rate turns, and the tolerance, by hand calculations."""

import numpy as np
import pytest
from batchscale.analysis.exchange.analyze import Known, write_folders
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.outside import recognise
from batchscale.analysis.outside.runs import Asked
from batchscale.analysis.pages import tables
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.text import answer, captions, method
from batchscale.errors import InputError

SIZES = [2**power for power in range(4, 11)]
RATES = [0.01 * 2 ** (step / 2) for step in range(-8, 9)]


def written(path, best_rate, level, seeds=1, noise=0.0):
    """Write losses that are `level(B)` at `best_rate(B)`, and 0.02 higher an octave from it."""
    draw = np.random.default_rng(4)
    rows = ["lr,bs,loss,seed"] if seeds > 1 else ["lr,bs,loss"]
    for size in SIZES:
        for rate in RATES:
            for seed in range(seeds):
                loss = level(size) + 0.02 * np.log2(rate / best_rate(size)) ** 2 + noise * draw.normal()
                rows.append(f"{rate:.8g},{size},{loss:.6f}" + (f",{seed}" if seeds > 1 else ""))
    path.write_text("\n".join(rows) + "\n")
    return path


def found_in(path, known=None):
    (folder,) = write_folders([path], None, path.with_name("out"), known or Known()).values()
    sweep = Sweep.of(frames.load(folder))
    return sweep, summarize(sweep)


def by_octaves(size):
    return np.log2(size / 128)


def test_a_grid_with_one_run_each_gives_the_best_point_of_its_surface_and_its_noise(tmp_path):
    """The level is least at batch size 128, where the best rate is 0.01, and grows as the square root of B."""
    path = written(
        tmp_path / "grid.csv", lambda b: 0.01 * (b / 128) ** 0.5, lambda b: 2 + 0.01 * by_octaves(b) ** 2, noise=0.002
    )
    _, found = found_in(path)
    surface = found.score_surface
    assert surface.batch_size.value == pytest.approx(128, rel=0.1)
    assert surface.learning_rate.value == pytest.approx(0.01, rel=0.05)
    assert surface.score.value == pytest.approx(2, abs=0.002)
    assert surface.exponent.value == pytest.approx(0.5, abs=0.03)
    assert surface.noise == pytest.approx(0.002, rel=0.2)
    for one, value in ((surface.batch_size, 128), (surface.learning_rate, 0.01), (surface.exponent, 0.5)):
        assert one.interval[0] < value < one.interval[1]
    assert "A smooth surface through 119 runs has its best loss, 2" in answer.surface(found)


def test_the_noise_of_single_runs_is_that_about_the_surface(tmp_path):
    """Scores of neighbouring batch sizes differ by 0.01 and more, which is five times the noise, so nothing is tied."""
    path = written(
        tmp_path / "grid.csv", lambda b: 0.01 * (b / 128) ** 0.5, lambda b: 2 + 0.01 * by_octaves(b) ** 2, noise=0.002
    )
    _, found = found_in(path)
    best = found.score_optimal
    assert (best.batch_size, best.tied) == (128, [128])
    low, high = best.interval
    assert (high - low) / 2 == pytest.approx(1.98 * 0.002, rel=0.25)
    assert "about the fitted surface" in best.test
    _, repeated = found_in(written(tmp_path / "seeds.csv", lambda b: 0.01, lambda b: 2 + by_octaves(b) ** 2, 3, 0.002))
    assert "measured once each" not in repeated.score_optimal.test


def test_a_surface_that_the_grid_does_not_support_is_refused_with_the_reason(tmp_path):
    _, found = found_in(written(tmp_path / "grid.csv", lambda b: 0.01, lambda b: 2 - 0.01 * by_octaves(b)))
    assert found.score_surface is None
    assert "does not bend upward" in found.score_surface_reason or "outside of the grid" in found.score_surface_reason
    assert found.score_surface_reason in answer.surface(found)


@pytest.mark.parametrize(
    ("best_rate", "shape"),
    [
        (lambda b: 0.01 * 2 ** -(by_octaves(b) ** 2 / 3), "rises then falls"),
        (lambda b: 0.01 * (b / 128) ** 0.5, "rises"),
        (lambda b: 0.01, "undecided"),
    ],
)
def test_the_best_rate_turns_where_the_slopes_at_both_ends_say_so(tmp_path, best_rate, shape):
    """The first rate is 2^-(n^2 / 3) at n octaves from batch size 128: its slopes at n = -3 and 3 are 2 and -2."""
    sweep, found = found_in(written(tmp_path / "finals.csv", best_rate, lambda b: 2.0, seeds=2))
    turn = found.learning_rates.shape
    assert turn.shape == shape
    if shape == "rises then falls":
        assert (turn.first_slope.value, turn.last_slope.value) == pytest.approx((2, -2), abs=0.3)
        assert turn.turning_point == pytest.approx(128, rel=0.1)
        assert "It rises then falls, about batch size 1" in captions.best_learning_rate(sweep, found)


def test_the_tolerance_names_the_sizes_whose_score_is_as_good(tmp_path):
    """0.25% of the best loss, 2, is 0.005: 64 and 256 are 0.004 worse, 32 and 512 are 0.016 worse."""
    path = written(tmp_path / "finals.csv", lambda b: 0.01, lambda b: 2 + 0.004 * by_octaves(b) ** 2, seeds=2)
    _, found = found_in(path, Known(tolerance=0.0025))
    assert found.score_optimal.within_tolerance == [64, 128, 256]
    assert "Within the tolerance of 0.25% of that score: 64 and 256." in answer.answer(found)[1]
    _, found = found_in(path, Known(tolerance=0.001))
    assert found.score_optimal.within_tolerance == [128]
    assert "No other is within the tolerance of 0.1%" in answer.answer(found)[1]


def test_a_page_of_final_scores_speaks_of_no_target_no_clock_and_no_curve(tmp_path):
    sweep, found = found_in(written(tmp_path / "grid.csv", lambda b: 0.01, lambda b: 2.0, seeds=2, noise=0.002))
    table, described = tables.batch_size_table(found), tables.described(found)[16]
    text = " ".join([table.caption, described, *method.paragraphs(sweep, found)])
    assert {"Status", "Time to target", "Levelled off"} & {column.name for column in table.columns} == set()
    assert [word for word in ("target", "clock", "levelled", "rounds", "not measured") if word in text] == []
    assert "Claims: medians have 95% intervals over seeds." in text


def written_as(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(("odd", "refused"), [(0.93, True), (0.1, False), (1.0, False)])
def test_a_share_among_percentages_is_refused_and_a_run_at_chance_is_not(tmp_path, odd, refused):
    """0.1% is chance among 1,000 classes, and 1% among 100; 0.93 next to 94.2 is a share."""
    rows = f"16,0.1,0,{odd}\n16,0.1,1,73.1\n32,0.1,0,74\n32,0.1,1,74.2\n" if odd == 1.0 else ""
    rows = rows or f"16,0.1,0,{odd}\n16,0.1,1,93.1\n32,0.1,0,94\n32,0.1,1,94.2\n"
    path = written_as(tmp_path / "c.csv", "batch_size,learning_rate,seed,acc\n" + rows)
    known = Known(scores=Asked(metric="accuracy", column="acc", percent=True))
    if not refused:
        assert write_folders([path], None, tmp_path / "out", known)
        return
    with pytest.raises(InputError, match=r"batch_size 16, .* seed 0: acc: 0\.93 at most.*percentages of every run"):
        write_folders([path], None, tmp_path / "out", known)


def test_of_final_scores_the_run_with_two_is_named(tmp_path):
    rows = "16,0.001,0,3.1\n16,0.1,0,2.5\n16,0.1,0,2.9\n"
    path = written_as(tmp_path / "c.csv", "batch_size,learning_rate,seed,val_loss\n" + rows)
    with pytest.raises(InputError, match=r"learning_rate 0\.1, seed 0: 2 scores of one run, expected one"):
        recognise.read([path], Asked())
