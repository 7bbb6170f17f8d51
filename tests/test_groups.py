"""Shares, means and their intervals against published and independent figures, and whether they hold as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from explorer.errors import DataError, SettingsError
from explorer.groups import Category, Difference, Measure, compare, exact_limits, percentiles, square_and_add

MONTE_CARLO = 4.0
"""Standard errors of a simulated share within which it has to lie: a seeded test that is right fails once in 30,000."""


def split(n_in: int, n_out: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of a group that comes first and of the rest."""
    inside = np.arange(n_in + n_out) < n_in
    return inside, ~inside


def yes(mask: NDArray[np.bool_], name: str = "yes") -> Category:
    return Category(np.where(mask, 0, -1), (name,))


def same_ranks(*sides: NDArray[np.float64]) -> Measure:
    """Numbers that are compared as they are, as if they were percentiles."""
    values = np.concatenate(sides)
    return Measure(values, values.astype(np.float32))


class TestIntervals:
    @pytest.mark.parametrize(("count", "total"), [(0, 7), (3, 7), (7, 7), (1, 6), (56, 70), (1, 100_000)])
    @pytest.mark.parametrize("confidence", [0.9, 0.95, 0.9995])
    def test_exact_limits_as_in_scipy(self, count: int, total: int, confidence: float) -> None:
        wanted = stats.binomtest(count, total).proportion_ci(confidence, method="exact")
        low, high = exact_limits(np.array([count]), np.array([total]), (1 - confidence) / 2)
        assert (low[0], high[0]) == pytest.approx((wanted.low, wanted.high), abs=1e-9)

    @pytest.mark.parametrize(
        ("counts", "wanted"),
        [
            ((56, 70, 48, 80), (0.0524, 0.3339)),
            ((9, 10, 3, 10), (0.1705, 0.8090)),
            ((5, 56, 0, 29), (-0.0381, 0.1926)),
            ((10, 10, 0, 10), (0.6075, 1.0)),
        ],
    )
    def test_square_and_add_as_published(self, counts: tuple[int, int, int, int], wanted: tuple[float, float]) -> None:
        """Newcombe (1998), Interval estimation for the difference between independent proportions, method 10: Wilson's limits."""
        limits = [stats.binomtest(k, n).proportion_ci(0.95, method="wilson") for k, n in (counts[:2], counts[2:])]
        ends = [(np.array([one.low]), np.array([one.high])) for one in limits]
        a, b = np.array([counts[0] / counts[1]]), np.array([counts[2] / counts[3]])
        low, high = square_and_add(a, ends[0], b, ends[1])
        assert (low[0], high[0]) == pytest.approx(wanted, abs=5e-5)

    def test_equal_means_of_a_group_that_varies_more_have_the_interval_of_welch(self) -> None:
        draw = np.random.default_rng(0)
        a, b = 3 * draw.normal(size=12), draw.normal(size=4000)
        a -= a.mean()
        b -= b.mean()
        (found,) = compare(*split(12, 4000), {}, {"x": same_ranks(a, b)}).differences
        wanted = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
        unit = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
        # the rest borrows 10 members' worth of the group's variance: 10 / 4000 of a few parts in a thousand
        assert (found.low, found.high) == pytest.approx((wanted.low / unit, wanted.high / unit), rel=1e-3)
        assert found.sure == 0


