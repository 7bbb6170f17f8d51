"""The evidence of a run: real retrainings, the damping that predicts them best, and the same bytes whatever was missing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from explorer.contracts import Queries, Recipe
from explorer.errors import Cancelled, SettingsError
from explorer.influence import method_from
from explorer.jobs import estimate as estimates
from explorer.jobs import evidence
from explorer.jobs.pipeline import STAGES, stages_of
from explorer.jobs.planning import Request, ingredients_of, plan
from explorer.jobs.state import read_state
from explorer.jobs.subject import subject_of
from explorer.retraining import random_masks
from explorer.store import Run, read_json
from explorer.store.run import DAMPING_GRID
from explorer.training import train_epochs
from tests.conftest import compute
from tests.jobs.test_pipeline import contents

RETRAININGS = 5
ASKED = Request("wine", method="ekfac", flip=0.1, recipe=Recipe(epochs=4, seed=3), evidence=RETRAININGS, queries=6)
ROUNDING = 2e-4
"""Of log-probabilities about 1: float32 sums in another order (6e-8), over a dozen steps with momentum."""


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small run with evidence."""
    return compute(tmp_path_factory.mktemp("evidence"), ASKED)


def _masks(run: Run) -> np.ndarray:
    return random_masks(run.meta().train, RETRAININGS, 0.5, 3)


def test_outcomes_are_those_of_models_trained_alone_on_each_half(checked: Run) -> None:
    ingredients = ingredients_of(checked)
    data, subject = subject_of(checked, ingredients)
    # a batch of twice as many examples holds as many of a half as a batch of the whole did
    recipe = replace(Recipe(**checked.spec["recipe"]), batch_size=128)
    labels = torch.tensor(data.test.labels)
    measured = checked.array("evidence-measures")
    assert measured.shape == (RETRAININGS, len(data.test))
    for mask, found in zip(_masks(checked), measured, strict=True):
        assert mask.sum() == round(len(mask) / 2)
        model = ingredients.model(data)
        for _ in train_epochs(model, subject.objective, data.train, data.test, recipe, rows=np.flatnonzero(mask)):
            pass
        outputs = model(data.test.batch(np.arange(len(data.test)))).detach()
        expected = outputs.log_softmax(1).gather(1, labels[:, None])[:, 0]
        np.testing.assert_allclose(found, expected.numpy(), atol=ROUNDING, rtol=ROUNDING)


def test_the_damping_used_is_the_one_that_predicts_them_best(checked: Run) -> None:
    told = read_json(checked.path / "evidence.json")
    data, subject = subject_of(checked, ingredients_of(checked))
    queries = Queries(data.test, np.arange(len(data.test)), "label")
    masks, measured = _masks(checked), checked.array("evidence-measures")
    scores, fits = [], []
    for damping in told["dampings"]:
        values = method_from("ekfac", {"damping": damping}).fit(subject).score(queries).values.double().numpy()
        pairs = [(masks @ row, m) for row, m in zip(values, measured.T, strict=True)]
        scores.append(np.mean([spearmanr(*pair).statistic for pair in pairs]))
        fits.append(np.mean([pearsonr(*pair).statistic for pair in pairs]))
    # float32 sums may swap two predictions that are equal but for rounding: of five, in one query of all
    np.testing.assert_allclose(told["lds"], scores, atol=0.1 / len(data.test))
    np.testing.assert_allclose(told["fit"], fits, atol=ROUNDING)
    # nobody's best is far from what is used, and nothing nearer to the default is better
    assert told["used"] == told["best"]
    between = sorted([told["used"], told["default"]])
    nearer = [k for k in range(between[0], between[1] + 1) if k != told["used"]]
    assert all(fits[k] < fits[told["used"]] for k in nearer)
    assert fits[told["used"]] > max(fits) - 0.05
    assert told["dampings"] == sorted(told["dampings"])
    assert told["retrainings"] == RETRAININGS
    stats = read_json(checked.path / "fitted.json")
    assert stats["damping"] == told["dampings"][told["used"]]
    assert stats["damping_rule"] == "chosen by 5 retrainings"
    assert told["dampings"][told["default"]] == pytest.approx(0.1 * stats["mean_eigenvalue"])
    query = int(checked.plan("label")[0])
    top = checked.top(query, "label")
    assert top is not None
    given = method_from("ekfac", {"damping": stats["damping"]}).fit(subject)
    values = given.score(replace(queries, rows=np.array([query]))).values[0]
    assert top.towards_influence[0] == pytest.approx(float(values.max()), rel=1e-5)


