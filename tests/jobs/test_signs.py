"""Every score of memorization from one door: as made by hand, in order, and a reason for each that is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from explorer.contracts import Recipe
from explorer.errors import RunError
from explorer.jobs import further, signs, subsets
from explorer.jobs.planning import Request, ingredients_of
from explorer.jobs.subject import subject_of
from explorer.store import Run, bundle, write_bundle
from explorer.training import EpochState, train_epochs
from tests.conftest import SMALL, compute
from tests.jobs.asking import copied, stopped, work
from tests.jobs.test_pipeline import contents

FLOAT32 = 1e-4
"""Relative: float32 sums of a network in blocks of another size."""


@pytest.fixture(scope="module")
def measured(wine: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small run with the scores that cost passes, and 20 subset models."""
    run = copied(wine, tmp_path_factory.mktemp("signs"))
    signs.ask(run)
    subsets.ask(run, subsets.SubsetRequest(models=20))
    assert further.pending(run) == (signs.STAGE, subsets.STAGE)
    assert work(run).state == "done"
    return run


def test_a_run_with_everything_misses_nothing(measured: Run) -> None:
    found = signs.read(measured)
    assert list(found.table) == [*signs.SIGNS, signs.STANDARD_ERROR]
    assert len(found.table) == measured.meta().train
    assert found.missing == signs.missing(measured) == {}
    assert not further.pending(measured)
    told, counts = measured.table("memorization"), subsets.found(measured)
    assert counts is not None
    expected = {
        "self_influence": told["self_influence"],
        "harm": -told["held_out"],
        "csl": told["csl"],
        "memorization": counts.estimate.memorization,
        "consistency": 1 - counts.estimate.accuracy_out,
        signs.STANDARD_ERROR: counts.estimate.se,
    }
    for name, values in expected.items():
        np.testing.assert_allclose(signs.signs(measured)[name], values, rtol=1e-6)


def test_the_log_has_what_the_model_of_each_epoch_said(wine: Run) -> None:
    ingredients = ingredients_of(wine)
    data, _ = subject_of(wine, ingredients)
    labels, model = torch.tensor(data.train.labels), ingredients.model(data)
    for epoch, file in enumerate(sorted((wine.path / "checkpoints").glob("epoch-*"))):
        state = EpochState.from_tensors(safetensors.torch.load(file.read_bytes()))
        model.load_state_dict(dict(state.parameters))
        p = model(data.train.batch(np.arange(len(labels)))).detach().double().softmax(1)
        made = {
            "max_probability": p.amax(1),
            "entropy": -(p * p.log()).sum(1),
            "el2n": (p - torch.nn.functional.one_hot(labels, 3)).norm(dim=1),
        }
        for name, values in made.items():
            log = wine.training_log(name)
            assert log is not None
            np.testing.assert_allclose(log[epoch], values.numpy(), rtol=FLOAT32, atol=1e-5)


def test_the_curvature_is_that_of_gradients_one_by_one(measured: Run) -> None:
    data, subject = subject_of(measured, ingredients_of(measured))
    found, h = signs.signs(measured)["input_curvature"], 1e-3

    def gradient(x: torch.Tensor, y: int) -> torch.Tensor:
        point = x.clone().requires_grad_(True)
        torch.nn.functional.cross_entropy(subject.model(point[None]), torch.tensor([y])).backward()
        assert point.grad is not None
        return point.grad.double()

    for row in (0, 5, 140):
        x, y = data.train.batch(np.array([row]))[0], int(data.train.labels[row])
        draw, here = np.random.default_rng([0, row]), gradient(x, y)
        signs_drawn = [draw.integers(0, 2, x.shape) * 2.0 - 1.0 for _ in range(10)]
        moved = [gradient(x + torch.tensor(h * v, dtype=torch.float32), y) - here for v in signs_drawn]
        expected = float(np.mean([float(m.square().sum()) for m in moved]))
        # differences of float32 gradients a thousandth apart keep about three digits
        assert found[row] == pytest.approx(expected, rel=0.02, abs=1e-12)


