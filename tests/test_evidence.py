"""Which estimate predicts retraining best: ranks against scipy, intervals that cover, a choice that does not depend on units."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from explorer import evidence, fidelity
from explorer.errors import DataError, SettingsError

ROUNDING = 1e-10
"""Two float64 ways to the same number of order one, one of them as a difference of squares of ranks below 12."""


def _world(noise: tuple[float, ...], t: int = 12, q: int = 40, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Outcomes `[t, q]`, and for each level of noise a candidate that predicts them that badly."""
    rng = np.random.default_rng(seed)
    measures = rng.normal(size=(t, q))
    return np.stack([measures + level * rng.normal(size=(t, q)) for level in noise]), measures


def test_scores_are_the_mean_of_scipy_s_spearman() -> None:
    predictions, measures = _world((0.3, 1.0, 3.0))
    predictions[1] = predictions[1].round()  # ties
    expected = [np.mean([spearmanr(x, y).statistic for x, y in zip(p.T, measures.T, strict=True)]) for p in predictions]
    found = evidence.compare(predictions, measures)
    np.testing.assert_allclose(found.lds, expected, rtol=ROUNDING)
    np.testing.assert_array_equal(evidence.scores(predictions, measures), found.lds)
    assert found.best == int(np.argmax(expected))


def test_it_is_the_linear_datamodeling_score_of_the_scores() -> None:
    rng = np.random.default_rng(1)
    values, masks, measures = rng.normal(size=(5, 30)), rng.random((12, 30)) < 0.5, rng.normal(size=(12, 5))
    found = evidence.compare([masks @ values.T], measures)
    assert found.lds[0] == pytest.approx(fidelity.lds(values, masks, measures).mean, abs=ROUNDING)