@pytest.mark.parametrize(
    "lost",
    [
        ["evidence.json", "fitted.json", "scores/label/00000.safetensors"],
        ["evidence.json", "evidence-measures.npy"],
        ["fitted.json", "fitted.safetensors", "memorization.parquet"],
    ],
)
def test_what_is_missing_is_computed_again_to_the_same_bytes(checked: Run, tmp_path: Path, lost: list[str]) -> None:
    copy = tmp_path / checked.key
    shutil.copytree(checked.path, copy)
    for name in [*lost, "state.json"]:
        (copy / name).unlink()
    found, expected = contents(compute(tmp_path, ASKED).path), contents(checked.path)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def test_cancelled_while_retraining_nothing_is_written(checked: Run, tmp_path: Path) -> None:
    copy = tmp_path / checked.key
    shutil.copytree(checked.path, copy)
    for name in ("evidence.json", "evidence-measures.npy"):
        (copy / name).unlink()
    run = Run.at(copy)
    ingredients = ingredients_of(run)
    data, subject = subject_of(run, ingredients)
    weights = {name: values.clone() for name, values in subject.model.state_dict().items()}
    heard = []

    def cancel(done: int, total: int, note: str) -> None:
        assert 0 <= done <= total
        assert note
        heard.append(note)
        if len(heard) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        evidence.retrain(run, ingredients, data, subject, cancel)
    assert heard[0].startswith("retraining on 5 random halves, epoch 1 of 4")
    assert not run.has("evidence.json")
    assert not run.has("evidence-measures.npy")
    assert all(torch.equal(values, weights[name]) for name, values in subject.model.state_dict().items())


def test_a_damping_given_by_the_user_stays_and_is_compared(checked: Run, tmp_path: Path) -> None:
    run = compute(tmp_path, replace(ASKED, damping=0.5))
    told, other = read_json(run.path / "evidence.json"), read_json(checked.path / "evidence.json")
    np.testing.assert_array_equal(run.array("evidence-measures"), checked.array("evidence-measures"))
    assert told["by"] == "user"
    assert told["dampings"][told["used"]] == 0.5
    both = set(told["dampings"]) & set(other["dampings"])
    assert len(both) >= 11
    here, there = (dict(zip(one["dampings"], one["lds"], strict=True)) for one in (told, other))
    assert all(here[damping] == there[damping] for damping in both)
    stats = read_json(run.path / "fitted.json")
    assert (stats["damping"], stats["damping_rule"]) == (0.5, "chosen by the user")


@pytest.mark.parametrize("method", [pytest.param("refine", marks=pytest.mark.slow), "arnoldi"])
def test_methods_that_solve_have_their_damping_chosen_too(checked: Run, tmp_path: Path, method: str) -> None:
    few = {"refine": {"iterations": 15}, "arnoldi": {"projections": 20}}[method]
    run = compute(tmp_path, replace(ASKED, method=method, settings=few, queries=2))
    told, other = read_json(run.path / "evidence.json"), read_json(checked.path / "evidence.json")
    assert told["by"] == "evidence"
    assert told["queries"] == (min(evidence.FEW_QUERIES, other["queries"]) if method == "refine" else other["queries"])
    assert len(told["dampings"]) >= 11
    stats = read_json(run.path / "fitted.json")
    damping = told["dampings"][told["used"]]
    assert (stats["damping"], stats["damping_rule"]) == (damping, "chosen by 5 retrainings")
    _, subject = subject_of(run, ingredients_of(run))
    given = method_from(method, few | {"damping": damping}).fit(subject)
    row = int(run.plan("label")[0])
    top = run.top(row, "label")
    assert top is not None
    data, _ = subject_of(run, ingredients_of(run))
    values = given.score(Queries(data.test, np.array([row]), "label")).values[0]
    assert top.towards_influence[0] == pytest.approx(float(values.max()), rel=1e-3)  # solved with others, to a residual
    assert run.has(DAMPING_GRID) == (method == "arnoldi")  # a system for every example and damping takes too long


