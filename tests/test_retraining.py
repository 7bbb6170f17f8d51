"""explorer.retraining: every model of a batch against the one trained alone, and what is made of their measures."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from explorer.contracts import Queries, Recipe
from explorer.errors import Cancelled, DataError, ModelError, SettingsError
from explorer.influence.trajectory import Adam
from explorer.models import build
from explorer.objectives import CrossEntropy, SquaredError
from explorer.retraining import (
    Retraining,
    leave_out,
    measures,
    predictability,
    random_masks,
    retrain,
)
from explorer.sources.digits import Digits
from explorer.training import evaluate, train_epochs
from tests import oracles
from tests.fakes import ListExamples, blobs, line

ROUNDING = 2e-5
"""Of weights about 1: float32 sums in another order (6e-8), over two dozen steps with momentum."""
N, ASKED = 37, 5
RECIPE = Recipe(epochs=3, rate=0.1, momentum=0.9, weight_decay=0.01, batch_size=8, seed=11)
LEAST_SPEEDUP = 3.0
"""Of the batch of models over one after the other, in one thread: measured 4.1 to 5.6 on a busy machine."""


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def classifier(seed: int) -> nn.Module:
    return build("mlp", (6,), 3, seed)


def plan(**changes: object) -> Retraining:
    parts = {"fresh": classifier, "train": blobs(N), "objective": CrossEntropy(), "recipe": RECIPE}
    return Retraining(**(parts | changes))


def asked(target: str = "label", examples: ListExamples | None = None) -> Queries:
    return Queries(examples or blobs(ASKED, seed=1), np.arange(ASKED, dtype=np.int64), target)


def alone(given: Retraining, mask: np.ndarray, seed: int, order: int | None = None) -> nn.Module:
    """The same model by the project's own training loop, one after the other."""
    model = given.fresh(seed)
    recipe = replace(given.recipe, seed=seed if order is None else order)
    rows = np.flatnonzero(mask)
    for _ in train_epochs(model, given.objective, given.train, blobs(2, seed=1), recipe, rows=rows):
        pass
    return model


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def trained(given: Retraining, masks: np.ndarray, seeds: list[int]) -> Tensor:
    queries = asked()
    blocks = list(retrain(given, masks, seeds, queries.examples, queries.rows))
    weights = torch.empty(len(masks), blocks[0].weights.shape[1])
    for block in blocks:
        weights[torch.from_numpy(block.models)] = block.weights
    return weights


def subsets(count: int) -> np.ndarray:
    """Random halves, one single example (most of its batches are emptied), and everything."""
    masks = random_masks(N, count, 0.5, 0)
    masks[0] = True
    masks[1] = np.arange(N) == 4
    return masks


# --- each model is the one trained alone


