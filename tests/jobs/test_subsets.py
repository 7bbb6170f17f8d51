"""Memorization by retraining as a job: counts of models trained alone, stopped and resumed to the same bytes, more on request."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from explorer import jobs
from explorer.contracts import Recipe
from explorer.errors import SettingsError
from explorer.jobs import further, process, subsets
from explorer.jobs.planning import Request, ingredients_of
from explorer.jobs.state import read_state
from explorer.jobs.subject import fresh, subject_of
from explorer.jobs.subsets import SubsetRequest
from explorer.memorization import SubsetSettings
from explorer.memorization.subsets import FEWEST
from explorer.store import Run, bundle, read_json
from explorer.training import evaluate, train_epochs
from tests.conftest import compute
from tests.jobs.asking import copied, stopped, work
from tests.jobs.test_pipeline import contents
from tests.jobs.test_process import until

CLOSE = 0.002
"""Share of answers that float32 sums in another order may turn: those that are about as likely as another."""
DROPOUT = """
from torch import nn
def make():
    return nn.Sequential(nn.Linear(13, 8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 3))
"""


@pytest.fixture(scope="module")
def measured(wine: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small run with 20 subset models."""
    run = copied(wine, tmp_path_factory.mktemp("measured"))
    subsets.ask(run, SubsetRequest(models=FEWEST))
    assert work(run).state == "done"
    return run


def test_the_counts_are_those_of_models_trained_alone_on_each_subset(measured: Run) -> None:
    ingredients = ingredients_of(measured)
    data, subject = subject_of(measured, ingredients)
    settings, n = SubsetSettings(), len(data.train)
    recipe = replace(
        Recipe(**measured.spec["recipe"]), seed=settings.model_seed(0)
    )  # the order that the first 20 share
    right, labels = np.empty((FEWEST, n), dtype=bool), torch.tensor(data.train.labels)
    masks = settings.masks(n, 0, FEWEST)
    for number, mask in enumerate(masks):
        model = fresh(ingredients, data)(settings.model_seed(number))
        for _ in train_epochs(model, subject.objective, data.train, data.test, recipe, rows=np.flatnonzero(mask)):
            pass
        right[number] = (evaluate(model, data.train).argmax(1) == labels).numpy()
    counts = subsets.tally(measured)
    assert counts is not None
    assert (counts.inside == masks.sum(0)).all()
    for found, expected in ((counts.right_in, right & masks), (counts.right_out, right & ~masks)):
        assert np.abs(found - expected.sum(0)).sum() <= CLOSE * right.size
    answer = subsets.found(measured)
    assert answer is not None
    assert (answer.planned, answer.complete, answer.estimate.models) == (FEWEST, True, FEWEST)
    assert not subsets.pending(measured)
    assert read_state(measured.path).timings["subset models"] > 0


def test_seeds_draw_other_weights_and_the_run_s_own_seed_its_own(wine: Run) -> None:
    ingredients = ingredients_of(wine)
    data = ingredients.dataset()
    make = fresh(ingredients, data)
    own, other = make(int(wine.spec["seed"])).state_dict(), make(7).state_dict()
    begun = ingredients.model(data).state_dict()
    assert all(torch.equal(own[name], begun[name]) for name in begun)
    assert not any(torch.equal(other[name], begun[name]) for name in begun if "weight" in name)