def test_only_order_matters_to_what_is_said_and_no_unit_to_the_choice_and_the_same_twice() -> None:
    predictions, measures = _world((0.9, 1.0))
    one, two = evidence.compare(predictions, measures), evidence.compare(np.exp(predictions), 5 * measures - 2)
    for name in ("lds", "low", "high"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    two = evidence.compare(3 * predictions + 1, 5 * measures - 2)
    np.testing.assert_allclose(two.fit, one.fit, rtol=ROUNDING)
    assert (two.best, two.regret) == (one.best, pytest.approx(one.regret))
    assert one.regret > 0


def test_chosen_is_by_the_mean_of_scipy_s_pearson() -> None:
    predictions, measures = _world((3.0, 0.3, 1.0))
    expected = [np.mean([pearsonr(x, y).statistic for x, y in zip(p.T, measures.T, strict=True)]) for p in predictions]
    found = evidence.compare(predictions, measures)
    np.testing.assert_allclose(found.fit, expected, rtol=ROUNDING)
    np.testing.assert_array_equal(evidence.fits(predictions, measures), found.fit)
    assert found.best == evidence.choose(predictions, measures) == int(np.argmax(expected)) == 1


def test_in_doubt_the_choice_is_the_nearest_to_the_default_of_those_that_are_no_worse() -> None:
    """Four equals in an order but for a little noise, between one that is worse and one that is better by far, or not there."""
    rng = np.random.default_rng(5)
    measures = rng.normal(size=(12, 60))
    base = measures + rng.normal(size=(12, 60))
    equals = [base + 0.02 * rng.normal(size=(12, 60)) for _ in range(4)]
    worse, better = base + 3 * rng.normal(size=(12, 60)), base + 0.8 * (measures - base)
    among = np.stack([worse, *equals])
    doubt = evidence.DOUBT * np.array([_error_of_the_difference(among, measures, k) for k in range(5)])
    fits = evidence.fits(among, measures)
    for default in range(5):
        found = evidence.compare(among, measures, default=default)
        enough = np.flatnonzero(fits >= fits.max() - 1.1 * doubt[:, fits.argmax()])  # two bootstraps agree to a tenth
        sure = np.flatnonzero(fits >= fits.max() - 0.9 * doubt[:, fits.argmax()])
        assert found.best in enough
        assert abs(found.best - default) <= np.abs(sure - default).min()
        assert found.best == evidence.choose(among, measures, default=default)
    assert evidence.choose(among, measures, default=0) != 0
    among = np.stack([worse, *equals, better])
    assert [evidence.choose(among, measures, default=default) for default in range(6)] == [5] * 6


def _error_of_the_difference(predictions: NDArray, measures: NDArray, other: int) -> NDArray:
    """Bootstrap of the difference of two mean Pearson correlations over other retrainings and queries, `[d]`, written out."""
    rng = np.random.default_rng(8)
    found = []
    for _ in range(400):
        t, q = rng.integers(12, size=12), rng.integers(60, size=60)
        x, y = predictions[:, t][:, :, q], measures[t][:, q]
        x, y = x - x.mean(1, keepdims=True), y - y.mean(0)
        fits = ((x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(0))).mean(1)
        found.append(fits - fits[other])
    return np.std(found, axis=0)


def test_a_clear_winner_costs_no_regret_and_equals_are_a_toss() -> None:
    predictions, measures = _world((0.1, 5.0))
    clear = evidence.compare(predictions, measures)
    assert clear.best == 0
    assert clear.regret == 0
    same = evidence.compare(np.stack([predictions[1], predictions[1]]), measures)
    assert same.regret == 0  # nothing is lost by either
    close, outcomes = _world((1.0, 1.05, 1.1))
    assert 0 < evidence.compare(close, outcomes).regret <= np.ptp(evidence.scores(close, outcomes))


def test_what_shifts_all_candidates_alike_does_not_blur_the_choice() -> None:
    """Two candidates, one a little better in every draw: the intervals overlap by far, and the regret is next to nothing."""
    rng = np.random.default_rng(3)
    t, q = 12, 300
    common = rng.normal(size=(t, 1))  # what all queries share makes the retrainings count as few
    measures = common + 0.5 * rng.normal(size=(t, q))
    base = common + 1.0 * rng.normal(size=(t, 1)) + 0.5 * rng.normal(size=(t, q))
    better = base + 0.15 * (measures - base)
    found = evidence.compare([base, better], measures)
    assert found.best == 1
    assert found.low[1] < found.lds[0]
    assert found.regret < 0.1 * (found.high[1] - found.low[1])


def test_the_interval_covers_another_draw_s_expectation() -> None:
    """Of 60 draws of 12 retrainings, the 95 % interval holds the score of very many in most (few retrainings: not in all)."""
    many = float(evidence.scores(*_world((1.0,), t=4000, q=40))[0])
    held = 0
    for seed in range(60):
        found = evidence.compare(*_world((1.0,), seed=seed + 1))
        assert found.low[0] <= found.lds[0] <= found.high[0]
        held += bool(found.low[0] <= many <= found.high[0])
    assert held >= 48  # 80 %


def test_queries_that_never_change_do_not_count() -> None:
    predictions, measures = _world((0.3, 1.0))
    kept = evidence.scores(predictions[:, :, 1:], measures[:, 1:])
    measures[:, 0] = 1.0
    np.testing.assert_allclose(evidence.scores(predictions, measures), kept, rtol=ROUNDING)
    with pytest.raises(DataError, match="differ between retrainings; found none in 40"):
        evidence.compare(predictions, np.ones_like(measures))


def test_wrong_tables_are_refused_in_words() -> None:
    predictions, measures = _world((0.3,))
    with pytest.raises(DataError, match=r"3 or more retrainings; found shapes \(1, 2, 40\)"):
        evidence.compare(predictions[:, :2], measures[:2])
    with pytest.raises(DataError, match=r"\(1, 12, 40\) and \(12, 39\)"):
        evidence.compare(predictions, measures[:, :39])
    measures[0, 0] = np.nan
    with pytest.raises(DataError, match="found 1 others"):
        evidence.compare(predictions, measures)


def test_the_grid_spans_five_decades_around_the_mean_and_grows_where_the_best_is_at_an_end() -> None:
    found = evidence.grid(2.0)
    assert found[0] == pytest.approx(0.02)
    assert found[-1] == pytest.approx(2000)
    np.testing.assert_allclose(np.diff(np.log10(found)), 0.5)
    assert evidence.beyond(found, found[3], 2.0) == []
    above, below = evidence.beyond(found, found[-1], 2.0), evidence.beyond(found, found[0], 2.0)
    np.testing.assert_allclose(above, [2000 * 10**0.5, 20000])
    np.testing.assert_allclose(below, [0.002, 0.002 * 10**0.5])
    steps, dampings = 0, found
    while more := evidence.beyond(dampings, dampings[-1], 2.0):
        dampings, steps = [*dampings, *more], steps + 1
    assert steps == evidence.WIDEST
    with pytest.raises(SettingsError, match=r"found 0\.0"):
        evidence.grid(0.0)
