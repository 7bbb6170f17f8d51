"""Are the columns left out the quietest ones, no more than asked for, and the rest the same as ever?"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from explorer.contracts import Queries, silent
from explorer.influence import EKFAC, columns, factors
from explorer.influence.backward import need_of
from explorer.influence.columns import needed, planned
from explorer.influence.kronecker import find
from explorer.objectives import CrossEntropy
from tests.problems import Problem
from tests.problems import problem as made

SHARE = 0.02
ROUNDING = 1e-12
"""Norms in float64, added up in two ways."""
FLOAT32 = 2e-5
"""Of the largest in a row: float32 sums over the examples in another order."""


def sure_answers(n: int, k: int) -> Tensor:
    """Logits of every kind: from uniform to so sure that the Fisher is nearly nothing."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(n, k, dtype=torch.float64, generator=draw) * torch.logspace(-1, 2, n).unsqueeze(1)


@pytest.fixture
def problem() -> Problem:
    return made("conv")


def test_norms_are_those_of_the_columns() -> None:
    outputs = sure_answers(40, 6)
    made = torch.stack(list(factors.fewest_columns(CrossEntropy(), outputs)), 2)
    found = factors.column_norms(outputs)
    assert (found - made.square().sum(1)).abs().max() < ROUNDING
    trace = CrossEntropy().loss_curvature(outputs).diagonal(dim1=1, dim2=2).sum(1)
    assert (found.sum(1) - trace).abs().max() < ROUNDING
    assert factors.column_norms(outputs[:, :1]).shape == (40, 0)


def test_the_likeliest_class_comes_first_so_that_few_columns_hold_nearly_all() -> None:
    outputs = sure_answers(200, 8)
    norms, sure = factors.column_norms(outputs), outputs.softmax(1).amax(1) > 0.9
    assert sure.sum() > 20
    assert (norms[sure][:, 0] > 0.5 * norms[sure].sum(1)).all()


@pytest.mark.parametrize("share", [1e-4, 0.02, 0.3, 0.9999])
def test_what_is_left_out_is_the_quietest_and_no_more_than_the_share(share: float) -> None:
    norms = factors.column_norms(sure_answers(50, 7))
    counts = needed(norms, share)
    dropped = [float(norms[i, c]) for i in range(50) for c in range(6) if c >= counts[i]]
    assert sum(dropped) <= share * float(norms.sum())
    loudest_dropped = max(dropped)
    for i, count in enumerate(counts):  # the last column taken is louder than any that is not
        assert count == 0 or float(norms[i, count - 1]) > loudest_dropped
    assert (needed(norms, share / 10) >= counts).all()


def test_norms_that_say_nothing_leave_nothing_out() -> None:
    for norms in (torch.zeros(3, 4), torch.full((3, 4), torch.nan)):
        assert needed(norms, 0.5).tolist() == [4, 4, 4]


def test_blocks_hold_examples_of_like_need_and_all_of_them(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "FEWEST", 5)
    subject = problem.subject()
    found = find(subject, None)
    plan = planned(subject, SHARE, 7, need_of(found), silent)
    assert sorted(plan.rows.tolist()) == list(range(len(subject.train)))
    assert len(plan.cuts) > 1
    with torch.no_grad():
        norms = factors.column_norms(subject.model(subject.train.batch(plan.rows)).double())
    counts = needed(norms, SHARE)
    taken = 0
    dropped = 0.0
    for (first, last), most in zip(pairwise((0, *plan.cuts, len(plan.rows))), plan.counts, strict=True):
        assert plan.of(first) == plan.of(last - 1) == most == max(counts[first:last])
        assert last - first >= 5 or last == len(plan.rows)
        taken += most * (last - first)
        dropped += float(norms[first:last, most:].sum())
    assert plan.mean(subject.objective, norms.shape[1] + 1) == pytest.approx(taken / len(plan.rows))
    assert plan.left_out == pytest.approx(dropped / float(norms.sum()))
    assert 0 < plan.left_out <= SHARE


def test_the_order_of_the_passes_is_seen_nowhere(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = problem.subject()
    in_order = EKFAC(tolerance=SHARE).fit(subject)
    monkeypatch.setattr(columns, "FEWEST", 5)
    sorted_ = EKFAC(tolerance=SHARE).fit(subject)
    queries = Queries(problem.test, np.arange(len(problem.test)), "label")
    a, b = (fitted.score(queries).values for fitted in (in_order, sorted_))
    # a whole block takes as many columns as its neediest example: what is left out differs, by less than the share
    assert ((a - b).abs().amax(1) <= 2 * SHARE * a.abs().amax(1)).all()
    own = sorted_.self_influence()
    again = EKFAC(tolerance=SHARE).restore(subject, sorted_.tensors(), sorted_.stats).self_influence()
    assert (own - again).abs().max() <= FLOAT32 * own.max()  # kept and put back in order, or found anew in order


def test_stats_tell_the_share_and_zero_leaves_nothing_out(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "FEWEST", 5)
    subject = problem.subject()
    some, exact = (EKFAC(tolerance=share).fit(subject).stats for share in (SHARE, 0.0))
    assert 0 < some["fisher_left_out"] <= SHARE
    assert "of it left out" in some["fisher"]
    assert exact["fisher_left_out"] == 0
    assert exact["fisher"] == "summed over classes"
    assert np.isclose(some["mean_eigenvalue"] / exact["mean_eigenvalue"], 1, atol=20 * SHARE)
    assert some["mean_eigenvalue"] < exact["mean_eigenvalue"]