class TestCoverage:
    """Groups drawn again and again: how often do the intervals hold the truth, and how often is something false claimed?"""

    def holds(self, seed: int, facts: int, replicates: int, sizes: tuple[int, int] = (40, 300)) -> float:
        draw = np.random.default_rng(seed)
        shares = draw.uniform(0.05, 0.6, size=(facts, 2))
        means, spreads = draw.normal(size=(facts, 2)), draw.uniform(0.8, 1.2, size=(facts, 2))
        true = (means[:, 0] - means[:, 1]) / np.sqrt((spreads**2).mean(axis=1))
        held = 0
        for _ in range(replicates):
            drawn = [np.concatenate([draw.random(n) < p for n, p in zip(sizes, pair, strict=True)]) for pair in shares]
            numbers = [
                same_ranks(*(m + s * draw.normal(size=n) for n, m, s in zip(sizes, middle, spread, strict=True)))
                for middle, spread in zip(means, spreads, strict=True)
            ]
            found = compare(
                *split(*sizes),
                {str(k): yes(mask) for k, mask in enumerate(drawn)},
                {str(k): values for k, values in enumerate(numbers)},
            )
            wanted = {"share": shares[:, 0] - shares[:, 1], "number": true}
            held += all(one.low <= wanted[one.kind][int(one.about)] <= one.high for one in found.differences)
        return held / replicates

    def test_all_intervals_hold_at_once_as_often_as_they_say(self) -> None:
        replicates = 400
        held = self.holds(seed=1, facts=12, replicates=replicates)
        assert held >= 0.95 - MONTE_CARLO * np.sqrt(0.95 * 0.05 / replicates)

    def test_they_are_not_much_wider_than_that_needs(self) -> None:
        """Two intervals at 97.5 %: exact limits of shares hold somewhat more often than they say, never always."""
        assert self.holds(seed=2, facts=1, replicates=600, sizes=(200, 800)) < 0.99

    @pytest.mark.parametrize("size", [5, 6, 8, 25, 200])
    def test_nothing_is_claimed_of_a_group_drawn_blindly(self, size: int) -> None:
        """Long-tailed numbers and rare answers too, of which the usual intervals claim something in a third of small groups."""
        draw = np.random.default_rng(3)
        facts, replicates, n = 12, 150, 4000
        numbers = {f"{k}": Measure.of(draw.exponential(size=n) ** 2) for k in range(facts)}
        answers = {f"{k}": Category(draw.integers(10, size=n), tuple("abcdefghij")) for k in range(2)}
        rare = {"rare": yes(draw.random(n) < 0.02)}
        alarms = 0
        for _ in range(replicates):
            inside = np.zeros(n, dtype=bool)
            inside[draw.choice(n, size, replace=False)] = True
            alarms += bool(compare(inside, ~inside, answers | rare, numbers).claims)
        assert alarms / replicates <= 0.05 + MONTE_CARLO * np.sqrt(0.05 * 0.95 / replicates)


