"""Agreement, linear datamodeling score, noise and the trust line, against scipy and cases worked by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from explorer import fidelity
from explorer.errors import DataError, SettingsError

ROUNDING = 1e-12
"""Two float64 ways to the same number of order one."""


def _tables(q: int = 6, n: int = 50) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(q, n))
    return a, a + rng.normal(size=(q, n))


class TestRankAgreement:
    def test_equals_scipy(self) -> None:
        a, b = _tables()
        expected = [spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
        np.testing.assert_allclose(fidelity.rank_agreement(a, b), expected, rtol=ROUNDING)

    def test_equals_scipy_with_ties(self) -> None:
        a, b = (np.round(table) for table in _tables())
        assert len(np.unique(a[0])) < 10
        expected = [spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
        np.testing.assert_allclose(fidelity.rank_agreement(a, b), expected, rtol=ROUNDING)

    def test_only_order_matters(self) -> None:
        a, b = _tables()
        np.testing.assert_array_equal(fidelity.rank_agreement(np.exp(a), 5 * b - 2), fidelity.rank_agreement(a, b))

    def test_the_same_is_one_and_the_opposite_minus_one(self) -> None:
        a, _ = _tables()
        np.testing.assert_allclose(fidelity.rank_agreement(a, a), 1, rtol=ROUNDING)
        np.testing.assert_allclose(fidelity.rank_agreement(a, -a), -1, rtol=ROUNDING)

    def test_a_constant_row_has_no_order(self) -> None:
        a, b = _tables()
        a[2] = 0.3
        found = fidelity.rank_agreement(a, b)
        assert np.isnan(found).tolist() == [False, False, True, False, False, False]

    def test_refuses_other_shapes_and_nan(self) -> None:
        a, b = _tables()
        with pytest.raises(DataError, match="one shape"):
            fidelity.rank_agreement(a, b[:, 1:])
        with pytest.raises(DataError, match="one shape"):
            fidelity.rank_agreement(a[0], b[0])
        a[0, 0] = np.nan
        with pytest.raises(DataError, match="1 of 300"):
            fidelity.rank_agreement(a, b)


class TestTopOverlap:
    def test_counts_the_shared_at_both_ends(self) -> None:
        a = np.array([[5.0, 4.0, 3.0, 2.0, 1.0, 0.0]])
        b = np.array([[5.0, 1.0, 4.0, 2.0, 3.0, 0.0]])  # top two {0, 2}, bottom two {1, 5}
        assert fidelity.top_overlap(a, b, 2).tolist() == [0.5]
        assert fidelity.top_overlap(a, b, 1).tolist() == [1.0]

    def test_equals_python_sets(self) -> None:
        a, b = _tables()
        for k in (1, 7, 25):
            expected = [
                (len(set(x.argsort()[:k]) & set(y.argsort()[:k])) + len(set(x.argsort()[-k:]) & set(y.argsort()[-k:])))
                / (2 * k)
                for x, y in zip(a, b, strict=True)
            ]
            np.testing.assert_array_equal(fidelity.top_overlap(a, b, k), expected)

    def test_the_same_shares_all_and_the_opposite_none(self) -> None:
        a, _ = _tables()
        assert fidelity.top_overlap(a, a, 10).tolist() == [1.0] * 6
        assert fidelity.top_overlap(a, -a, 10).tolist() == [0.0] * 6

    @pytest.mark.parametrize("k", [0, 26])
    def test_refuses_ends_that_are_empty_or_meet(self, k: int) -> None:
        a, b = _tables()
        with pytest.raises(SettingsError, match=rf"1\.\.25.*found {k}"):
            fidelity.top_overlap(a, b, k)


class TestLds:
    def _linear(self, noise: float) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
        rng = np.random.default_rng(0)
        scores, masks = rng.normal(size=(8, 40)), rng.random((30, 40)) < 0.5
        return scores, masks, masks @ scores.T + noise * rng.normal(size=(30, 8))

    def test_is_one_where_influence_adds_up(self) -> None:
        found = fidelity.lds(*self._linear(0.0))
        np.testing.assert_allclose(found.per_query, 1, rtol=ROUNDING)
        assert found.mean == pytest.approx(1, rel=ROUNDING)
        assert found.se == pytest.approx(0, abs=ROUNDING)

    def test_equals_a_loop_over_queries_and_subsets(self) -> None:
        scores, masks, measures = self._linear(4.0)
        expected = []
        for q in range(len(scores)):
            predicted = [sum(scores[q, i] for i in np.flatnonzero(mask)) for mask in masks]
            expected.append(spearmanr(predicted, measures[:, q]).statistic)
        found = fidelity.lds(scores, masks, measures)
        np.testing.assert_allclose(found.per_query, expected, rtol=ROUNDING)
        assert found.mean == pytest.approx(np.mean(expected), rel=ROUNDING)
        assert found.se == pytest.approx(np.std(expected, ddof=1) / np.sqrt(8), rel=ROUNDING)

    def test_turned_scores_turn_the_sign(self) -> None:
        scores, masks, measures = self._linear(4.0)
        turned = fidelity.lds(-scores, masks, measures).per_query
        np.testing.assert_allclose(turned, -fidelity.lds(scores, masks, measures).per_query, rtol=ROUNDING)

    def test_a_query_without_any_order_is_left_out_of_the_mean(self) -> None:
        scores, masks, measures = self._linear(4.0)
        measures[:, 3] = 0.25
        found = fidelity.lds(scores, masks, measures)
        assert np.isnan(found.per_query).tolist() == [q == 3 for q in range(8)]
        assert found.mean == pytest.approx(np.nanmean(found.per_query), rel=ROUNDING)

    def test_undefined_everywhere_is_nan_and_not_zero(self) -> None:
        scores, masks, measures = self._linear(0.0)
        found = fidelity.lds(0 * scores, masks, measures)
        assert np.isnan([found.mean, found.se]).all()

    def test_refuses_shapes_that_do_not_match(self) -> None:
        scores, masks, measures = self._linear(0.0)
        with pytest.raises(DataError, match="30 retrainings x 8 queries"):
            fidelity.lds(scores, masks, measures.T)
        with pytest.raises(DataError, match="masks"):
            fidelity.lds(scores, masks[:, 1:], measures)
        with pytest.raises(DataError, match="3 or more"):
            fidelity.lds(scores, masks[:2], measures[:2])


class TestQueryNoise:
    def test_is_the_root_mean_square_change_over_the_last_quarter(self) -> None:
        measures = np.random.default_rng(0).normal(size=(20, 3)).cumsum(0)
        last = measures[15:]
        expected = [np.sqrt(np.mean([(last[t + 1, q] - last[t, q]) ** 2 for t in range(4)])) for q in range(3)]
        np.testing.assert_allclose(fidelity.query_noise(measures), expected, rtol=ROUNDING)

    def test_earlier_epochs_do_not_count(self) -> None:
        measures = np.random.default_rng(0).normal(size=(20, 3))
        other = measures.copy()
        other[:15] = 99
        np.testing.assert_array_equal(fidelity.query_noise(measures), fidelity.query_noise(other))

    @pytest.mark.parametrize(("epochs", "counted"), [(2, 2), (4, 2), (8, 2), (9, 3), (12, 3), (13, 4)])
    def test_a_quarter_is_rounded_up_and_at_least_two_epochs(self, epochs: int, counted: int) -> None:
        measures = np.zeros((epochs, 1))
        measures[-counted] = 1.0  # one change of size 1 inside the part that counts ...
        assert fidelity.query_noise(measures)[0] == pytest.approx(np.sqrt(1 / (counted - 1)), rel=ROUNDING)
        measures[:-counted] = 50.0  # ... and one just outside
        assert fidelity.query_noise(measures)[0] == pytest.approx(np.sqrt(1 / (counted - 1)), rel=ROUNDING)

    def test_one_epoch_cannot_say(self) -> None:
        assert np.isnan(fidelity.query_noise(np.ones((1, 4)))).all()
        assert fidelity.query_noise(np.ones((0, 4))).shape == (4,)

    def test_a_constant_answer_has_no_noise(self) -> None:
        assert fidelity.query_noise(np.full((10, 2), 0.3)).tolist() == [0.0, 0.0]

    def test_refuses_one_query_without_its_axis(self) -> None:
        with pytest.raises(DataError, match=r"\[epochs, queries\]"):
            fidelity.query_noise(np.zeros(5))


class TestTrust:
    def test_the_same_scores_agree_and_turned_ones_do_not(self) -> None:
        a, _ = _tables(1, 200)
        (same,) = fidelity.trust(a, 3 * a, [0.0])
        assert same == fidelity.Trust(pytest.approx(1), 1.0, 0.0, "agree")
        (opposite,) = fidelity.trust(a, -a, [0.0])
        assert (opposite.verdict, opposite.overlap) == ("disagree", 0.0)

    @pytest.mark.parametrize(("kept", "verdict"), [(20, "agree"), (10, "agree"), (9, "disagree"), (0, "disagree")])
    def test_half_of_what_is_on_show_has_to_be_the_same(self, kept: int, verdict: str) -> None:
        a = np.linspace(-1, 1, 200)[None]
        b = a.copy()
        b[0, kept:20] = b[0, 180 : 200 - kept] = 0.0  # `kept` of 20 stay at each end
        (found,) = fidelity.trust(a, b, [0.0], k=20)
        assert found.agreement > 0.5  # ranks over all examples hardly notice
        assert (found.overlap, found.verdict) == (kept / 20, verdict)

    def test_the_same_ends_with_everything_between_turned_disagree(self) -> None:
        a = np.linspace(-1, 1, 200)[None]
        b = a.copy()
        b[0, 20:180] *= -1
        (found,) = fidelity.trust(a, b, [0.0], k=20)
        assert found.agreement < 0
        assert (found.overlap, found.verdict) == (1.0, "disagree")

    def test_numbers_are_those_of_the_parts(self) -> None:
        a, b = _tables()
        noise = np.linspace(0, 0.5, 6)
        found = fidelity.trust(a, b, noise, k=10)
        assert [line.agreement for line in found] == fidelity.rank_agreement(a, b).tolist()
        assert [line.overlap for line in found] == fidelity.top_overlap(a, b, 10).tolist()
        assert [line.noise for line in found] == noise.tolist()

    def test_scores_below_the_noise_detect_nothing_however_well_they_agree(self) -> None:
        a, _ = _tables(2, 100)
        loud = np.abs(a).max(1) * [1.01, 0.99]
        assert [line.verdict for line in fidelity.trust(a, a, loud)] == ["no effect detected", "agree"]

    def test_only_the_first_scores_are_held_against_the_noise(self) -> None:
        a, _ = _tables(1, 100)
        assert fidelity.trust(a, 1e6 * a, [1e3])[0].verdict == "no effect detected"
        assert fidelity.trust(1e6 * a, a, [1e3])[0].verdict == "agree"

    def test_unknown_noise_detects_nothing_and_zero_scores_are_no_effect(self) -> None:
        a, _ = _tables(1, 100)
        assert fidelity.trust(a, a, [np.nan])[0].verdict == "agree"
        found = fidelity.trust(0 * a, a, [np.nan])[0]
        assert found.verdict == "no effect detected"
        assert np.isnan(found.agreement)

    def test_undefined_agreement_is_not_agreement(self) -> None:
        a, _ = _tables(1, 100)
        assert fidelity.trust(a, 0 * a, [0.0])[0].verdict == "disagree"

    def test_few_examples_are_compared_by_half(self) -> None:
        a, b = _tables(3, 6)
        assert [line.overlap for line in fidelity.trust(a, b, np.zeros(3))] == fidelity.top_overlap(a, b, 3).tolist()

    def test_refuses_noise_of_other_queries(self) -> None:
        a, b = _tables()
        with pytest.raises(DataError, match="6 queries"):
            fidelity.trust(a, b, np.zeros(5))