@pytest.mark.parametrize("order", [None, 5])
def test_every_model_is_the_one_that_the_training_loop_makes(order: int | None) -> None:
    given, masks, seeds = plan(order=order), subsets(6), [0, 1, 0, 2, 1, 0]
    found = trained(given, masks, seeds)
    for weights, mask, seed in zip(found, masks, seeds, strict=True):
        torch.testing.assert_close(weights, flat(alone(given, mask, seed, order)), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("kind", ["cnn", "regression"])
def test_convolutions_and_regression_too(kind: str) -> None:
    if kind == "cnn":
        given = plan(fresh=lambda seed: build("cnn", (1, 8, 8), 3, seed), train=blobs(N, (1, 8, 8)))
        queries = asked(examples=blobs(ASKED, (1, 8, 8), seed=1))
    else:
        given = plan(fresh=lambda seed: build("mlp", (4,), 1, seed), train=line(N), objective=SquaredError())
        queries = asked(examples=line(ASKED, seed=1))
    masks = subsets(3)[[0, 2]]
    found = measures(given, masks, [3, 3], queries)
    for row, mask in zip(found, masks, strict=True):
        model, recipe = given.fresh(3), replace(given.recipe, seed=3)
        rows = np.flatnonzero(mask)
        for _ in train_epochs(model, given.objective, given.train, queries.examples, recipe, rows=rows):
            pass
        labels = torch.tensor(queries.examples.labels)
        expected = oracles.measures(evaluate(model, queries.examples).double(), labels, "label")
        torch.testing.assert_close(row.double(), expected, rtol=1e-3, atol=1e-4)  # the loss of ROUNDING in the weights


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_zero_keeps_the_divisor_of_the_whole_batch(kind: str) -> None:
    """The other reading of a removal, and the other optimizer, written out by torch's own."""
    adam = Adam(weight_decay=0.01) if kind == "adam" else None
    given, masks = plan(removal="zero", optimizer=adam), subsets(4)
    found = trained(given, masks, [7] * 4)
    x, y = torch.stack(given.train.inputs), torch.tensor(given.train.labels)
    for weights, mask in zip(found, torch.from_numpy(masks), strict=True):
        model = classifier(7)
        if adam is None:
            optimizer = torch.optim.SGD(model.parameters(), 1.0, 0.9, weight_decay=0.01)
        else:
            optimizer = torch.optim.Adam(model.parameters(), 1.0, weight_decay=0.01)
        rows = [
            order[start : start + 8]
            for epoch in (1, 2, 3)
            for order in [np.random.default_rng([7, epoch]).permutation(N)]
            for start in range(0, N, 8)
        ]
        for k, batch in enumerate(rows):
            optimizer.param_groups[0]["lr"] = 0.1 * (1 + np.cos(np.pi * k / len(rows))) / 2
            optimizer.zero_grad()
            losses = nn.functional.cross_entropy(model(x[batch]), y[batch], reduction="none")
            ((losses * mask[batch]).sum() / len(batch)).backward()
            optimizer.step()
        # Adam divides by a moment that starts at nothing: it magnifies rounding where gradients are tiny
        torch.testing.assert_close(weights, flat(model), rtol=0, atol=ROUNDING * (50 if adam else 1))


def test_adam_counts_only_the_steps_a_model_takes() -> None:
    given = plan(optimizer=Adam(eps=1e-3))
    masks = subsets(2)[[1]]
    model = classifier(7)
    optimizer = torch.optim.Adam(model.parameters(), 1.0, eps=1e-3)
    x, y = torch.stack(given.train.inputs), torch.tensor(given.train.labels)
    for epoch in (1, 2, 3):
        batch = np.flatnonzero(np.random.default_rng([7, epoch]).permutation(N) == 4)[0] // 8
        optimizer.param_groups[0]["lr"] = 0.1 * (1 + np.cos(np.pi * ((epoch - 1) * 5 + batch) / 15)) / 2
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[[4]]), y[[4]]).backward()
        optimizer.step()
    torch.testing.assert_close(trained(given, masks, [7])[0], flat(model), rtol=0, atol=50 * ROUNDING)


def test_blocks_change_nothing_and_name_their_models() -> None:
    queries, masks, seeds = asked(), subsets(5), [1, 0, 1, 1, 0]
    large, small = plan(), plan(memory=0.001)
    whole = list(retrain(large, masks, seeds, queries.examples, queries.rows))
    parts = list(retrain(small, masks, seeds, queries.examples, queries.rows))
    assert [block.models.tolist() for block in whole] == [[1, 4], [0, 2, 3]]
    assert [block.models.tolist() for block in parts] == [[1], [4], [0], [2], [3]]
    assert [block.outputs.shape for block in whole] == [(2, ASKED, 3), (3, ASKED, 3)]
    torch.testing.assert_close(
        measures(large, masks, seeds, queries), measures(small, masks, seeds, queries), rtol=1e-3, atol=1e-4
    )


# --- what is asked, and what removing did