def test_what_is_lost_in_retraining_is_the_loss_after_less_that_before(measured: Run) -> None:
    ingredients = ingredients_of(measured)
    data, subject = subject_of(measured, ingredients)
    recipe = Recipe(**measured.spec["recipe"])
    inputs, labels = data.train.batch(np.arange(len(data.train))), torch.tensor(data.train.labels)
    before = torch.nn.functional.cross_entropy(subject.model(inputs), labels, reduction="none").detach()
    model = subject_of(measured, ingredients)[1].model
    slower = replace(recipe, epochs=10, rate=recipe.rate / 5)
    for _ in train_epochs(model, subject.objective, data.test, data.test, slower):
        pass
    after = torch.nn.functional.cross_entropy(model(inputs), labels, reduction="none").detach()
    np.testing.assert_allclose(
        signs.signs(measured)["holdout_retraining"], (after - before).numpy(), rtol=FLOAT32, atol=1e-5
    )


def test_stopped_between_two_scores_it_goes_on_with_the_second(
    wine: Run, measured: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(wine, tmp_path)
    signs.ask(run)
    state = stopped(run, lambda stage, _, note: stage == signs.STAGE and note.startswith("epoch"), monkeypatch)
    assert state.state == "cancelled"
    assert list(pd.read_parquet(run.path / signs.TABLE)) == ["input_curvature"]
    assert "not measured yet" in signs.missing(run)["holdout_retraining"]
    signs.ask(run)

    def again(*_: object) -> None:
        raise AssertionError("what is there is measured again")

    monkeypatch.setattr("explorer.jobs.signs_stage._curvature", again)
    assert work(run).state == "done"
    assert contents(run.path)[signs.TABLE] == contents(measured.path)[signs.TABLE]


def test_given_weights_leave_out_what_only_a_training_has(wine: Run, tmp_path: Path) -> None:
    weights = str(wine.path / "model.safetensors")
    run = compute(tmp_path, replace(SMALL, model="mlp", weights=weights, queries=2))
    signs.ask(run)
    assert work(run).state == "done"
    found = signs.read(run)
    assert set(found.table) == {"self_influence", "harm", "input_curvature"}
    assert found.missing["csl"] == found.missing["neighbor_loss"] == "needs the training log: the weights were given"
    assert found.missing["holdout_retraining"] == "needs the recipe of the training: the weights were given"
    assert found.missing["memorization"] == "needs a training to repeat: the weights were given"
    assert set(found.table) | set(found.missing) == set(signs.SIGNS)
    assert not signs.pending(run)


def test_a_run_of_an_older_version_opens_and_says_what_it_lacks(wine: Run, tmp_path: Path) -> None:
    run = copied(wine, tmp_path)
    for file in sorted((run.path / "training").iterdir())[:1]:  # one such epoch is enough
        old = {
            name: values
            for name, values in bundle(file).items()
            if name in ("loss", "confidence", "correct", "measure")
        }
        write_bundle(file, old)
    (run.path / "damping-grid.safetensors").unlink()
    table = run.table("memorization").drop(columns="neighbor_loss")
    table.to_parquet(run.path / "memorization.parquet", index=False)
    assert run.training_log("entropy") is None
    assert run.training_log("loss") is not None
    found = signs.read(run)
    older = ("entropy", "el2n", "mean_max_probability", "neighbor_loss")
    assert {found.missing[name] for name in older} == {
        "not in this run, which an older version made: compute it again to have it"
    }
    assert {"csl", "mean_unconfidence"} <= set(found.table)
    assert work(run).state == "done"  # and starts no work


def test_a_regression_has_no_probabilities(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4)).astype(np.float32)
    y = (x @ np.array([1, -2, 0.5, 0]) + 0.1 * rng.normal(size=80)).astype(np.float32)
    np.savez(tmp_path / "r.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    run = compute(tmp_path, Request(str(tmp_path / "r.npz"), recipe=Recipe(epochs=3), queries=2))
    signs.ask(run)
    assert work(run).state == "done"
    found = signs.read(run)
    assert {found.missing[name] for name in signs.OF_CLASSES} == {"needs classes: this is a regression"}
    assert {"csl", "final_loss", "mean_inaccuracy", "input_curvature", "holdout_retraining"} <= set(found.table)


def test_what_no_file_brings_back_is_refused_in_words(wine: Run, tmp_path: Path) -> None:
    for name, changes, words in (
        ("memory", {"source": {"kind": "memory"}}, "made from objects of a Python process"),
        (
            "unfinished",
            {},
            "Expected a run that is done; found unfinished, which is interrupted. Finish it, then measure it",
        ),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spec.json").write_text(json.dumps({**wine.spec, **changes}))
        run = Run.at(tmp_path / name)
        with pytest.raises(RunError, match=words):
            signs.ask(run)
        assert set(signs.missing(run)) == set(signs.SIGNS)
        assert len(signs.signs(run)) == 0
