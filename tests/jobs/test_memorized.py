"""Whose self-influence a run shows: the method's own, or a cheaper one's where every example would cost a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from explorer.contracts import Queries, Recipe
from explorer.influence import GradientDot, LastLayer, method_from
from explorer.jobs import memorized
from explorer.jobs.planning import Request, ingredients_of
from explorer.jobs.subject import subject_of
from explorer.store import Run, read_json
from tests.conftest import compute
from tests.fakes import ListExamples

SHORT = Request("wine", flip=0.1, recipe=Recipe(epochs=2), queries=4, method="metagradient")
FLOAT32 = 1e-5
"""Relative: sums of float32 products in blocks of another size."""


def test_every_example_s_own_way_through_the_training_is_not_asked(tmp_path: Path) -> None:
    run = compute(tmp_path, SHORT)
    data, subject = subject_of(run, ingredients_of(run))
    table = run.table("memorization")
    assert read_json(run.path / "summary.json")["self_influence_by"] == "last-layer"
    own = LastLayer().fit(subject).self_influence().numpy()
    np.testing.assert_allclose(table["self_influence"], own, rtol=FLOAT32)
    fitted = method_from("metagradient").fit(subject)
    values = fitted.score(Queries(data.test, np.arange(len(data.test)), "label")).values
    mean = values.mean(0).numpy()  # what helps held-out answers is still the method's
    np.testing.assert_allclose(table["held_out"], mean, atol=FLOAT32 * float(values.abs().max()))
    assert memorized.resamples(fitted) < memorized.resamples(GradientDot().fit(subject))


def test_where_the_head_is_too_large_for_a_second_opinion_gradients_say_it(wine: Run) -> None:
    _, subject = subject_of(wine, ingredients_of(wine))
    fitted = method_from("metagradient").fit(subject)
    asked = memorized.witness(fitted, None, subject)
    assert asked.name == "gradient-dot"
    assert torch.equal(asked.fitted.self_influence(), GradientDot().fit(subject).self_influence())


def test_other_methods_speak_for_themselves(wine: Run, tmp_path: Path) -> None:
    _, subject = subject_of(wine, ingredients_of(wine))
    for name in ("gradient-dot", "data-value-embedding"):
        fitted = method_from(name).fit(subject)
        assert memorized.witness(fitted, LastLayer().fit(subject), subject) == (fitted, "")
    assert "self_influence_by" not in read_json(wine.path / "summary.json")
    run = compute(tmp_path, replace(SHORT, method="data-value-embedding"))
    _, subject = subject_of(run, ingredients_of(run))
    own = method_from("data-value-embedding").fit(subject).self_influence().numpy()
    np.testing.assert_allclose(run.table("memorization")["self_influence"], own, rtol=FLOAT32)


def test_the_suspect_score_is_the_mean_loss_and_what_the_nearest_inputs_say(wine: Run) -> None:
    data = ingredients_of(wine).dataset()
    points, labels = data.train.batch(np.arange(len(data.train))).double().numpy(), np.asarray(data.train.labels)
    log, table = wine.training_log("loss"), wine.table("memorization")
    assert log is not None
    for row, point in enumerate(points):
        apart = np.linalg.norm(points - point, axis=1)
        apart[row] = np.inf
        near = np.argsort(apart, kind="stable")[: memorized.NEAREST]
        beside = -np.log(((labels[near] == labels[row]).sum() + 0.5) / (memorized.NEAREST + 1))
        assert abs(table["neighbor_loss"][row] - beside) < FLOAT32
        assert abs(table["score"][row] - log[:, row].astype(np.float64).mean() - beside) < FLOAT32
    assert read_json(wine.path / "summary.json")["basis"] == "mean loss and neighbors"


def test_wide_inputs_are_compared_along_their_main_directions() -> None:
    draw = np.random.default_rng(0)
    flat = draw.normal(size=(60, 5)) @ draw.normal(size=(5, 300))  # five directions hold all of it
    inputs = torch.tensor(flat, dtype=torch.float32)
    state = torch.random.get_rng_state()
    found = memorized.nearest_inputs(ListExamples(inputs.unbind(), np.arange(60)), 0)
    assert torch.equal(torch.random.get_rng_state(), state)
    apart = np.linalg.norm(flat[:, None] - flat, axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (found == np.argsort(apart, axis=1)[:, : memorized.NEAREST]).all()
    assert memorized.main_directions(inputs).shape[1] <= memorized.DIRECTIONS
    narrow = inputs[:, : memorized.DIRECTIONS]
    assert memorized.main_directions(narrow) is narrow
