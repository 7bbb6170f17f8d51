"""Scores, flags and names of memorization, against scipy, sklearn and cases worked by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score

from explorer import memorization
from explorer.errors import DataError, SettingsError

ROUNDING = 1e-12
"""Two float64 ways to the same number of order one."""
CONSTANT = 1e-4
"""The two published constants, 1.4826 and 1.2533, are rounded to five digits."""


def _classes(n: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 3, n)
    return rng.gamma(2.0, 1.0, n) * (1 + groups), groups


class TestCsl:
    def test_is_the_loss_summed_over_epochs(self) -> None:
        losses = np.array([[1.0, 0.5, 3.0], [0.5, 0.25, 3.5]])
        assert memorization.csl(losses).tolist() == [1.5, 0.75, 6.5]

    def test_does_not_depend_on_the_order_of_epochs(self) -> None:
        losses = np.random.default_rng(0).gamma(1.0, size=(9, 20)).astype(np.float32)
        np.testing.assert_allclose(memorization.csl(losses), memorization.csl(losses[::-1]), rtol=ROUNDING)

    @pytest.mark.parametrize("losses", [np.zeros(3), np.zeros((0, 3)), np.array([[1.0, np.nan]]), [[np.inf]]])
    def test_refuses_what_is_not_a_training_log(self, losses: object) -> None:
        with pytest.raises(DataError, match=r"Expected .*found"):
            memorization.csl(losses)


class TestRobustZ:
    def test_one_group_equals_scipys_median_and_mad(self) -> None:
        values, _ = _classes(101)
        expected = (values - np.median(values)) / stats.median_abs_deviation(values, scale="normal")
        np.testing.assert_allclose(memorization.robust_z(values), expected, rtol=CONSTANT)

    def test_each_group_is_judged_by_itself(self) -> None:
        values, groups = _classes(300)
        together = memorization.robust_z(values, groups)
        for group in range(3):
            rows = groups == group
            np.testing.assert_array_equal(together[rows], memorization.robust_z(values[rows]))

    def test_shift_and_scale_change_nothing(self) -> None:
        values, groups = _classes(300)
        np.testing.assert_allclose(
            memorization.robust_z(7 + 3 * values, groups), memorization.robust_z(values, groups), rtol=1e-10, atol=1e-10
        )  # 7 + 3x loses two digits to rounding

    def test_names_of_groups_do_not_matter(self) -> None:
        values, groups = _classes(90)
        words = np.array(["zebra", "ant", "bee"])[groups]
        np.testing.assert_array_equal(memorization.robust_z(values, words), memorization.robust_z(values, groups))

    def test_where_most_are_equal_the_mean_deviation_stands_in(self) -> None:
        values = np.array([2.0] * 9 + [5.0])
        z = memorization.robust_z(values)
        assert z[:9].tolist() == [0.0] * 9
        np.testing.assert_allclose(z[9], 3.0 / (np.sqrt(np.pi / 2) * 0.3), rtol=CONSTANT)  # mean deviation .3

    def test_where_all_are_equal_nobody_stands_out(self) -> None:
        assert memorization.robust_z(np.full(10, 4.2)).tolist() == [0.0] * 10
        assert memorization.robust_z(np.zeros(10)).tolist() == [0.0] * 10

    def test_float32_rounding_of_equal_values_is_not_a_difference(self) -> None:
        rng = np.random.default_rng(0)
        values = (4.2 * (1 + 1e-7 * rng.standard_normal(1000))).astype(np.float32)
        assert np.abs(memorization.robust_z(values)).max() < 1

    def test_a_small_group_is_held_against_everybody(self) -> None:
        values, groups = _classes(60)
        groups[:4], groups[4:] = 7, 1
        groups[10:40] = 2
        everybody = memorization.robust_z(values)
        np.testing.assert_array_equal(memorization.robust_z(values, groups)[:4], everybody[:4])
        groups[4] = 7  # the fifth member makes it a group of its own
        np.testing.assert_array_equal(memorization.robust_z(values, groups)[:5], memorization.robust_z(values[:5]))

    def test_no_examples_give_no_scores(self) -> None:
        assert memorization.robust_z(np.zeros(0), np.zeros(0, int)).shape == (0,)
        assert memorization.robust_z(np.zeros(0)).shape == (0,)

    def test_refuses_nan_and_other_lengths(self) -> None:
        with pytest.raises(DataError, match="1 of 3"):
            memorization.robust_z([1.0, np.nan, 2.0])
        with pytest.raises(DataError, match="group"):
            memorization.robust_z([1.0, 2.0], [0, 1, 2])


class TestFlag:
    def test_memorized_is_z_over_three(self) -> None:
        values, groups = _classes(500)
        flags = memorization.flag(values, groups)
        np.testing.assert_array_equal(flags.z, memorization.robust_z(values, groups))
        np.testing.assert_array_equal(flags.memorized, flags.z > 3)
        assert 0 < flags.memorized.sum() < 50

    def test_an_extreme_value_is_flagged_in_its_own_class_only(self) -> None:
        rng = np.random.default_rng(0)
        groups = np.repeat([0, 1], 50)
        values = rng.normal(np.where(groups == 0, 0.0, 100.0), 1.0)
        values[3] = 20.0  # far above its class, far below the other
        flags = memorization.flag(values, groups)
        assert flags.memorized[3]
        assert flags.memorized.sum() == 1
        assert not memorization.flag(values).memorized[3]

    def test_percentile_is_the_share_of_the_others_that_score_lower(self) -> None:
        values = np.array([5.0, 1.0, 3.0, 3.0, 9.0])
        expected = [100 * np.mean([(v > w) + (v == w) / 2 for w in np.delete(values, i)]) for i, v in enumerate(values)]
        np.testing.assert_allclose(memorization.flag(values).percentile, expected, rtol=ROUNDING)
        assert memorization.flag([1.0, 2.0, 3.0]).percentile.tolist() == [0.0, 50.0, 100.0]
        assert memorization.flag([1.0]).percentile.tolist() == [0.0]


class TestHeldOut:
    def test_weights_sum_to_one_and_the_first_row_is_the_mean(self) -> None:
        weights = memorization.bootstrap_weights(50, 30, seed=0)
        assert weights.shape == (51, 30)
        assert weights.dtype == np.float32
        np.testing.assert_array_equal(weights[0], np.full(30, np.float32(1) / np.float32(30)))
        np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)  # float32 sums of 30
        counts = weights * 30
        np.testing.assert_allclose(counts, counts.round(), atol=1e-5)  # whole numbers of draws, as float32

    def test_the_same_seed_draws_the_same_and_another_does_not(self) -> None:
        first = memorization.bootstrap_weights(5, 10, seed=3)
        np.testing.assert_array_equal(first, memorization.bootstrap_weights(5, 10, seed=3))
        assert (first != memorization.bootstrap_weights(5, 10, seed=4)).any()

    def test_the_standard_error_is_that_of_a_mean(self) -> None:
        queries, replicates = 200, 2000
        values = np.random.default_rng(0).normal(1.0, 2.0, size=(queries, 4))
        summed = memorization.bootstrap_weights(replicates, queries, seed=0).astype(np.float64) @ values
        found = memorization.held_out_influence(summed[0], summed[1:])
        sampling = 4 / np.sqrt(2 * replicates)  # four standard errors of a standard deviation from 2000 draws
        np.testing.assert_allclose(found.se, values.std(0) / np.sqrt(queries), rtol=sampling)
        np.testing.assert_allclose(found.value, values.mean(0), rtol=1e-5)  # float32 weights
        np.testing.assert_array_equal(found.neutral, np.abs(found.value) <= 1.96 * found.se)

    def test_examples_without_effect_are_neutral_about_as_often_as_promised(self) -> None:
        queries, n = 100, 1000
        scores = np.random.default_rng(1).normal(size=(queries, n))
        summed = memorization.bootstrap_weights(200, queries, seed=0) @ scores
        share = memorization.held_out_influence(summed[0], summed[1:]).neutral.mean()
        # .95 promised, less a percent for 100 queries and 200 replicates; ± 4 √(.95 · .05 / 1000)
        assert 0.91 < share < 0.98

    def test_exactly_no_effect_is_neutral(self) -> None:
        assert memorization.held_out_influence(np.zeros(3), np.zeros((5, 3))).neutral.all()

    def test_refuses_too_few_replicates_and_wrong_shapes(self) -> None:
        with pytest.raises(SettingsError, match="1 of 10"):
            memorization.bootstrap_weights(1, 10, seed=0)
        with pytest.raises(SettingsError, match="0"):
            memorization.bootstrap_weights(10, 0, seed=0)
        with pytest.raises(DataError, match="2 replicates of 3"):
            memorization.held_out_influence(np.zeros(3), np.zeros((1, 3)))
        with pytest.raises(DataError, match=r"\(4, 2\)"):
            memorization.held_out_influence(np.zeros(3), np.zeros((4, 2)))


class TestQuadrant:
    def test_names_are_those_of_the_table(self) -> None:
        names = memorization.quadrant(
            high=[True, True, False, False, True, False],
            value=[0.5, -0.5, 0.5, -0.5, -0.1, 0.1],
            neutral=[False, False, False, False, True, True],
        )
        assert names.tolist() == [
            "memorized and useful",
            "memorized and harmful",
            "generalized",
            "redundant or slightly harmful",
            "memorized, no clear effect on others",
            "neutral",
        ]

    def test_zero_counts_as_useful_where_there_is_no_noise(self) -> None:
        assert memorization.quadrant([True, False], [0.0, 0.0], [False, False]).tolist() == [
            "memorized and useful",
            "generalized",
        ]

    def test_every_name_has_its_sentence_and_none_says_needed(self) -> None:
        masks = np.array(np.meshgrid([True, False], [-1.0, 1.0], [True, False])).reshape(3, -1)
        names = set(memorization.quadrant(masks[0], masks[1], masks[2]).tolist())
        assert names == set(memorization.QUADRANTS)
        assert not any("needed" in text for item in memorization.QUADRANTS.items() for text in item)


class TestSuspects:
    def test_the_training_log_is_used_where_there_is_one(self) -> None:
        losses = np.random.default_rng(0).gamma(1.0, size=(6, 10))
        suspects = memorization.suspect_score(np.arange(10.0), losses)
        assert suspects.basis == "csl"
        np.testing.assert_array_equal(suspects.score, memorization.csl(losses))

    def test_self_influence_stands_in_without_a_log(self) -> None:
        suspects = memorization.suspect_score(np.arange(10.0))
        assert suspects.basis == "self-influence"
        assert suspects.score.tolist() == list(range(10))

    def test_a_log_of_another_run_is_refused(self) -> None:
        with pytest.raises(DataError, match=r"10 examples; found 9"):
            memorization.suspect_score(np.arange(10.0), np.zeros((3, 9)))


class TestDetection:
    def test_equals_sklearn(self) -> None:
        rng = np.random.default_rng(0)
        truth = rng.random(400) < 0.1
        score = rng.normal(size=400) + 1.5 * truth
        found = memorization.detection(score, truth, k=30)
        top = score >= np.sort(score)[-30]
        assert found.auc == pytest.approx(roc_auc_score(truth, score), rel=ROUNDING)
        assert found.precision == pytest.approx(precision_score(truth, top), rel=ROUNDING)
        assert found.recall == pytest.approx(recall_score(truth, top), rel=ROUNDING)
        assert average_precision_score(truth, score) > 0.2  # the case is neither perfect nor chance

    def test_auc_is_the_chance_that_a_fault_scores_higher(self) -> None:
        score, truth = np.array([1.0, 2.0, 2.0, 0.0, 3.0]), np.array([False, True, False, False, True])
        pairs = [(a > b) + (a == b) / 2 for a in score[truth] for b in score[~truth]]
        assert memorization.detection(score, truth).auc == pytest.approx(np.mean(pairs), rel=ROUNDING)

    def test_looks_at_as_many_as_there_are_faults_unless_told(self) -> None:
        found = memorization.detection([4.0, 3.0, 2.0, 1.0], [True, False, True, False])
        assert (found.k, found.precision, found.recall) == (2, 0.5, 0.5)

    def test_a_perfect_score_is_one_and_a_constant_one_is_chance(self) -> None:
        truth = np.arange(10) >= 7
        assert memorization.detection(np.arange(10.0), truth) == memorization.Detection(1.0, 3, 1.0, 1.0)
        assert memorization.detection(np.ones(10), truth).auc == 0.5

    def test_refuses_nothing_to_find_and_k_out_of_range(self) -> None:
        with pytest.raises(DataError, match="some but not all"):
            memorization.detection(np.ones(4), np.zeros(4, bool))
        with pytest.raises(DataError, match="some but not all"):
            memorization.detection(np.ones(4), np.ones(4, bool))
        with pytest.raises(SettingsError, match=r"1\.\.4; found 5"):
            memorization.detection(np.ones(4), [True, False, False, False], k=5)


class TestAssess:
    def _parts(self, n: int = 200) -> tuple[NDArray[np.float64], memorization.HeldOut, NDArray[np.int64]]:
        own, groups = _classes(n)
        draws = np.random.default_rng(1).normal(size=(21, n))
        return own, memorization.held_out_influence(draws[0], draws[1:]), groups

    def test_columns_are_those_of_the_parts(self) -> None:
        own, held_out, groups = self._parts()
        losses = np.random.default_rng(2).gamma(1.0, size=(6, 200))
        table = memorization.assess(own, held_out, groups, losses)
        assert list(table.columns) == [
            "self_influence",
            "csl",
            "held_out",
            "held_out_se",
            "neutral",
            "score",
            "basis",
            "z",
            "percentile",
            "memorized",
            "self_influence_z",
            "quadrant",
        ]
        assert table.index.tolist() == list(range(200))
        flags = memorization.flag(memorization.csl(losses), groups)
        np.testing.assert_array_equal(table["self_influence"], own)
        np.testing.assert_array_equal(table["csl"], losses.sum(0))
        np.testing.assert_array_equal(table["score"], table["csl"])
        np.testing.assert_array_equal(table["z"], flags.z)
        np.testing.assert_array_equal(table["percentile"], flags.percentile)
        np.testing.assert_array_equal(table["memorized"], flags.memorized)
        np.testing.assert_array_equal(table["held_out"], held_out.value)
        np.testing.assert_array_equal(table["held_out_se"], held_out.se)
        np.testing.assert_array_equal(table["neutral"], held_out.neutral)
        assert set(table["basis"]) == {"csl"}
        high = memorization.robust_z(own, groups) > 3
        np.testing.assert_array_equal(table["quadrant"].str.startswith("memorized"), high)

    def test_without_a_log_score_and_quadrant_are_one_measurement(self) -> None:
        own, held_out, groups = self._parts()
        table = memorization.assess(own, held_out, groups)
        assert table["csl"].isna().all()
        assert set(table["basis"]) == {"self-influence"}
        np.testing.assert_array_equal(table["score"], own)
        np.testing.assert_array_equal(table["memorized"], table["quadrant"].str.startswith("memorized"))

    def test_regression_is_one_group(self) -> None:
        own, held_out, _ = self._parts()
        np.testing.assert_array_equal(memorization.assess(own, held_out)["z"], memorization.robust_z(own))

    def test_lengths_that_differ_are_refused(self) -> None:
        own, held_out, groups = self._parts()
        with pytest.raises(DataError, match=r"199 examples; found 200"):
            memorization.assess(own[1:], held_out, groups[1:])
