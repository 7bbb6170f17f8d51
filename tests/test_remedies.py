"""explorer.remedies: every arm against models trained one by one, intervals against scipy, and what does not fit."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from explorer.contracts import Recipe
from explorer.errors import Cancelled, DataError, ExplorerError, SettingsError
from explorer.models import build
from explorer.objectives import CrossEntropy, SquaredError
from explorer.remedies import Arm, Change, Effect, Outcome, compare, others, paired, relabeled
from explorer.retraining import Retraining
from explorer.sources.digits import Digits
from explorer.sources.planted import Planted, Rearranged
from explorer.training import evaluate, train_epochs
from tests import oracles
from tests.fakes import ListExamples, blobs, line

ROUNDING = 2e-4
"""Of losses and measures of about 1: weights agree to 2e-5 (see test_retraining), outputs magnify them."""
EXACT = 1e-12
"""Float64 sums in another order."""
N, TEST, CLASSES = 37, 23, 3
RECIPE = Recipe(epochs=3, rate=0.1, momentum=0.9, weight_decay=0.01, batch_size=8, seed=11)
ROWS = np.array([5, 30, 2, 17])
ASKED = np.array([3, 0])
SEEDS = [4, 9]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def plan(**changes: object) -> Retraining:
    parts = {
        "fresh": lambda seed: build("mlp", (6,), CLASSES, seed),
        "train": blobs(N),
        "objective": CrossEntropy(),
        "recipe": RECIPE,
    }
    return Retraining(**(parts | changes))


def without(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.setdiff1d(np.arange(N), rows)


def alone(given: Retraining, seed: int, rows: NDArray[np.int64] | None = None, labels: object = None) -> nn.Module:
    """One model by the project's own training loop, on some rows or under other labels."""
    model = given.fresh(seed)
    train = given.train if labels is None else ListExamples(given.train.inputs, labels)
    for _ in train_epochs(model, given.objective, train, train, replace(given.recipe, seed=seed), rows=rows):
        pass
    return model


def by_plain_loop(seed: int, weights: NDArray[np.float64]) -> nn.Module:
    """SGD on Σ w·loss / Σ w of each batch, written out."""
    train, model = blobs(N), build("mlp", (6,), CLASSES, seed)
    optimizer = torch.optim.SGD(model.parameters(), 1.0, 0.9, weight_decay=0.01)
    x, y, w = torch.stack(train.inputs), torch.tensor(train.labels), torch.tensor(weights, dtype=torch.float32)
    batches = [
        order[start : start + 8]
        for epoch in (1, 2, 3)
        for order in [np.random.default_rng([seed, epoch]).permutation(N)]
        for start in range(0, N, 8)
    ]
    for k, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 + np.cos(np.pi * k / len(batches))) / 2
        optimizer.zero_grad()
        losses = nn.functional.cross_entropy(model(x[batch]), y[batch], reduction="none")
        ((w[batch] * losses).sum() / w[batch].sum()).backward()
        optimizer.step()
    return model


def check_arm(arm: Arm, models: list[nn.Module], test: ListExamples) -> None:
    """Example by example, class by class."""
    for k, model in enumerate(models):
        outputs, labels = evaluate(model, test).double(), torch.tensor(test.labels)
        losses = oracles.losses(outputs, labels)
        assert arm.loss[k] == pytest.approx(float(losses.mean()), abs=ROUNDING)
        torch.testing.assert_close(torch.tensor(arm.asked[k]), -losses[ASKED], rtol=ROUNDING, atol=ROUNDING)
        right = [int(row.argmax()) == int(label) for row, label in zip(outputs, labels, strict=True)]
        assert arm.accuracy[k] == pytest.approx(np.mean(right), abs=EXACT)
        for c in range(CLASSES):
            own = [r for r, label in zip(right, labels.tolist(), strict=True) if label == c]
            assert arm.per_class[k, c] == pytest.approx(np.mean(own), abs=EXACT)


# --- every arm is what training one model after the other gives