def test_a_method_without_a_damping_is_checked_and_left_as_it_is(tmp_path: Path) -> None:
    run = compute(tmp_path, replace(ASKED, method="gradient-dot"))
    told = read_json(run.path / "evidence.json")
    assert told["dampings"] == [None]
    assert told["by"] == "method"
    assert told["low"][0] <= told["lds"][0] <= told["high"][0]
    assert told["regret"] == 0
    assert "damping" not in read_json(run.path / "fitted.json")


def test_what_cannot_be_trained_again_is_said_in_words_and_the_run_goes_on(
    checked: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, subject = subject_of(checked, ingredients_of(checked))
    asked = (subject.model, subject.train, Recipe(**checked.spec["recipe"]), 12)
    assert evidence.obstacle(*asked, trained=False) == ""
    assert evidence.obstacle(*asked, trained=True).startswith("The weights come from elsewhere")
    monkeypatch.setattr(evidence, "MOST_BYTES", 1000)
    assert "parameters takes 0.0 GB to train again, over the limit" in evidence.obstacle(*asked, trained=False)
    monkeypatch.undo()
    monkeypatch.setattr(evidence, "MOST_OPERATIONS", 1000)
    assert "additions and multiplications, over the limit of 1e+03" in evidence.obstacle(*asked, trained=False)
    run = compute(tmp_path, ASKED)
    told = read_json(run.path / "evidence.json")
    assert told["retrainings"] == 0
    assert "over the limit" in told["left_out"]
    assert read_json(run.path / "fitted.json")["damping_rule"] == "0.1 x mean eigenvalue"


def test_operations_are_those_of_the_layers(checked: Run) -> None:
    _, subject = subject_of(checked, ingredients_of(checked))
    weights = sum(p.numel() for p in subject.model.parameters() if p.ndim == 2)
    expected = 3 * 2 * weights * checked.meta().train * 4  # forward and backward, multiply and add, examples, epochs
    assert evidence._operations(subject.model, subject.train, Recipe(**checked.spec["recipe"])) == expected


@pytest.mark.slow
def test_its_cost_is_estimated(checked: Run, tmp_path: Path) -> None:
    found = estimates.estimate(ASKED, tmp_path, budget=0.05)
    assert tuple(found.seconds) == tuple(found.basis) == stages_of(checked.spec)
    assert read_state(checked.path).timings.keys() == set(found.seconds)
    assert found.seconds["evidence"] is not None
    assert found.seconds["evidence"] > 0
    assert (
        found.basis["evidence"].endswith(f"of {checked.meta().train} rows")
        or found.basis["evidence"] == "tried on all rows"
    )
    sizes_ = {part.what: part.bytes for part in checked.sizes()}
    assert sum(sizes_.values()) == pytest.approx(found.disk, rel=0.1)
    without = estimates.estimate(replace(ASKED, evidence=0), tmp_path, budget=0.05)
    assert tuple(without.seconds) == STAGES
    files = ("evidence.json", "evidence-measures.npy")
    measured = sum((checked.path / name).stat().st_size for name in files)
    assert found.disk - without.disk == pytest.approx(measured, rel=0.5)


@pytest.mark.slow
def test_an_estimate_says_that_it_will_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "MOST_OPERATIONS", 1000)
    found = estimates.estimate(ASKED, tmp_path, budget=0.05)
    assert "left out: 5 retrainings take about" in found.basis["evidence"]
    assert found.seconds["evidence"] == pytest.approx(0, abs=0.5)  # one file
    assert found.parts == estimates.estimate(replace(ASKED, evidence=0), tmp_path, budget=0.05).parts


def test_few_retrainings_are_refused_before_any_worker_is_started() -> None:
    with pytest.raises(SettingsError, match=r"or 3 and more; found 2\. Ask for 12"):
        plan(replace(ASKED, evidence=2))
    with pytest.raises(SettingsError, match="found -1"):
        plan(replace(ASKED, evidence=-1))


def test_a_run_without_evidence_has_none_and_keeps_its_name(wine: Run) -> None:
    assert not wine.has("evidence.json")
    assert "evidence" not in wine.spec