def test_the_answer_asked_about_is_that_of_the_model_explained() -> None:
    given, masks = plan(), subsets(3)
    model = alone(given, masks[0], 0)
    queries = asked("prediction")
    answers = model(torch.stack(queries.examples.inputs)).argmax(1)
    found = measures(given, masks, [0, 0, 0], queries, model)
    for row, mask in zip(found, masks, strict=True):
        outputs = evaluate(alone(given, mask, 0), queries.examples).double()
        torch.testing.assert_close(row.double(), -oracles.losses(outputs, answers), rtol=1e-3, atol=1e-4)
    with pytest.raises(SettingsError, match="model"):
        measures(given, masks, [0, 0, 0], queries)


def test_leaving_out_is_before_minus_after() -> None:
    given, groups, seeds = plan(), [np.array([4]), np.array([0, 1, 2, 3])], [3, 8]
    found = leave_out(given, groups, seeds, asked())
    assert found.shape == (2, 2, ASKED)
    masks = np.ones((3, N), dtype=bool)
    masks[1, 4] = masks[2, :4] = False
    for effect, seed in zip(found, seeds, strict=True):
        said = measures(given, masks, [seed] * 3, asked())
        torch.testing.assert_close(effect, said[0] - said[1:], rtol=1e-3, atol=1e-4)


def test_random_masks_keep_what_they_say_and_repeat() -> None:
    masks = random_masks(100, 40, 0.9, 3)
    assert masks.shape == (40, 100)
    assert (masks.sum(1) == 90).all()
    assert len({mask.tobytes() for mask in masks}) == 40
    assert (masks == random_masks(100, 40, 0.9, 3)).all()
    assert (masks != random_masks(100, 40, 0.9, 4)).any()
    for count, kept in ((0, 0.5), (3, 0.0), (3, 1.2)):
        with pytest.raises(SettingsError, match="subset"):
            random_masks(100, count, kept, 0)


# --- predictability


def test_predictability_is_the_mean_agreement_of_pairs_of_trainings() -> None:
    draws = np.random.default_rng(0)
    effects = draws.normal(size=(1, 12, 7)) + 0.8 * draws.normal(size=(4, 12, 7))
    effects[:, :, 3] = effects[:, :, 3].round()  # ties
    found = predictability(effects)
    expected = [
        np.mean([spearmanr(effects[a, :, q], effects[b, :, q]).statistic for a, b in combinations(range(4), 2)])
        for q in range(7)
    ]
    rounding = 1e-12
    np.testing.assert_allclose(found.per_query, expected, rtol=0, atol=rounding)
    assert found.mean == pytest.approx(np.mean(expected))
    assert found.low < found.mean < found.high
    assert found.ceiling == pytest.approx((4 * found.mean / (1 + 3 * found.mean)) ** 0.5)
    shifted = predictability(effects + draws.normal(size=(4, 1, 7)))
    np.testing.assert_allclose(shifted.per_query, expected, rtol=0, atol=rounding)


def test_the_interval_covers_chance_and_the_ceiling_is_what_the_true_effect_reaches() -> None:
    draws = np.random.default_rng(1)
    noise = predictability(draws.normal(size=(3, 30, 20)))
    assert noise.low < 0 < noise.high
    true = draws.normal(size=(1, 4000, 1))
    effects = true + draws.normal(size=(3, 4000, 1))
    reached = spearmanr(true[0, :, 0], effects.mean(0)[:, 0]).statistic
    # Spearman-Brown is for Pearson; of normal effects ranks agree with it to a few hundredths
    assert predictability(effects).ceiling == pytest.approx(reached, abs=0.03)
    same = predictability(np.repeat(true[:, :50], 2, axis=0))
    assert same.mean == pytest.approx(1)
    assert same.ceiling == pytest.approx(1)
    assert np.isnan(predictability(np.zeros((2, 5, 2))).mean)


# --- interruption and refusal


