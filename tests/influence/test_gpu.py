"""Do methods give on a graphics card what they give without one? Skipped where torch sees none.

EXPLORER_TEST_DEVICE=cpu runs the same tests without a card, to see that they work.
"""

import os

import numpy as np
import pytest
import torch

from explorer.contracts import TARGETS, Fitted, Method, Queries, Target
from explorer.influence import METHODS, OF_TWO_STAGES, THROUGH_TRAINING
from tests import problems

DEVICE = torch.device(os.environ.get("EXPLORER_TEST_DEVICE", "cuda"))
ELSEWHERE = 2e-3
"""Share of a query's largest |score|: float32 sums in another order, which an inverse magnifies by its condition."""
SETTINGS = {
    "conjugate-gradient": {"tolerance": 1e-5, "deflation": 10},
    "refine": {"tolerance": 1e-5},
    "arnoldi": {"projections": 10},
    "lissa": {"depth": 10},
}
"""Iterations that come to an end, so that two machines stop at the same place."""
ALONE = [name for name in METHODS if name not in (*THROUGH_TRAINING, *OF_TWO_STAGES)]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="torch sees no graphics card"),
]


def _fitted(method: str, name: str, device: torch.device) -> tuple[problems.Problem, Fitted]:
    made = problems.problem(name)
    made.model.to(device)
    chosen: Method = METHODS[method](**SETTINGS.get(method, {}))
    return made, chosen.fit(made.subject())


@pytest.mark.parametrize("name", ["softmax", "conv", "mlp-regression"])
@pytest.mark.parametrize("method", ALONE)
def test_scores_and_self_influence_are_those_of_the_processor(method: str, name: str) -> None:
    (made, there), (_, here) = (_fitted(method, name, device) for device in (DEVICE, torch.device("cpu")))
    rows = np.arange(len(made.test), dtype=np.int64)
    targets: tuple[Target, ...] = TARGETS
    for target in targets:
        found, expected = (one.score(Queries(made.test, rows, target)).values for one in (there, here))
        assert found.device.type == "cpu"
        assert ((found - expected).abs() <= ELSEWHERE * expected.abs().amax(1, keepdim=True)).all()
    own, expected = there.self_influence(), here.self_influence()
    assert ((own - expected).abs() <= ELSEWHERE * expected.max()).all()


@pytest.mark.parametrize("method", ALONE)
def test_what_was_fitted_there_is_restored_here(method: str) -> None:
    made, there = _fitted(method, "conv", DEVICE)
    kept = {name: value.cpu() for name, value in there.tensors().items()}
    home = problems.problem("conv")
    here = METHODS[method](**SETTINGS.get(method, {})).restore(home.subject(), kept, dict(there.stats))
    asked = Queries(made.test, np.arange(3, dtype=np.int64), "label")
    expected = there.score(asked).values
    assert ((here.score(asked).values - expected).abs() <= ELSEWHERE * expected.abs().amax(1, keepdim=True)).all()


@pytest.mark.parametrize("method", ALONE)
def test_twice_there_gives_the_same_bits(method: str) -> None:
    (made, first), (_, second) = (_fitted(method, "conv", DEVICE) for _ in range(2))
    asked = Queries(made.test, np.arange(3, dtype=np.int64), "label")
    assert torch.equal(first.score(asked).values, second.score(asked).values)