@pytest.mark.parametrize("action", ["relabel", "drop", "downweight"])
def test_every_arm_is_the_models_trained_one_by_one(action: str) -> None:
    given, test = plan(), blobs(TEST, seed=1)
    labels = (given.train.labels[ROWS] + [1, 2, 1, 2]) % CLASSES
    change = Change(action, ROWS, labels if action == "relabel" else None, 0.3)
    found = compare(given, change, test, ASKED, SEEDS, CLASSES)
    if action == "relabel":
        new = given.train.labels.copy()
        for row, label in zip(ROWS, labels, strict=True):
            new[row] = label
        after = [alone(given, seed, labels=new) for seed in SEEDS]
    elif action == "drop":
        after = [alone(given, seed, without(ROWS)) for seed in SEEDS]
    else:
        after = [by_plain_loop(seed, np.where(np.isin(np.arange(N), ROWS), 0.3, 1.0)) for seed in SEEDS]
    check_arm(found.before, [alone(given, seed) for seed in SEEDS], test)
    check_arm(found.after, after, test)
    check_arm(found.random, [alone(given, seed, without(others(N, ROWS, seed))) for seed in SEEDS], test)
    assert found.seeds == tuple(SEEDS)


def test_regression_has_losses_and_measures_but_no_classes() -> None:
    train, test = line(N), line(TEST, seed=1)
    given = plan(fresh=lambda seed: build("mlp", (4,), 1, seed), train=train, objective=SquaredError())
    new = train.labels.copy()
    new[ROWS] = [0.5, -1, 2, 0]
    found = compare(given, Change("relabel", ROWS, new[ROWS]), test, ASKED, SEEDS)
    for k, seed in enumerate(SEEDS):
        outputs = evaluate(alone(given, seed, labels=new), test).double()[:, 0].numpy()
        losses = (outputs - test.labels) ** 2 / 2
        assert found.after.loss[k] == pytest.approx(losses.mean(), abs=ROUNDING)
        np.testing.assert_allclose(found.after.asked[k], -losses[ASKED], atol=ROUNDING)
    assert np.isnan(found.after.accuracy).all()
    assert found.after.per_class.shape == (2, 0)
    assert np.isnan(found.effect("accuracy").mean)
    assert found.each_class() == ()


def test_random_others_are_as_many_none_of_them_changed_and_new_for_each_seed() -> None:
    drawn = {seed: others(N, ROWS, seed) for seed in range(40)}
    for rows in drawn.values():
        assert len(set(rows.tolist())) == len(ROWS)
        assert not set(rows.tolist()) & set(ROWS.tolist())
        assert rows.min() >= 0
        assert rows.max() < N
    assert len({tuple(rows) for rows in drawn.values()}) > 35
    assert set(np.concatenate(list(drawn.values())).tolist()) == set(range(N)) - set(ROWS.tolist())  # any of them
    np.testing.assert_array_equal(others(N, ROWS, 3), drawn[3])


def test_relabeled_examples_differ_in_those_labels_alone() -> None:
    train = blobs(N)
    own = train.labels.copy()
    found = relabeled(train, Change("relabel", ROWS, np.array([0, 1, 2, 0])))
    np.testing.assert_array_equal(found.labels[ROWS], [0, 1, 2, 0])
    np.testing.assert_array_equal(found.labels[without(ROWS)], own[without(ROWS)])
    np.testing.assert_array_equal(train.labels, own)
    assert torch.equal(found.batch(np.arange(N)), train.batch(np.arange(N)))
    assert found.ids.tolist() == train.ids.tolist()
    assert found.key != train.key


def test_parts_trained_apart_are_the_whole() -> None:
    change, test = Change("drop", ROWS), blobs(TEST, seed=1)
    whole = compare(plan(), change, test, ASKED, [4, 9, 2], CLASSES)
    first = compare(plan(), change, test, ASKED, [4], CLASSES)
    rest = compare(plan(), change, test, ASKED, [9, 2], CLASSES)
    assert first.and_then(rest).as_json() == whole.as_json()
    with pytest.raises(DataError, match="other seeds than 4"):
        whole.and_then(first)


# --- effects


def arms(s: int, q: int = 2) -> Outcome:
    draw = np.random.default_rng(s)
    made = [Arm(*(draw.random(shape) for shape in ((s,), (s,), (s, CLASSES), (s, q)))) for _ in range(3)]
    return Outcome(tuple(range(s)), *made)


