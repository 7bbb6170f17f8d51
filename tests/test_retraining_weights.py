"""Weights of single examples in explorer.retraining, who watches a training, and outputs of its models: against masks, rates, loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from explorer.contracts import Recipe
from explorer.errors import DataError
from explorer.influence.replay import Network
from explorer.models import build
from explorer.objectives import CrossEntropy
from explorer.retraining import Retraining, outputs_at, random_masks, retrain
from explorer.training import train_epochs
from tests.fakes import blobs

ROUNDING = 2e-5
"""Of weights about 1: float32 sums in another order (6e-8), over two dozen steps with momentum."""
N = 37
RECIPE = Recipe(epochs=3, rate=0.1, momentum=0.9, weight_decay=0.01, batch_size=8, seed=11)
ROWS = np.array([5, 30, 2, 17])


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def plan(**changes: object) -> Retraining:
    parts = {
        "fresh": lambda seed: build("mlp", (6,), 3, seed),
        "train": blobs(N),
        "objective": CrossEntropy(),
        "recipe": RECIPE,
    }
    return Retraining(**(parts | changes))


def trained(
    given: Retraining, masks: NDArray[np.bool_], seeds: list[int], weights: NDArray[np.float64] | None = None
) -> list[torch.Tensor]:
    one = np.zeros(1, dtype=np.int64)
    blocks = list(retrain(given, masks, seeds, given.train, one, weights=weights))
    found = {int(m): thetas for block in blocks for m, thetas in zip(block.models, block.weights, strict=True)}
    return [found[number] for number in range(len(masks))]


EVERYTHING = np.ones((1, N), dtype=bool)


@pytest.mark.parametrize("removal", ["leaves", "zero"])
def test_weight_0_is_to_leave_and_weight_1_is_to_stay_to_the_bit(removal: str) -> None:
    masks = random_masks(N, 4, 0.5, 0)
    masks[0], masks[1] = True, np.arange(N) == 4
    given, seeds = plan(removal=removal), [0, 1, 0, 1]
    weighted = trained(given, np.ones_like(masks), seeds, masks.astype(np.float64))
    both = trained(
        given, masks, seeds, np.where(masks, 1.0, 0.3)
    )  # who is left out counts nothing, whatever the weight
    for found, other, expected in zip(weighted, both, trained(given, masks, seeds), strict=True):
        assert torch.equal(found, expected)
        assert torch.equal(other, expected)


def test_a_tiny_weight_is_nearly_to_leave() -> None:
    tiny, size = 1e-6, 1e-5  # 15 batches, each with a pull by a millionth of a gradient of about 1
    weights = np.ones((2, N))
    weights[0, ROWS], weights[1, ROWS] = tiny, 0
    nearly, left = trained(plan(), np.ones((2, N), dtype=bool), [4, 4], weights)
    assert 0 < float((nearly - left).abs().max()) < size


def test_zero_divides_a_weighted_batch_by_all_of_it() -> None:
    """Half the weight everywhere, and the batch as divisor, is half the gradient: half the rate without decay."""
    recipe, half = replace(RECIPE, weight_decay=0.0), np.full((1, N), 0.5)
    found = trained(plan(removal="zero", recipe=recipe), EVERYTHING, [4], half)[0]
    slow = trained(plan(recipe=replace(recipe, rate=0.05)), EVERYTHING, [4])[0]
    torch.testing.assert_close(found, slow, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("weight", [0.5, 0.01])
def test_a_weighted_mean_does_not_know_a_common_factor(weight: float) -> None:
    """Not even one so small that the weights of a batch sum to less than 1."""
    same = trained(plan(), EVERYTHING, [4], np.full((1, N), weight))[0]
    torch.testing.assert_close(same, trained(plan(), EVERYTHING, [4])[0], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, np.nan])
def test_weights_outside_0_to_1_are_refused(wrong: float) -> None:
    weights = np.ones((1, N))
    weights[0, 3] = wrong
    with pytest.raises(DataError, match=r"weights in 0\.\.1"):
        trained(plan(), EVERYTHING, [0], weights)


def test_weights_fit_the_masks_and_keep_something() -> None:
    with pytest.raises(DataError, match="as the masks"):
        trained(plan(), EVERYTHING, [0], np.ones((2, N)))
    with pytest.raises(DataError, match="keep an example"):
        trained(plan(), EVERYTHING, [0], np.zeros((1, N)))


def test_who_watches_hears_every_model_after_every_epoch() -> None:
    heard: dict[tuple[int, int], torch.Tensor] = {}

    def watch(models: NDArray[np.int64], epoch: int, weights: torch.Tensor) -> None:
        for number, theta in zip(models, weights, strict=True):
            assert (int(number), epoch) not in heard
            heard[int(number), epoch] = theta.clone()

    given, masks, seeds = plan(), np.ones((3, N), dtype=bool), [0, 1, 0]
    masks[2, :9] = False
    one = np.zeros(1, dtype=np.int64)
    final = {
        int(m): w
        for b in retrain(given, masks, seeds, given.train, one, watch=watch)
        for m, w in zip(b.models, b.weights, strict=True)
    }
    assert set(heard) == {(m, epoch) for m in range(3) for epoch in (1, 2, 3)}
    for m in range(3):
        assert torch.equal(heard[m, 3], final[m])
    model, rows = given.fresh(0), np.flatnonzero(masks[2])
    for state, _ in train_epochs(model, given.objective, given.train, given.train, replace(RECIPE, seed=0), rows=rows):
        flat = torch.cat([tensor.flatten() for tensor in state.parameters.values()])
        torch.testing.assert_close(heard[2, state.epoch], flat, rtol=0, atol=ROUNDING)


def test_outputs_of_many_examples_are_those_of_all_at_once() -> None:
    examples, model = blobs(1100, seed=2), build("mlp", (6,), 3, 0)  # three batches, the last one short
    network = Network(model, model.state_dict())
    found = outputs_at(network, network.flat(model.state_dict()), examples)
    with torch.no_grad():
        torch.testing.assert_close(found, model(torch.stack(examples.inputs)), rtol=0, atol=ROUNDING)
    assert not found.requires_grad
    assert not model.training