class CancelAt:
    def __init__(self, k: int) -> None:
        self.k, self.calls = k, 0
        self.told: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int, note: str) -> None:
        assert 0 <= done <= total
        assert note
        self.told.append((done, total))
        if self.calls == self.k:
            raise Cancelled
        self.calls += 1


def test_it_can_be_cancelled_and_says_how_far_it_is() -> None:
    given, masks = plan(memory=0.001), subsets(3)
    whole = CancelAt(10**9)
    measures(given, masks, [0, 0, 0], asked(), progress=whole)
    assert whole.told == sorted(whole.told)
    assert whole.told[0] == (0, 9)
    assert whole.told[-1] == (9, 9)
    state = torch.random.get_rng_state().tolist()
    for k in range(whole.calls):
        with pytest.raises(Cancelled):
            measures(given, masks, [0, 0, 0], asked(), progress=CancelAt(k))
    assert torch.random.get_rng_state().tolist() == state


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (lambda: trained(plan(), np.ones((2, 3), dtype=bool), [0, 0]), DataError, "masks"),
        (lambda: trained(plan(), np.ones((2, N)), [0, 0]), DataError, "bool"),
        (lambda: trained(plan(), np.ones((2, N), dtype=bool), [0]), DataError, "seed"),
        (lambda: trained(plan(), np.zeros((1, N), dtype=bool), [0]), DataError, "mask 0"),
        (lambda: trained(plan(recipe=replace(RECIPE, rate=1e6)), subsets(2), [0, 0]), ModelError, "1e\\+06"),
        (lambda: trained(plan(fresh=lambda s: build("mlp", (6,), 3 + s, 0)), subsets(2), [0, 1]), ModelError, "seed 1"),
        (lambda: trained(plan(fresh=with_dropout), subsets(2), [0, 0]), ModelError, "dropout"),
        (lambda: trained(plan(fresh=with_seeded_frozen), subsets(2), [0, 1]), ModelError, "'0.weight' for seed 1"),
        (lambda: leave_out(plan(), [np.array([N])], [0], asked()), DataError, "group 0"),
        (lambda: plan(removal="gone"), SettingsError, "removal"),
        (lambda: plan(memory=0.0), SettingsError, "memory"),
        (lambda: predictability(np.zeros((1, 5, 2))), DataError, "2 or more"),
        (lambda: predictability(np.full((2, 5, 2), np.nan)), DataError, "finite"),
    ],
)
def test_what_cannot_be_done_is_a_message(wrong: Callable[[], object], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        wrong()


def with_dropout(seed: int) -> nn.Module:
    return nn.Sequential(nn.Dropout(0.5), copy.deepcopy(classifier(seed)))


def with_seeded_frozen(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    model[0].weight.requires_grad_(False)
    return model


@pytest.mark.slow
def test_a_batch_of_models_is_faster_than_one_after_the_other() -> None:
    """`pytest -s -m slow -k faster tests/test_retraining.py` prints the ratio."""
    data, recipe = Digits().load(), Recipe(epochs=3)
    given = Retraining(lambda seed: build("mlp", (1, 8, 8), 10, seed), data.train, CrossEntropy(), recipe)
    masks = random_masks(len(data.train), 64, 0.99, 0)
    queries = Queries(data.test, np.arange(len(data.test), dtype=np.int64))
    measures(given, masks[:2], [0, 0], queries)  # warm
    alone_each, together = [], []
    for mask in masks[:3]:
        began = time.process_time()
        model = given.fresh(0)
        for _ in train_epochs(model, given.objective, data.train, data.test, recipe, rows=np.flatnonzero(mask)):
            pass
        alone_each.append(time.process_time() - began)
        began = time.process_time()
        measures(given, masks, [0] * len(masks), queries)
        together.append((time.process_time() - began) / len(masks))
    ratio = float(np.median(alone_each) / np.median(together))
    print(f"\nalone {np.median(alone_each):.3f} s, in a batch {np.median(together):.3f} s a model: {ratio:.1f} x")
    assert ratio > LEAST_SPEEDUP