@pytest.mark.parametrize("s", [2, 3, 10])
@pytest.mark.parametrize("against", ["before", "random"])
def test_intervals_are_those_of_the_paired_t_test(s: int, against: str) -> None:
    found = arms(s)
    other = getattr(found, against)

    def expected(a: NDArray[np.float64], b: NDArray[np.float64]) -> list[float]:
        interval = stats.ttest_rel(a, b).confidence_interval(0.95)
        return [float(np.mean(a - b)), float(interval.low), float(interval.high)]

    def same(effect: Effect, a: NDArray[np.float64], b: NDArray[np.float64]) -> None:
        np.testing.assert_allclose([effect.mean, effect.low, effect.high], expected(a, b), rtol=0, atol=1e-9)

    same(found.effect("accuracy", against), found.after.accuracy, other.accuracy)
    same(found.effect("loss", against), found.after.loss, other.loss)
    same(found.effect("asked", against), found.after.asked.mean(1), other.asked.mean(1))
    assert len(found.each_class(against)) == CLASSES
    for c, effect in enumerate(found.each_class(against)):
        same(effect, found.after.per_class[:, c], other.per_class[:, c])
    for j, effect in enumerate(found.each_asked(against)):
        same(effect, found.after.asked[:, j], other.asked[:, j])


def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    draw, trials = np.random.default_rng(0), 2000
    found = [paired(0.3 + draw.normal(size=4)) for _ in range(trials)]
    covered = np.mean([one.low <= 0.3 <= one.high for one in found])
    assert covered == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / trials))  # four standard errors


def test_one_seed_has_no_interval_and_nothing_asked_has_no_effect() -> None:
    alone_, unasked = arms(1), arms(3, q=0)
    effect = alone_.effect("loss")
    assert effect.mean == alone_.after.loss[0] - alone_.before.loss[0]
    assert np.isnan([effect.low, effect.high]).all()
    assert np.isnan(unasked.effect("asked").mean)
    assert np.isfinite(unasked.effect("loss").low)


def test_a_class_without_test_examples_is_nan_and_null() -> None:
    test = blobs(TEST, seed=1)
    kept = np.flatnonzero(test.labels != 1)
    some = ListExamples([test.inputs[row] for row in kept], test.labels[kept])
    found = compare(plan(), Change("drop", ROWS), some, np.zeros(0, dtype=np.int64), SEEDS, CLASSES)
    assert np.isnan(found.after.per_class).all(0).tolist() == [False, True, False]
    assert found.as_json()["effects"]["random"]["per_class"][1] == {"mean": None, "low": None, "high": None}
    assert found.as_json()["effects"]["before"]["asked"]["mean"] is None


def test_json_and_back() -> None:
    for found in (arms(3), arms(1), arms(2, q=0)):
        text = json.dumps(found.as_json(), allow_nan=False)
        again = Outcome.from_json(json.loads(text))
        assert json.dumps(again.as_json(), allow_nan=False) == text
        np.testing.assert_array_equal(again.random.asked, found.random.asked)
        assert again.effect("loss", "random") == found.effect("loss", "random") or len(found.seeds) == 1
    for change in (Change("relabel", ROWS, np.array([0, 1, 2, 0])), Change("downweight", ROWS, weight=0.25)):
        again_ = Change.from_json(json.loads(json.dumps(change.as_json())))
        assert again_.as_json() == change.as_json()
        np.testing.assert_array_equal(again_.rows, change.rows)


# --- on digits


def test_mending_planted_flips_beats_removing_as_many_at_random() -> None:
    data = Planted(Digits(), flip=0.25, duplicate=0).load()
    rows = np.arange(400)
    train = Rearranged(data.train, rows, data.train.labels[rows], data.train.ids[rows])
    given = plan(fresh=lambda seed: build("mlp", (1, 8, 8), 10, seed), train=train, recipe=Recipe(epochs=20), order=0)
    flipped = np.array([row for row in data.faults.flipped if row < len(rows)])
    truth = np.array([data.faults.flipped[row] for row in flipped])
    for change in (Change("relabel", flipped, truth), Change("downweight", flipped)):
        found = compare(given, change, data.test, np.arange(len(data.test)), range(4), 10)
        assert found.effect("accuracy", "random").low > 0
        assert found.effect("loss").high < 0
        assert found.effect("loss", "random").high < 0
        assert found.effect("asked", "random").mean == pytest.approx(-found.effect("loss", "random").mean, abs=1e-5)