def test_stopped_it_keeps_its_counts_and_goes_on_to_the_same_bytes(
    measured: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("explorer.subset_models.BLOCK", 15)  # models that share an order of batches
    broken, clean = (copied(measured, tmp_path / name) for name in ("broken", "clean"))
    for run in (broken, clean):
        subsets.ask(run, SubsetRequest(models=40))
    state = stopped(broken, lambda stage, done, _: stage == subsets.STAGE and done > 36, monkeypatch)
    assert state.state == "cancelled"
    part = subsets.found(broken)
    assert part is not None
    assert (part.estimate.models, part.planned, part.complete) == (35, 40, False)
    assert further.pending(broken) == (subsets.STAGE,)
    assert np.isfinite(part.estimate.se).all()
    for run in (broken, clean):
        assert work(run).state == "done"
    assert contents(broken.path) == contents(clean.path)


def test_a_time_is_a_time_more_each_time_it_is_asked_for(
    measured: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, brief = copied(measured, tmp_path), SubsetRequest(seconds=0.01)
    started: list[list[str]] = []
    for more in (1, 2):
        subsets.ask(run, brief)
        asked = (run.path / subsets.ASKED).read_bytes()
        subsets.ask(run, brief)  # twice before it is answered is once
        assert (run.path / subsets.ASKED).read_bytes() == asked
        assert subsets.pending(run)
        assert work(run).state == "done"
        found = subsets.found(run)
        assert found is not None
        assert (found.estimate.models, found.planned, found.complete) == (
            FEWEST * (1 + more),
            FEWEST * (1 + more),
            True,
        )
    monkeypatch.setattr(process.subprocess, "Popen", lambda words, **_: started.append(words))
    subsets.ask(run, SubsetRequest(models=40))  # there are as many
    assert process.start(run).state == "done"
    assert started == []


def test_what_a_budget_planned_before_an_interruption_is_what_is_trained_after_it(
    measured: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(measured, tmp_path)
    subsets.ask(run, SubsetRequest(seconds=600))
    monkeypatch.setattr("explorer.jobs.subset_stage.models_that_fit", lambda *_: 50)
    assert stopped(run, lambda stage, done, _: stage == subsets.STAGE and done > 42, monkeypatch).state == "cancelled"
    assert subsets.standing(run) == (20, 50)
    monkeypatch.undo()
    assert work(run).state == "done"
    found = subsets.found(run)
    assert found is not None
    assert (found.estimate.models, found.complete) == (50, True)


def test_a_model_that_cannot_be_one_of_many_is_said_and_the_run_is_done(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(DROPOUT)
    asked = Request("wine", model=f"{tmp_path / 'net.py'}:make", recipe=Recipe(epochs=1), queries=2)
    run = compute(tmp_path / "runs", asked)
    subsets.ask(run, SubsetRequest(models=20))
    assert work(run).state == "done"
    assert "evaluation mode" in subsets.left_out(run)
    assert subsets.found(run) is None
    assert not subsets.pending(run)
    subsets.ask(run, SubsetRequest(models=30))  # another question may be tried
    assert subsets.pending(run)
    assert subsets.left_out(run) == ""


def test_requests_are_checked() -> None:
    with pytest.raises(SettingsError, match="20 models or more; found 19"):
        SubsetRequest(models=19)
    for seconds in (0.0, -1.0, float("nan"), float("inf"), None):
        with pytest.raises(SettingsError, match="Expected a number of models or seconds > 0"):
            SubsetRequest(seconds=seconds)
    assert asdict(SubsetRequest(models=20)) == {"models": 20, "seconds": None}


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_to_the_bytes_of_a_clean_run(measured: Run, tmp_path: Path) -> None:
    broken, clean = (copied(measured, tmp_path / name) for name in ("broken", "clean"))
    for run in (broken, clean):
        subsets.ask(run, SubsetRequest(models=200))
    jobs.start(broken)
    state = until(broken, lambda s: not s.active or (s.stage == subsets.STAGE and s.done >= 30))
    assert state.state == "running", state
    os.kill(state.pid, signal.SIGKILL)
    assert until(broken, lambda s: not s.active).state == "interrupted"
    assert int(bundle(broken.path / subsets.TALLY)["models"][0]) >= 20
    for run in (broken, clean):
        jobs.start(run)
        assert until(run, lambda s: not s.active).state == "done"
    assert contents(broken.path) == contents(clean.path)


@pytest.mark.slow
def test_a_budget_of_seconds_is_about_kept(measured: Run, tmp_path: Path) -> None:
    run = copied(measured, tmp_path)
    subsets.ask(run, SubsetRequest(seconds=5))
    began = time.monotonic()
    assert work(run).state == "done"
    assert time.monotonic() - began < 5 * 3  # a busy machine, and the stages before it
    found = subsets.found(run)
    assert found is not None
    assert found.estimate.models > 2 * FEWEST
    assert read_json(run.path / subsets.ASKED)["seconds"] == 5
