"""explorer.laboratory.desiderata: matrices whose answers are known by hand, and slow twins of the formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from explorer.errors import DataError
from explorer.laboratory.desiderata import (
    decay,
    distances,
    linear_regime,
    logical_consistency,
    noise_invariance,
    sparseness,
    symmetry,
    transitive_causality,
)
from explorer.laboratory.statistics import bootstrap, mean_of, quantile_of, ratio_of

EXACT = 1e-12
SE = 0.15
"""How far a bootstrap interval of 1,000 draws may be from ±1.96 standard errors, in shares of them."""


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_the_interval_of_a_mean_is_about_two_standard_errors_and_always_the_same():
    values = drawn(400)
    found = mean_of(values)
    half = 1.96 * values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean(), abs=EXACT)
    assert found.value - found.low == pytest.approx(half, rel=SE)
    assert found.high - found.value == pytest.approx(half, rel=SE)
    assert mean_of(values) == found
    assert mean_of(values, seed=1) != found
    assert mean_of(np.array([np.nan, 1.0, 3.0])).value == 2.0
    assert np.isnan(mean_of(np.array([2.0])).low)
    assert np.isnan(mean_of(np.array([np.nan])).value)


def test_quantiles_and_ratios():
    assert quantile_of(np.array([4.0, 1.0, 3.0, 2.0]), 0.5).value == 2.0
    assert quantile_of(np.arange(10.0), 0.1).value == 0.0
    assert ratio_of(np.array([1.0, 2.0, np.nan]), np.array([2.0, 4.0, 5.0])).value == 0.5
    assert np.isnan(ratio_of(np.ones(2), np.zeros(2)).value)
    assert bootstrap(3, lambda w: w.sum(1)).low == 3.0


def test_symmetry_is_the_odd_part_over_the_even_part():
    S, A = drawn(9, 9), drawn(9, 9, seed=1)
    S, A = S + S.T, A - A.T
    assert symmetry(S).value == 0.0
    assert symmetry(S + 0.5 * A).value == pytest.approx(0.5 * np.linalg.norm(A) / np.linalg.norm(S), abs=EXACT)
    found = symmetry(S + 0.5 * A)
    assert found.measured.low <= found.value <= found.measured.high
    off = ~np.eye(9, dtype=bool)
    assert found.parts["without the diagonal"].value == pytest.approx(
        0.5 * np.linalg.norm(A[off]) / np.linalg.norm(S[off]), abs=EXACT
    )
    assert f"{found.value:.2f}" in found.sentence


def test_the_symmetry_of_drawn_samples_counts_pairs_as_often_as_they_were_drawn():
    from explorer.laboratory.desiderata import _asymmetries

    E, w = drawn(5, 5), np.array([2.0, 0.0, 1.0, 1.0, 1.0])
    above = below = 0.0
    for i in range(5):
        below += w[i] * (2 * E[i, i]) ** 2
        for j in range(5):
            if i != j:
                above += w[i] * w[j] * (E[i, j] - E[j, i]) ** 2
                below += w[i] * w[j] * (E[i, j] + E[j, i]) ** 2
    assert _asymmetries(E, diagonal=True)(w[None])[0] == pytest.approx((above / below) ** 0.5, abs=EXACT)


def test_a_failed_sample_is_left_out_and_what_is_not_square_is_said():
    S = drawn(6, 6)
    whole = symmetry(S[:5, :5]).value
    S[5] = np.nan
    assert symmetry(S).value == pytest.approx(whole, abs=EXACT)
    with pytest.raises(DataError, match="lessons and probes the same"):
        symmetry(S[:, :4])
    with pytest.raises(DataError, match="two samples"):
        symmetry(np.full((3, 3), np.nan))


def test_an_unrelated_matrix_has_the_asymmetry_of_its_shuffled_control():
    found = symmetry(drawn(60, 60))
    control = found.controls["shuffled"]
    assert control.low < 1 < control.high or abs(control.value - 1) < 0.1
    assert found.parts["without the diagonal"].value == pytest.approx(control.value, abs=0.1)


def test_decay_is_a_rank_correlation_within_and_across_classes():
    D = distances(drawn(12, 3), drawn(12, 3))
    labels = np.arange(12) % 3
    same = labels[:, None] == labels
    E = np.where(same, -D, D) + 0.3 * drawn(12, 12, seed=4)
    pairs = ~np.eye(12, dtype=bool)
    found = decay(E, D, same)
    assert found.value == pytest.approx(spearmanr(-D[pairs], E[pairs]).statistic, abs=EXACT)
    for name, marks in (("within a class", same), ("across classes", ~same)):
        where = pairs & marks
        assert found.parts[name].value == pytest.approx(spearmanr(-D[where], E[where]).statistic, abs=EXACT)
    assert found.parts["within a class"].value > 0.5 > -0.5 > found.parts["across classes"].value
    assert decay(-D, D).value == pytest.approx(1.0, abs=EXACT)
    assert abs(decay(-D, D).controls["shuffled"].value) < 0.5


def test_decay_on_one_scale_sees_through_probes_that_gain_from_anything():
    D = distances(drawn(15, 3), drawn(15, 3))
    loud = np.exp(2 * drawn(15, seed=7))
    plain, found = decay(np.exp(-D), D), decay(np.exp(-D) * loud, D)
    assert plain.value == pytest.approx(1.0, abs=EXACT)
    assert found.value < 0.7
    pairs = ~np.eye(15, dtype=bool)
    E = np.where(pairs, np.exp(-D), np.nan)
    E /= np.sqrt(np.nanmean(E**2, 0))
    E /= np.sqrt(np.nanmean(E**2, 1))[:, None]
    expected = spearmanr(-D[pairs], E[pairs]).statistic
    assert found.parts["on one scale"].value == pytest.approx(expected, abs=1e-9)
    assert expected > 0.8


def test_decay_leaves_out_the_lesson_itself_and_what_failed():
    D, E = distances(drawn(4, 2), drawn(7, 2, seed=1)), drawn(4, 7, seed=2)
    itself = np.array([3, -1, 0, 6])
    pairs = np.ones((4, 7), dtype=bool)
    pairs[[0, 2, 3], [3, 0, 6]] = False
    E[1] = np.nan
    pairs[1] = False
    assert decay(E, D, itself=itself).value == pytest.approx(spearmanr(-D[pairs], E[pairs]).statistic, abs=EXACT)
    assert decay(E, D, itself=itself).measured.count == 3


def test_distances_are_euclidean():
    a, b = drawn(4, 3), drawn(5, 3, seed=1)
    assert distances(a, b) == pytest.approx(np.linalg.norm(a[:, None] - b, axis=2), abs=1e-7)  # by squares: √eps
    with pytest.raises(DataError, match="one length"):
        distances(a, b[:, :2])


def test_sparseness_is_hoyers():
    assert sparseness(np.array([[0.0, 0.0, -2.0, 0.0]]), np.array([-1])).value == 1.0
    assert sparseness(np.array([[1.0, -1.0, 1.0, 1.0]]), np.array([-1])).value == pytest.approx(0.0, abs=EXACT)
    assert sparseness(np.array([[3.0, 4.0, 0.0, 0.0]]), np.array([-1])).value == pytest.approx(0.6, abs=EXACT)
    E = np.array([[100.0, 3.0, 4.0, 0.0, 0.0], [np.nan] * 5])
    found = sparseness(E, np.array([0, 1]))
    assert found.parts["without itself"].value == pytest.approx(0.6, abs=EXACT)
    assert found.measured.count == 1
    noise = sparseness(drawn(300, 400), np.full(300, -1))
    assert noise.controls["random noise"].value == pytest.approx(noise.value, abs=0.01)


def test_noise_invariance_is_the_cosine_and_the_size():
    E = np.eye(6) + 0.1
    apart = np.roll(np.eye(6), 1, axis=1)
    found = noise_invariance(np.eye(6), {0.05: 2 * np.eye(6), 0.1: -np.eye(6), 0.2: apart})
    assert found.value == -1.0  # the median at 0.1
    assert found.parts["0.05: median cosine"].value == 1.0
    assert found.parts["0.05: size"].value == 2.0
    assert found.parts["0.2: median cosine"].value == 0.0
    assert found.controls["another sample"].value == 0.0
    mixed = E.copy()
    mixed[0] *= -1
    assert noise_invariance(E, {0.1: mixed}).parts["0.1: 10th percentile"].value == pytest.approx(-1.0, abs=EXACT)
    assert noise_invariance(E, {0.1: mixed}).value == pytest.approx(1.0, abs=EXACT)
    with pytest.raises(DataError, match="noise"):
        noise_invariance(E, {})
    with pytest.raises(DataError, match=r"noise 0\.1"):
        noise_invariance(E, {0.1: E[:3]})


def test_the_noise_control_is_a_sample_of_the_same_class():
    labels = np.array([0, 0, 1, 1])
    E = np.where(labels[:, None] == labels, 1.0, -1.0)
    assert noise_invariance(E, {0.1: E}, labels).controls["another sample"].value == pytest.approx(1.0, abs=EXACT)


def test_transitive_causality_is_a_share_of_direct_teaching():
    direct = np.array([1.0, 3.0])
    found = transitive_causality(
        np.array([1.0, 1.0]), np.array([0.0, 0.4]), np.array([0.2, 0.2]), np.array([0.4, 0.4]), direct
    )
    assert found.value == 0.5
    assert found.controls["first"].value == pytest.approx(0.1, abs=EXACT)
    assert found.controls["second"].value == pytest.approx(0.1, abs=EXACT)
    assert found.controls["shuffled"].value == pytest.approx(0.2, abs=EXACT)
    assert found.parts["beyond the sum"].value == pytest.approx(0.3, abs=EXACT)
    with pytest.raises(DataError, match="one number for each"):
        transitive_causality(direct, direct, direct, direct, np.ones(3))


def test_logical_consistency_is_by_hand():
    own, negation = np.array([2.0, 1.0, 1.0]), np.array([-2.0, 1.0, 0.0])
    found = logical_consistency(
        own, negation, converse=np.array([1.0, 1.0, 0.0]), shuffled=np.array([np.nan, 0.5, 0.5])
    )
    assert found.value == pytest.approx((1 + 0 + 1) / 3, abs=EXACT)
    assert found.parts["negation"].value == pytest.approx(-0.25, abs=EXACT)
    assert found.controls["converse"].value == 0.5
    assert found.controls["shuffled"].value == 0.5
    assert "contrapositive" not in found.controls
    assert "converse" in found.sentence


def test_the_badge_of_the_linear_regime():
    G = drawn(20, 40)
    F = G @ G.T
    assert linear_regime(F * 1.01, F).linear
    assert linear_regime(F, F).correlation == pytest.approx(1.0, abs=EXACT)
    tilted = F + 0.2 * drawn(20, 20, seed=3) * np.abs(F).mean()
    assert linear_regime(tilted, F).asymmetry == pytest.approx(
        np.linalg.norm(tilted - tilted.T) / np.linalg.norm(tilted + tilted.T), abs=EXACT
    )
    bent = np.sign(F) * np.sqrt(np.abs(F)) + 3 * drawn(20, 20, seed=5)
    assert not linear_regime(bent, F).linear
    part = linear_regime(F[:, :7], F[:, :7])
    assert part.linear
    assert np.isnan(part.asymmetry)
    assert "not defined" in part.sentence
    assert "Linear regime" in part.sentence
    F2 = F.copy()
    F2[0] = np.nan  # a failed lesson
    assert linear_regime(F2, F).linear
    with pytest.raises(DataError, match="one shape"):
        linear_regime(F, F[:, :3])