# --- progress and what does not fit


@pytest.mark.parametrize("action", ["relabel", "drop"])
def test_progress_goes_to_its_end_and_may_stop_the_work(action: str) -> None:
    heard: list[tuple[int, int]] = []
    change = Change(action, ROWS, np.zeros(4, dtype=np.int64) if action == "relabel" else None)
    compare(
        plan(), change, blobs(TEST, seed=1), ASKED, SEEDS, CLASSES, lambda done, total, _: heard.append((done, total))
    )
    assert {total for _, total in heard} == {3 * 2 * 3}  # arms, seeds, epochs
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert heard[-1][0] == 18

    def stop(done: int, total: int, note: str) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        compare(plan(), change, blobs(TEST, seed=1), ASKED, SEEDS, CLASSES, stop)


@pytest.mark.parametrize(
    ("parts", "error", "said"),
    [
        ({"action": "keep"}, SettingsError, "relabel, drop, downweight"),
        ({"rows": np.array([], dtype=np.int64)}, DataError, "at least one"),
        ({"rows": np.array([3, 3])}, DataError, "each once"),
        ({"rows": np.array([-1, 3])}, DataError, ">= 0"),
        ({"rows": np.array([0.5])}, DataError, "whole"),
        ({"labels": np.array([1, 1, 1, 1])}, SettingsError, "nothing else"),
        ({"action": "relabel"}, SettingsError, "its new label"),
        ({"action": "relabel", "labels": np.array([1])}, DataError, "each of 4 rows"),
        ({"action": "downweight", "weight": 0.0}, SettingsError, "drop them"),
        ({"action": "downweight", "weight": 1.0}, SettingsError, "between 0 and 1"),
        ({"action": "downweight", "weight": float("nan")}, SettingsError, "nan"),
    ],
)
def test_a_change_is_checked_when_it_is_made(parts: dict, error: type[ExplorerError], said: str) -> None:
    with pytest.raises(error, match=said):
        Change(**({"action": "drop", "rows": ROWS} | parts))


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"change": Change("drop", np.array([N]))}, DataError, f"below {N}"),
        ({"change": Change("drop", np.arange(N // 2 + 1))}, DataError, "at most half"),
        ({"change": Change("relabel", ROWS, np.array([0, 1, 2, 3]))}, DataError, "0 to 2"),
        ({"change": Change("relabel", ROWS, np.array([0, 1, -1, 2]))}, DataError, "0 to 2"),
        ({"change": Change("relabel", ROWS, np.array([0.5, 1, 1, 2]))}, DataError, "float64"),
        ({"asked_rows": np.array([TEST])}, DataError, f"0 to {TEST - 1}"),
        ({"seeds": []}, DataError, "seeds"),
        ({"seeds": [1, 1]}, DataError, "seeds"),
        ({"classes": 0}, DataError, "0 classes"),
        ({"classes": 2}, DataError, "2 classes"),
        ({"test": ListExamples([], np.zeros(0, dtype=np.int64))}, DataError, "0 examples"),
    ],
)
def test_what_does_not_fit_is_named(changed: dict, error: type[ExplorerError], said: str) -> None:
    given = {
        "plan": plan(),
        "change": Change("drop", ROWS),
        "test": blobs(TEST, seed=1),
        "asked_rows": ASKED,
        "seeds": SEEDS,
        "classes": CLASSES,
    }
    with pytest.raises(error, match=said):
        compare(**(given | changed))


def test_new_targets_of_a_regression_are_finite() -> None:
    given = plan(fresh=lambda seed: build("mlp", (4,), 1, seed), train=line(N), objective=SquaredError())
    with pytest.raises(DataError, match="finite"):
        compare(given, Change("relabel", ROWS, np.array([0, 1, 2, np.nan])), line(TEST), ASKED, SEEDS)


def test_arms_have_a_row_for_each_seed() -> None:
    with pytest.raises(DataError, match="per_class"):
        Arm(np.zeros(3), np.zeros(3), np.zeros((2, 4)), np.zeros((3, 1)))
    with pytest.raises(DataError, match="2 seeds"):
        Outcome((0, 1), *(Arm(np.zeros(3), np.zeros(3), np.zeros((3, 4)), np.zeros((3, 1))) for _ in range(3)))
