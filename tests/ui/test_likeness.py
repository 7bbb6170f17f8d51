"""Agreement of two stored answers, against a sort-and-rank oracle and against plain sets."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from explorer.store import TopList
from explorer.ui.parts import likeness

ROUNDING = 1e-12


def top(towards: list[int], away: list[int]) -> TopList:
    """A list of the strongest with falling influence; −1 marks a row of the wrong sign."""
    up, down = (np.array(rows, dtype=np.int64) for rows in (towards, away))
    up_influence = np.where(up >= 0, np.linspace(2, 1, len(up)), 0).astype(np.float32)
    down_influence = np.where(down >= 0, np.linspace(-2, -1, len(down)), 0).astype(np.float32)
    return TopList(up, up_influence, down, down_influence, 10.0, float("nan"), float("nan"))


@pytest.mark.parametrize("levels", [1, 3, 127])
def test_rank_correlation_is_that_of_sorted_ranks_with_ties(levels: int) -> None:
    draw = np.random.default_rng(levels)
    first = draw.integers(-levels, levels + 1, size=500).astype(np.int8)
    second = np.clip(first + draw.integers(-levels, levels + 1, size=500), -127, 127).astype(np.int8)
    expected = stats.spearmanr(first.astype(int), second.astype(int)).statistic
    assert likeness.spearman(first, second) == pytest.approx(expected, abs=ROUNDING)
    assert likeness.spearman(first, first) == pytest.approx(1, abs=ROUNDING)
    assert likeness.spearman(first, -first) == pytest.approx(-1, abs=ROUNDING)


def test_a_constant_row_has_no_order() -> None:
    assert np.isnan(likeness.spearman(np.zeros(5, np.int8), np.arange(5, dtype=np.int8)))


def test_overlap_counts_the_same_sign_only_and_leaves_out_marked_rows() -> None:
    first, second = top([1, 2, 3, 4], [5, 6, -1, -1]), top([2, 5, 1, 9], [6, 3, -1, -1])
    assert likeness.overlap(first, second, 4) == likeness.Overlap(shared=3, of=6)
    assert likeness.overlap(first, second, 2) == likeness.Overlap(shared=2, of=4)
    assert likeness.overlap(first, first, 50) == likeness.Overlap(shared=6, of=6)


def test_influences_by_row_have_their_signs_and_no_marked_rows() -> None:
    found = likeness.influences(top([7, 3], [5, -1]))
    assert found == {7: 2.0, 3: 1.0, 5: -2.0}
