"""Are the scores what retraining says? Against real leave-one-out, every training example, on convex problems."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from torch import Tensor

from explorer.contracts import TARGETS, Queries, Target
from explorer.influence import METHODS
from explorer.influence.last_layer import LastLayer
from tests import oracles, problems

LINEAR = 0.99
"""Pearson of estimate and leave-one-out. First order leaves out the example's own leverage, at most a few per cent at
300 examples and 14 free parameters; 1 would mean no curvature beyond the first order."""
SLOPE = (0.95, 1.15)
"""Slope of leave-one-out on the estimate. Removing an example also removes its curvature, so the true effect is
1/(1 − leverage) of the estimate: above 1, by about p/n = 5 % where the examples that matter have average leverage and
more where they have more; the measure's own curvature takes a few per cent in either direction."""
TOP = 20
"""Of each sign: what a person is shown. All of them must have the sign that retraining has."""
EXACT = 1e-5
"""Share of a query's largest score, for identities that hold exactly: float32 in the product, float64 in the oracle."""
DOT_RANKS = 0.5
"""Spearman floor of the gradient product, which has no curvature to be right with (measured .73 and .89): far from chance, no more
(1/√300 = .06 is one standard error of no relation)."""

each_target = pytest.mark.parametrize("target", TARGETS)


@cache
def _refits(name: str) -> Tensor:
    return oracles.refits(problems.problem(name))


def _truth(name: str, target: Target) -> Tensor:
    return oracles.leave_one_out(problems.problem(name), _refits(name), target)


EVERY_COLUMN = {"damping": 0.0, "columns": 10_000, "share": 1.0}
"""Gauss-Newton without anything left away: these models are linear, so that it is the Hessian."""
CURVED: dict[str, dict[str, Any]] = {"last-layer": {}, "gauss-newton": EVERY_COLUMN}
"""Methods that take the whole curvature into account, exact to first order on a convex problem."""


def _scores(name: str, target: Target, method: str = "last-layer", **settings: Any) -> Tensor:
    made = problems.problem(name)
    queries = Queries(made.test, np.arange(len(made.test), dtype=np.int64), target)
    return METHODS[method](**settings).fit(made.subject()).score(queries).values.double()


@each_target
@pytest.mark.parametrize("name", ["binary", "softmax"])
@pytest.mark.parametrize("method", CURVED)
def test_logistic_regression_agrees_with_leaving_each_example_out(method: str, name: str, target: Target) -> None:
    estimate, truth = _scores(name, target, method, **CURVED[method]), _truth(name, target)
    assert estimate.shape == truth.shape
    for s, loo in zip(estimate.numpy(), truth.numpy(), strict=True):
        assert np.corrcoef(s, loo)[0, 1] > LINEAR
        assert SLOPE[0] < np.polyfit(s, loo, 1)[0] < SLOPE[1]
        order = np.argsort(s)
        assert (s[order[:TOP]] < 0).all()
        assert (loo[order[:TOP]] < 0).all()
        assert (s[order[-TOP:]] > 0).all()
        assert (loo[order[-TOP:]] > 0).all()


@each_target
def test_ridge_is_exact_once_its_own_leverage_is_put_back(target: Target) -> None:
    """For squared error, output change = first-order change / (1 − leverage), an identity and not an estimate."""
    made = problems.problem("ridge")
    head = oracles.head_of(made)
    first_order = _scores("ridge", "prediction")
    fitted = LastLayer().fit(made.subject())
    errors = head.logits(head.theta, head.train)[:, 0] - head.train_targets
    leverage = fitted.self_influence().double() / errors.square()
    output_change = first_order / (1 - leverage)
    if target == "prediction":
        expected = output_change
    else:  # −½(f − y)² before, minus the same after
        before = (head.logits(head.theta, head.test)[:, 0] - head.test_targets)[:, None]
        expected = -0.5 * before**2 + 0.5 * (before - output_change) ** 2
    truth = oracles.ridge_leave_one_out(made, target)
    assert ((expected - truth).abs().amax(1) <= EXACT * truth.abs().amax(1)).all()


@each_target
def test_the_two_oracles_of_ridge_agree(target: Target) -> None:
    """Sherman-Morrison against Newton refits: the ground the other tests stand on."""
    made = problems.problem("ridge")
    rounding = 1e-12  # both float64, conditioning about 100
    assert (_truth("ridge", target) - oracles.ridge_leave_one_out(made, target)).abs().max() < rounding


@pytest.mark.parametrize("name", ["mlp", "conv", "mlp-regression"])
def test_a_deep_model_agrees_with_refits_of_its_head(name: str) -> None:
    """On given features the head is convex too; with no extra damping the estimate is of that refit."""
    made = problems.problem(name)
    queries = Queries(made.test, np.arange(len(made.test), dtype=np.int64), "label")
    estimate = LastLayer(damping=0.0).fit(made.subject()).score(queries).values
    agreement = [spearmanr(s, loo).statistic for s, loo in zip(estimate, _truth(name, "label"), strict=True)]
    # 52 parameters for 120 to 160 examples: leverage is large, so ranks are compared and not sizes.
    assert min(agreement) > 0.95


@pytest.mark.parametrize("name", ["binary", "softmax"])
def test_gradient_dot_ranks_in_the_right_direction(name: str) -> None:
    estimate = _scores(name, "label", "gradient-dot")
    agreement = [spearmanr(s, loo).statistic for s, loo in zip(estimate, _truth(name, "label"), strict=True)]
    assert np.mean(agreement) > DOT_RANKS


def test_self_influence_is_the_rise_of_an_examples_own_loss_when_it_is_left_out() -> None:
    made = problems.problem("softmax")
    head = oracles.head_of(made)
    own = LastLayer().fit(made.subject()).self_influence().numpy()
    full = oracles.losses(head.logits(oracles.refit(head, []), head.train), head.train_targets)
    rises = np.array(
        [
            float(oracles.losses(head.logits(theta, head.train[i : i + 1]), head.train_targets[i : i + 1])[0] - full[i])
            for i, theta in enumerate(_refits("softmax"))
        ]
    )
    assert (rises > 0).all()
    assert np.corrcoef(own, rises)[0, 1] > LINEAR
