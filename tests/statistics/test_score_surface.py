"""The surface of final scores finds the optimum that a hand calculation gives, and is refused where there is none."""

import numpy as np
import pytest
from batchscale.statistics.curve_fit import Refusal
from batchscale.statistics.score_surface import Finals, fit_score_surface

SIZES, RATES = 2.0 ** np.arange(4, 11), 2.0 ** np.arange(-12, -4)


def grid(score, sizes=SIZES, rates=RATES, noise=0.0, seed=0):
    size, rate = (axis.ravel() for axis in np.meshgrid(sizes, rates))
    drawn = noise * np.random.default_rng(seed).normal(size=size.size)
    return Finals(size, rate, score(np.log2(size), np.log2(rate)) + drawn)


def valley(x, z):
    """Best at batch size 128 and rate 2^-8.5, where the best rate grows as the square root of the batch size."""
    return 2.5 + 0.01 * (x - 7) ** 2 + 0.02 * (z + 8.5 - 0.5 * (x - 7)) ** 2


def test_a_parabola_is_found_again_exactly():
    """The gradient of 2.5 + 0.01 u^2 + 0.02 (v - u / 2)^2 is zero at u = v = 0: batch size 2^7, rate 2^-8.5."""
    found = fit_score_surface(grid(valley))
    assert found.batch_size.value == pytest.approx(128)
    assert found.rate.value == pytest.approx(2**-8.5)
    assert found.score.value == pytest.approx(2.5)
    assert found.exponent.value == pytest.approx(0.5)
    assert found.noise < 1e-9
    assert (found.runs, found.left_out) == (56, 0)


def test_the_residual_is_the_noise_and_intervals_cover():
    true = {"batch_size": 128, "rate": 2**-8.5, "score": 2.5, "exponent": 0.5}
    covered = dict.fromkeys(true, 0)
    noises = []
    for seed in range(200):
        found = fit_score_surface(grid(valley, noise=0.01, seed=seed))
        noises.append(found.noise)
        for name, value in true.items():
            low, high = getattr(found, name).interval
            covered[name] += (low is None or low <= value) and (high is None or value <= high)
    assert np.mean(noises) == pytest.approx(0.01, rel=0.05)
    for name, count in covered.items():
        assert 180 <= count <= 199, name


def test_intervals_do_not_depend_on_the_signs_of_singular_vectors(monkeypatch):
    """They differ between machines."""
    finals, decompose = grid(valley, noise=0.01), np.linalg.svd
    here = fit_score_surface(finals).exponent.interval

    def flipped(matrix, **options):
        left, spread, right = decompose(matrix, **options)
        return -left, spread, -right

    monkeypatch.setattr(np.linalg, "svd", flipped)
    assert fit_score_surface(finals).exponent.interval == pytest.approx(here, rel=1e-9)


def test_runs_far_from_the_best_are_left_out_where_no_parabola_holds_for_all():
    def steep(x, z):
        return valley(x, z) + 0.5 * np.maximum(z + 6.5, 0) ** 2

    found = fit_score_surface(grid(steep, noise=0.002))
    assert found.left_out > 0
    assert found.batch_size.value == pytest.approx(128, rel=0.3)
    assert found.rate.value == pytest.approx(2**-8.5, rel=0.3)
    diverged = grid(valley)
    diverged.scores[(diverged.rates > 2**-6) & (diverged.batch_sizes < 64)] = np.nan
    assert fit_score_surface(diverged).batch_size.value == pytest.approx(128)


@pytest.mark.parametrize(
    ("finals", "reason"),
    [
        (grid(valley, SIZES[:2]), r"16 runs, with 3 rates at 2 batch sizes"),
        (grid(valley, SIZES[:3], RATES[:3]), r"9 runs, with 3 rates at 3 batch sizes"),
        (grid(valley, SIZES[:3]), r"the best batch size of the surface is outside of the grid"),
        (grid(lambda x, z: 5 - 0.01 * (x - 7) ** 2 + 0.02 * z**2), r"does not bend upward on all sides"),
        (grid(lambda x, z: 0 * x, noise=1.0, seed=3), r"best point|not bend|outside"),
        (grid(lambda x, z: np.exp(x - 7) - x + np.exp(2 * (z + 8.5)) - 2 * z), r"runs near the best, with"),
    ],
)
def test_a_grid_that_shows_no_best_point_is_refused_with_the_reason(finals, reason):
    with pytest.raises(Refusal, match=reason):
        fit_score_surface(finals)