class TestCompare:
    def test_shares_and_risk_ratio_by_hand(self) -> None:
        labels = np.array([0] * 6 + [1] * 4 + [0] * 20 + [1] * 60 + [2] * 20)
        found = compare(*split(10, 100), {"label": Category(labels, ("a", "b", "c", "never"))}, {})
        by_value = {one.value: one for one in found.differences}
        assert set(by_value) == {"a", "b", "c"}
        assert (by_value["a"].inside, by_value["a"].outside) == (0.6, 0.2)
        assert by_value["a"].difference == pytest.approx(0.4)
        assert by_value["a"].ratio == pytest.approx(3)
        assert by_value["c"].ratio == 0
        level = 1 - 0.05 / 3  # three answers are compared
        here, there = (stats.binomtest(k, n).proportion_ci(level) for k, n in ((6, 10), (20, 100)))
        assert by_value["a"].low == pytest.approx(0.4 - np.hypot(0.6 - here.low, there.high - 0.2))
        assert by_value["a"].high == pytest.approx(0.4 + np.hypot(here.high - 0.6, 0.2 - there.low))

    def test_medians_in_their_own_unit_and_ranks_in_standard_deviations(self) -> None:
        values = np.array([10.0, 12, 14, 16, 1e9, 0, 1, 2, 3, 4, 5])
        (found,) = compare(*split(5, 6), {}, {"x": Measure.of(values)}).differences
        assert (found.inside, found.outside) == (14, 2.5)
        inside, outside = np.array([60, 70, 80, 90, 100]), np.array([0, 10, 20, 30, 40, 50])  # percentiles of eleven
        unit = np.sqrt((inside.var(ddof=1) + outside.var(ddof=1)) / 2)
        assert found.difference == pytest.approx((80 - 25) / unit)
        assert found.low < found.difference < found.high

    def test_turned_round_every_difference_has_the_other_sign(self) -> None:
        draw = np.random.default_rng(4)
        inside, outside = split(30, 200)
        codes, numbers = Category(draw.integers(3, size=230), tuple("abc")), {"x": Measure.of(draw.normal(size=230))}
        there = {(one.about, one.value): one for one in compare(inside, outside, {"l": codes}, numbers).differences}
        back = compare(outside, inside, {"l": codes}, numbers).differences
        assert len(there) == len(back) == 4
        for one in back:
            other = there[one.about, one.value]
            assert (one.low, one.high) == pytest.approx((-other.high, -other.low))

    def test_the_surest_come_first_and_claims_are_those_beyond_chance(self) -> None:
        draw = np.random.default_rng(5)
        inside, outside = split(50, 500)
        numbers = {
            "same": Measure.of(np.concatenate([np.linspace(-1, 1, 50), np.linspace(-1, 1, 500)])),
            "a little": Measure.of(draw.normal(size=550) + 0.9 * inside),
            "much": Measure.of(draw.normal(size=550) - 3 * inside),
        }
        found = compare(inside, outside, {}, numbers)
        assert [one.about for one in found.differences] == ["much", "a little", "same"]
        assert [one.about for one in found.claims] == ["much", "a little"]
        assert found.claims[0].sure == found.claims[0].high < 0 < found.claims[1].sure == found.claims[1].low

    def test_of_two_answers_that_mirror_each_other_only_the_more_common_is_claimed(self) -> None:
        two = np.concatenate([np.repeat([0, 1], [45, 5]), np.repeat([0, 1], [50, 450])])
        found = compare(*split(50, 500), {"label": Category(two, ("cat", "dog"))}, {})
        assert len(found.differences) == 2
        assert [one.value for one in found.claims] == ["cat"]

    def test_small_groups_make_no_claim(self) -> None:
        labels = Category(np.array([0] * 4 + [1] * 100), ("a", "b"))
        for inside, outside in (split(4, 100), split(4, 100)[::-1]):
            found = compare(inside, outside, {"label": labels}, {"x": Measure.of(labels.codes)})
            assert found.too_small
            assert found.differences == found.claims == ()
        assert compare(*split(5, 99), {"label": labels}, {}).claims

    def test_who_is_in_neither_does_not_count(self) -> None:
        inside = np.arange(300) < 20
        outside = (np.arange(300) >= 20) & (np.arange(300) < 120)
        labels = np.where(np.arange(300) < 120, np.arange(300) % 2, 2)
        found = compare(inside, outside, {"label": Category(labels, tuple("abc"))}, {"x": Measure.of(np.arange(300.0))})
        assert (found.inside, found.outside) == (20, 100)
        assert {one.value for one in found.differences} == {"a", "b", ""}
        assert next(one for one in found.differences if one.kind == "number").outside == pytest.approx(69.5)

    def test_what_is_the_same_for_all_is_not_compared(self) -> None:
        always = {"x": Category(np.zeros(30, int), ("a",)), "none": Category(np.full(30, -1), ("b",))}
        assert compare(*split(10, 20), always, {"constant": Measure.of(np.ones(30))}).differences == ()

    def test_numbers_that_are_not_known_are_left_out_one_by_one(self) -> None:
        values = np.array([1.0, 2, 3, 4, 5, np.nan, 11, 12, 13, 14, 15, np.nan])
        inside = np.arange(12) < 6
        numbers = {"x": Measure.of(values), "unknown": Measure.of(np.full(12, np.nan))}
        (found,) = compare(inside, ~inside, {}, numbers).differences
        assert (found.inside, found.outside) == (3, 13)

    def test_a_few_equal_values_prove_less_than_many_different_ones(self) -> None:
        """Five equal members could be chance: they borrow the others' spread."""
        others = np.random.default_rng(6).normal(size=1000)
        few = compare(*split(5, 1000), {}, {"x": Measure.of(np.concatenate([np.full(5, 0.5), others]))})
        many = compare(*split(100, 1000), {}, {"x": Measure.of(np.concatenate([np.full(100, 0.5), others]))})
        assert few.differences[0].sure == 0
        assert many.differences[0].sure > 0

    def test_errors_say_what_to_do(self) -> None:
        inside, outside = split(6, 6)
        with pytest.raises(DataError, match="without a common member"):
            compare(inside, inside, {}, {})
        with pytest.raises(DataError, match="Expected x of 12 examples"):
            compare(inside, outside, {}, {"x": Measure.of(np.ones(3))})
        with pytest.raises(SettingsError, match="between 0 and 1"):
            compare(inside, outside, {}, {}, level=1.0)

    def test_a_ratio_of_what_is_only_inside(self) -> None:
        def share(inside: float, outside: float) -> float:
            return Difference("share", "", "", inside, outside, 0, 0, 0, 0).ratio

        assert share(0.5, 0.0) == np.inf
        assert np.isnan(share(0.0, 0.0))


class TestPercentiles:
    def test_as_the_mean_of_weak_and_strict_ranks_of_the_others(self) -> None:
        draw = np.random.default_rng(7)
        for values in (draw.normal(size=50), draw.integers(-3, 4, size=50).astype(np.int8)):
            wanted = [
                100 * sum((other < one) + (other == one) / 2 for k, other in enumerate(values) if k != i) / 49
                for i, one in enumerate(values)
            ]
            assert percentiles(values) == pytest.approx(wanted, rel=1e-6, abs=1e-5)

    def test_what_is_unknown_stays_so_and_counts_for_none(self) -> None:
        found = percentiles(np.array([3.0, np.nan, 1.0, 2.0]))
        assert found[[0, 2, 3]].tolist() == [100, 0, 50]
        assert np.isnan(found[1])
        assert np.isnan(percentiles(np.full(3, np.nan))).all()
        assert percentiles(np.zeros(0)).shape == (0,)
