"""Each score against the behavior it is for: examples that were learned, forgotten, or known by heart, planted as arrays."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from explorer import memorization
from explorer.contracts import Recipe
from explorer.errors import DataError, SettingsError
from explorer.models import build
from explorer.objectives import CrossEntropy, SquaredError
from explorer.relearning import input_gradients, train_on_held_out
from explorer.training import evaluate, train_epochs
from tests.fakes import ListExamples, blobs, line

ROUNDING = 1e-12
FLOAT32 = 1e-5
"""float32 sums of a few numbers in another order."""
BENT = 2e-2
"""Differences of float32 gradients over a step of 1e-3: rounding of 1e-7 against changes of 1e-4 and more."""

EASY, LATE, NEVER, FORGOTTEN = range(4)
CORRECT = np.array(
    [[1, 0, 0, 1], [1, 0, 0, 0], [1, 0, 0, 1], [1, 1, 0, 0], [1, 1, 0, 1], [1, 1, 0, 1]]
)  # [epochs, example]
LOSS = np.where(CORRECT == 1, 0.05, 2.0)


def test_what_is_learned_late_or_never_scores_higher_everywhere() -> None:
    confidence = np.exp(-LOSS)
    for score in (
        memorization.csl(LOSS),
        memorization.mean_unconfidence(confidence),
        memorization.mean_max_probability(confidence),
        memorization.mean_inaccuracy(CORRECT),
        memorization.el2n(1 - confidence, early=3),
        memorization.entropy(-np.log(confidence)),
    ):
        assert score[EASY] < score[FORGOTTEN] <= score[LATE] <= score[NEVER]
    np.testing.assert_allclose(memorization.mean_inaccuracy(CORRECT), [0, 1 / 2, 1, 1 / 3], rtol=ROUNDING)
    np.testing.assert_allclose(memorization.final_loss(LOSS), LOSS[-1], rtol=ROUNDING)


def test_forgetting_counts_right_answers_that_turned_wrong() -> None:
    expected = []
    for column in CORRECT.T:
        events = sum(1 for a, b in itertools.pairwise(column) if a and not b)
        expected.append(events if column.any() else 4)  # at most 3 in six epochs
    assert memorization.forgetting_events(CORRECT).tolist() == expected == [0, 0, 4, 2]
    assert memorization.forgetting_events([[True, False]]).tolist() == [0, 1]


def test_el2n_looks_at_the_first_tenth_of_the_epochs() -> None:
    lengths = np.arange(40.0).reshape(20, 2)
    np.testing.assert_allclose(memorization.el2n(lengths), lengths[:2].mean(0), rtol=ROUNDING)
    np.testing.assert_allclose(memorization.el2n(lengths[:5]), lengths[0], rtol=ROUNDING)
    with pytest.raises(SettingsError, match="found 21"):
        memorization.el2n(lengths, early=21)


def test_pre_memorization_error_stops_where_the_loss_falls_under_the_threshold() -> None:
    # right while unsure; wrong until known by heart; known at once; never known; known, then lost, then wrong
    loss = np.array([[1.0, 3.0, 0.01, 2.0, 3.0], [0.5, 2.0, 0.01, 2.0, 0.05], [0.05, 0.05, 0.01, 2.0, 3.0]])
    right = np.array([[1, 0, 1, 0, 0], [1, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert memorization.pre_memorization_error(loss, right) == pytest.approx([0, 1, 0, 2 / 3, 1])
    with pytest.raises(DataError, match="right answers"):
        memorization.pre_memorization_error(loss, right[:2])


def test_consistency_ignores_ratios_at_which_an_example_was_never_out() -> None:
    found = memorization.consistency([[1.0, 0.5, np.nan, np.nan], [0.5, 0.0, 0.25, np.nan]])
    np.testing.assert_allclose(found, [0.25, 0.75, 0.75, np.nan])
    with pytest.raises(DataError, match=r"0\.\.1"):
        memorization.consistency([[2.0]])


def test_the_log_has_what_the_scores_need() -> None:
    train, test = blobs(30), blobs(5, seed=1)
    model = build("mlp", (6,), 3, 0)
    for _, log in train_epochs(model, CrossEntropy(), train, test, Recipe(epochs=2)):
        p = evaluate(model, train).double().softmax(1).numpy()
        own = np.eye(3)[train.labels]
        np.testing.assert_allclose(log.max_probability, p.max(1), rtol=FLOAT32)
        np.testing.assert_allclose(log.entropy, -(p * np.log(p)).sum(1), rtol=FLOAT32)
        np.testing.assert_allclose(log.el2n, np.sqrt(((p - own) ** 2).sum(1)), rtol=FLOAT32)
        for columns in memorization.PROXIES.values():
            assert all(getattr(log, column).shape == (30,) for column in columns.split(", "))
    for _, log in train_epochs(build("mlp", (4,), 1, 0), SquaredError(), line(9), line(3), Recipe(epochs=1, rate=1e-3)):
        assert np.isnan(log.el2n).all()


def test_neighbors_of_another_label_make_a_label_unlikely() -> None:
    labels = np.array([0, 0, 0, 1, 1])
    rows = np.array([[1, 2], [0, 2], [0, 3], [0, 1], [3, -1]])
    found = memorization.neighbor_loss(labels, rows)
    np.testing.assert_allclose(found, -np.log([2.5 / 3, 2.5 / 3, 1.5 / 3, 0.5 / 3, 1.5 / 2]), rtol=ROUNDING)
    near = memorization.neighbor_loss(labels, rows, np.array([[1, 1], [1, 1], [1, 3], [1, 1], [0.0, np.inf]]))
    np.testing.assert_allclose(near[2], -np.log((2 * 0.75 + 0.5) / 3), rtol=ROUNDING)
    np.testing.assert_allclose(np.delete(near, 2), np.delete(found, 2), rtol=ROUNDING)
    alone = memorization.neighbor_loss([0, 1], [[-1], [-1]])
    np.testing.assert_allclose(alone, np.log(2), rtol=ROUNDING)
    with pytest.raises(DataError, match="up to 5"):
        memorization.neighbor_loss(labels, np.full((5, 1), 5))


def test_two_witnesses_add_their_nats() -> None:
    found = memorization.suspect_score(np.zeros(4), LOSS, np.arange(4.0))
    assert found.basis == "mean loss and neighbors"
    np.testing.assert_allclose(found.score, LOSS.mean(0) + np.arange(4.0), rtol=ROUNDING)
    with pytest.raises(DataError, match="neighbors of 4"):
        memorization.suspect_score(np.zeros(4), LOSS, np.zeros(3))


# --- of the model


def test_input_curvature_is_that_of_a_loop() -> None:
    examples, model = blobs(7), build("mlp", (6,), 3, 0)
    before = copy.deepcopy(model.state_dict())
    model.train()
    gradients = input_gradients(model, CrossEntropy(), examples)
    found = memorization.input_curvature(gradients, 7, (6,), seed=3, step=1e-2)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    twin = copy.deepcopy(model).double().eval()
    for row in range(7):
        draw = np.random.default_rng([3, row])
        total = 0.0
        for _ in range(10):
            v = torch.tensor(draw.integers(0, 2, (6,)) * 2.0 - 1.0)
            pair = []
            for shift in (0.0, 1e-2):
                x = (examples.inputs[row].double() + shift * v).requires_grad_(True)
                nn.functional.cross_entropy(twin(x[None]), torch.tensor([int(examples.labels[row])])).backward()
                pair.append(x.grad)
            total += float((pair[1] - pair[0]).square().sum())
        assert found[row] == pytest.approx(total / 10, rel=BENT)


def test_input_curvature_of_a_quadratic_loss_is_known_and_blocks_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bends = np.linspace(1, 3, 10)  # gradient a x, so |a h v|² = a² h² d

    def gradients(rows: np.ndarray, shift: np.ndarray | None) -> np.ndarray:
        return bends[rows, None] * (1.0 if shift is None else 1.0 + shift.astype(np.float64)) * np.ones(4)

    found = memorization.input_curvature(gradients, 10, (4,))
    np.testing.assert_allclose(found, bends**2 * 1e-6 * 4, rtol=FLOAT32)
    monkeypatch.setattr(memorization.proxies, "BLOCK", 3)
    np.testing.assert_array_equal(memorization.input_curvature(gradients, 10, (4,)), found)
    with pytest.raises(SettingsError, match="direction"):
        memorization.input_curvature(gradients, 10, (4,), directions=0)
    with pytest.raises(DataError, match="finite"):
        memorization.input_curvature(lambda rows, shift: np.full((len(rows), 4), np.nan), 10, (4,))


def test_tokens_have_no_input_gradient() -> None:
    tokens = ListExamples([torch.tensor([1, 2])], np.array([0]))
    with pytest.raises(SettingsError, match="real numbers"):
        input_gradients(nn.Linear(2, 2), CrossEntropy(), tokens)(np.array([0]), None)


@pytest.mark.slow
def test_held_out_training_undoes_what_only_a_wrong_label_taught() -> None:
    train, held_out = blobs(60), blobs(200, seed=5)
    train.labels[:6] = (train.labels[:6] + 1) % 3
    model, recipe = build("mlp", (6,), 3, 0), Recipe(epochs=60, rate=0.1, batch_size=16)
    for _ in train_epochs(model, CrossEntropy(), train, held_out, recipe):
        pass
    weights = copy.deepcopy(model.state_dict())
    before, after = train_on_held_out(model, CrossEntropy(), train, held_out, recipe)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    again = copy.deepcopy(model)
    for _ in train_epochs(again, CrossEntropy(), held_out, train, replace(recipe, epochs=10, rate=0.02)):
        pass
    targets = torch.tensor(train.labels)
    expected = nn.functional.cross_entropy(evaluate(again, train), targets, reduction="none")
    expected -= nn.functional.cross_entropy(evaluate(model, train), targets, reduction="none")
    found = memorization.holdout_retraining(before, after)
    np.testing.assert_allclose(found, expected, atol=FLOAT32)
    assert memorization.detection(found, np.arange(60) < 6).auc > 0.8  # measured .90; chance .5
    with pytest.raises(DataError, match="before, 60"):
        memorization.holdout_retraining(before, after[:3])
