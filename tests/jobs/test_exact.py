"""Traces through a run's own training: their numbers, what happens between their steps, and every reason for none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from explorer.contracts import Queries, Target
from explorer.errors import ModelError, RunError, SettingsError
from explorer.influence import LastLayer
from explorer.influence.metagradient import Metagradient
from explorer.jobs import asking, helper, tracing
from explorer.jobs.answering import Warm, _reply
from explorer.jobs.asking import Traced, UnderWay
from explorer.jobs.planning import ingredients_of
from explorer.jobs.subject import file_hash
from explorer.jobs.teaching import Teacher
from explorer.jobs.tracing import Asked, Tracer
from explorer.store import Run, read_json, write_json
from tests import oracles, problems
from tests.conftest import SMALL, compute
from tests.influence.trainings import batches
from tests.jobs.test_asking import workers

FLOAT32 = 1e-5
"""A training of fifteen float32 steps back and forth, relative to the largest influence (measured: 3e-7)."""
PATIENCE = 120
"""Seconds after which a worker is taken to hang: many times what it needs on an idle machine."""

DROPOUT = """
from torch import nn

def make():
    return nn.Sequential(nn.Linear(13, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 3))
"""


@pytest.fixture(scope="module", autouse=True)
def _no_worker_stays() -> Iterator[None]:
    with problems.one_thread():
        yield
    asking.stop()
    assert workers() == []


@pytest.fixture(scope="module")
def warm(wine: Run) -> Warm:
    return Warm.load(wine)


def tracer_of(warm: Warm, **change: Any) -> Tracer:
    return Tracer(replace(warm.subject, **change), warm.dataset, warm.fitted, warm.seed)


def teacher_of(warm: Warm) -> Teacher:
    return Teacher(warm.subject, warm.dataset)


def nothing() -> None:
    """Nobody asks anything."""


def finished(run: Run, query: int, target: Target = "label") -> Traced:
    """A trace by the run's worker, asked for until it is there."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        found = asking.trace(run, query, target)
        if isinstance(found, Traced):
            return found
        assert 0 <= found.share <= 1
        assert found.note
        time.sleep(0.02)
    pytest.fail("The trace did not end.")


def unrolled(run: Run, query: int, target: Target) -> NDArray[np.float64]:
    """∂m/∂w `[train]` by autograd through the run's whole training in float64, SGD and its batches written out again."""
    ingredients = ingredients_of(run)
    data = ingredients.dataset()
    model = ingredients.model(data).double()
    x, y = (
        torch.tensor(np.asarray(part)) for part in (data.train.batch(np.arange(len(data.train))), data.train.labels)
    )
    theta = {name: p.detach().clone().requires_grad_(True) for name, p in model.named_parameters()}
    speed = {name: torch.zeros_like(p) for name, p in theta.items()}
    weights = torch.ones(len(x), dtype=torch.float64, requires_grad=True)
    recipe = SMALL.recipe
    for rows, rate in batches(recipe, len(x)):
        losses = oracles.losses(torch.func.functional_call(model, theta, (x[rows].double(),)), y[rows])
        mean = (weights[rows] * losses).sum() / weights[rows].sum()
        slopes = torch.autograd.grad(mean, list(theta.values()), create_graph=True)
        for name, slope in zip(list(theta), slopes, strict=True):
            speed[name] = recipe.momentum * speed[name] + slope + recipe.weight_decay * theta[name]
            theta[name] = theta[name] - rate * speed[name]
    asked = data.test.batch(np.array([query])).double()
    label = torch.tensor(np.asarray(data.test.labels)[[query]])
    measure = oracles.measures(torch.func.functional_call(model, theta, (asked,)), label, target)
    return np.asarray(torch.autograd.grad(measure[0], weights)[0])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["label", "prediction"])
def test_a_trace_is_autograd_through_the_whole_training(wine: Run, target: Target) -> None:
    query = int(wine.plan("label")[0])
    expected = unrolled(wine, query, target)
    found = finished(wine, query, target)
    close = FLOAT32 * float(np.abs(expected).max())
    for rows, values, sign in (
        (found.top.towards, found.top.towards_influence, 1),
        (found.top.away, found.top.away_influence, -1),
    ):
        kept = rows >= 0
        np.testing.assert_allclose(values[kept], expected[rows[kept]], atol=close)
        best = np.sort(sign * expected)[::-1][: len(rows)]
        np.testing.assert_allclose(sign * values, np.maximum(best, 0), atol=close)
    assert found.top.total == pytest.approx(np.abs(expected).sum(), rel=FLOAT32)
    steps = found.row.scale / 127
    clipped = np.clip(expected, -found.row.scale, found.row.scale)
    assert np.abs(found.row.values * steps - clipped).max() <= steps / 2 + close
    assert found.steps == len(batches(SMALL.recipe, wine.meta().train))


def test_agreement_is_that_with_the_stored_answer_of_the_run_s_method(wine: Run, warm: Warm) -> None:
    method = LastLayer().fit(warm.subject)
    for query in wine.plan("label")[:3].tolist():
        found, stored = finished(wine, query), wine.top(query, "label")
        assert stored is not None
        own = method.score(Queries(warm.dataset.test, np.array([query]), "label")).values[0]
        expected = stats.spearmanr(unrolled(wine, query, "label"), own).statistic
        assert found.top.agreement == pytest.approx(expected, abs=1e-3)  # a rank or two may change places
        sides = ((found.top.towards, stored.towards), (found.top.away, stored.away))
        shared = sum(len({*mine[:10].tolist()} & {*theirs[:10].tolist()}) for mine, theirs in sides)
        assert round(20 * found.top.overlap) == shared


def test_a_finished_trace_is_remembered_and_cannot_be_changed(wine: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    query = int(wine.plan("label")[1])
    first = finished(wine, query)
    monkeypatch.setattr(helper.Helper, "ask", None)  # a second question to the worker would fail
    assert asking.trace(wine, query, "label") is first
    with pytest.raises(ValueError, match="read-only"):
        first.row.values[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        first.top.towards_influence[0] = 1


def test_several_traces_at_once_end_and_other_questions_are_not_lost(wine: Run) -> None:
    queries = wine.plan("label")[2:5].tolist()
    with ThreadPoolExecutor(4) as pool:
        answer = pool.submit(asking.ask, wine, queries[0], "label")
        traced = list(pool.map(lambda query: finished(wine, query), queries))
    stored = wine.top(queries[0], "label")
    assert stored is not None
    np.testing.assert_array_equal(answer.result().top.towards, stored.towards)
    best = [int(found.top.towards[0]) for found in traced]
    assert best == [int(unrolled(wine, query, "label").argmax()) for query in queries]
    assert len(workers(run=wine)) == 1


def test_questions_between_two_steps_are_answered_to_the_bit(
    wine: Run, warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "PAUSE", 0.0)
    query, other = wine.plan("label")[:2].tolist()
    tracer, asked = tracer_of(warm), Asked(query, "label")
    question = {"query": other, "target": "label", "edit": {}}
    seen: list[dict[str, Any]] = []
    expected = _reply(warm, tracer, teacher_of(warm), question)[1]

    def between() -> None:
        modes = [module.training for module in warm.subject.model.modules()]
        answer = _reply(warm, tracer, teacher_of(warm), question)[1]
        assert answer.keys() == expected.keys()
        for name, values in answer.items():
            np.testing.assert_array_equal(values, expected[name], err_msg=name)
        assert [module.training for module in warm.subject.model.modules()] == modes
        seen.append(tracer.told(asked)[0]["going"])

    assert tracer.told(asked)[0]["going"] == {"share": 0.0, "note": "starting", "seconds_left": None}
    tracer.work(between)
    shares = [going["share"] for going in seen]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert {"replaying the training", "going back through the training"} <= {going["note"] for going in seen}
    assert all((going["seconds_left"] is None) == (going["share"] < tracing.KNOWN) for going in seen)
    told, arrays = tracer.told(asked)
    alone = tracer_of(warm)
    alone.told(asked)
    alone.work(nothing)
    again = alone.told(asked)[1]
    assert set(told) == {"traced"}
    assert arrays.keys() == again.keys()
    for name, values in again.items():
        np.testing.assert_array_equal(values, arrays[name], err_msg=name)


class Clock:
    """Time that a test moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(tracing.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(tracing, "PAUSE", 0.0)


def test_what_nobody_asks_for_any_more_is_dropped(warm: Warm, wine: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, tracer = Clock(monkeypatch), tracer_of(warm)
    first, second = (Asked(query, "label") for query in wine.plan("label")[:2].tolist())
    looks: list[float] = []

    def left() -> None:
        clock.now += 1
        looks.append(clock.now)

    tracer.told(first)
    tracer.work(left)
    assert len(looks) == tracing.PATIENCE + 1
    assert not tracer.waiting
    assert tracer.told(first)[0] == {"going": {"share": 0.0, "note": "starting", "seconds_left": None}}
    looks.clear()

    def moved_on() -> None:
        left()
        note = tracer.told(second)[0]["going"]["note"]
        assert note == "waiting for another trace of this run"

    tracer.work(moved_on)
    assert len(looks) == tracing.ASIDE + 1
    assert tracer.waiting
    tracer.work(lambda: tracer.told(second) and None)  # now its turn
    assert "traced" in tracer.told(second)[0]
    assert not tracer.waiting


def test_the_training_is_replayed_once_and_few_traces_are_kept(
    warm: Warm, wine: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[int] = []
    real = Metagradient.fit

    def fit(self: Metagradient, *given: Any) -> Any:
        fits.append(1)
        return real(self, *given)

    monkeypatch.setattr(Metagradient, "fit", fit)
    monkeypatch.setattr(tracing, "KEPT", 2)
    tracer = tracer_of(warm)
    asked = [Asked(query, "label") for query in wine.plan("label")[:3].tolist()]
    for one in asked:
        tracer.told(one)
    while tracer.waiting:
        tracer.work(nothing)
    assert fits == [1]
    assert ["traced" in tracer.told(one)[0] for one in asked] == [False, True, True]


def refused(warm: Warm, **change: Any) -> str:
    """What a trace is refused with; asked again it is tried again."""
    tracer, asked = tracer_of(warm, **change), Asked(0, "label")
    before = torch.get_num_threads()
    for _ in range(2):
        tracer.told(asked)
        tracer.work(nothing)
        frame = tracer.told(asked)[0]
    assert torch.get_num_threads() == before
    return f"{frame['error']}: {frame['message']}"


def test_why_there_is_no_trace_is_said(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(warm, training=None).startswith("ModelError: Expected a model with a record of its training")
    told = warm.subject.training
    assert told is not None
    other = replace(told, recipe=replace(told.recipe, rate=0.01))
    assert "ModelError: Expected the replayed training to end at" in refused(warm, training=other)
    monkeypatch.setattr(tracing, "Metagradient", partial(Metagradient, memory=1e-3))
    assert refused(warm).startswith("SettingsError: Expected memory for")
    monkeypatch.setattr(tracing, "Metagradient", None)
    assert refused(warm).startswith("RunError: Expected an answer; found TypeError")


@pytest.mark.slow
def test_a_network_with_dropout_is_refused_by_the_worker(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(DROPOUT)
    run = compute(tmp_path, replace(SMALL, model=f"{tmp_path / 'net.py'}:make"))
    assert asking.trace_obstacle(run) is None
    with pytest.raises(ModelError, match="training mode computes what its evaluation mode does"):
        finished(run, 0)
    stored = run.top(0, "label")
    assert stored is not None
    np.testing.assert_array_equal(asking.ask(run, 0, "label").top.towards, stored.towards)  # and the worker goes on


def test_runs_that_cannot_be_traced_say_so_before_they_are_asked(wine: Run, tmp_path: Path) -> None:
    assert asking.trace_obstacle(wine) is None
    weights = replace(wine, spec={**wine.spec, "model": {**wine.spec["model"], "weights": {"path": "w.pt"}}})
    assert "made with weights from a file. Start a run without --weights" in str(asking.trace_obstacle(weights))
    objects = replace(wine, spec={**wine.spec, "source": {"kind": "memory"}})
    assert asking.trace_obstacle(objects) == asking.obstacle(objects)
    with pytest.raises(RunError, match=r"made by explorer[.]show"):
        asking.trace(objects, 0, "label")


def test_given_weights_are_refused_by_the_worker_too(wine: Run, tmp_path: Path) -> None:
    """Where nobody looked at `trace_obstacle`."""
    copytree(wine.path, tmp_path / wine.key)
    spec, path = read_json(wine.path / "spec.json"), wine.path / "model.safetensors"
    spec["model"]["weights"] = {"path": str(path), "sha256": file_hash(path)}
    write_json(tmp_path / wine.key / "spec.json", spec)
    assert "ModelError: Expected a model with a record" in refused(Warm.load(Run.at(tmp_path / wine.key)))


def test_mistakes_in_a_question_are_sentences(wine: Run, warm: Warm) -> None:
    rows = wine.meta().test
    with pytest.raises(SettingsError, match=rf"Expected a test row in 0\.\.{rows - 1}; found {rows}"):
        asking.trace(wine, rows, "label")
    with pytest.raises(
        SettingsError, match="Expected target to be one of label, prediction, margin, contrast; found 'moon'"
    ):
        asking.trace(wine, 0, "moon")  # type: ignore[arg-type]
    told = _reply(warm, tracer_of(warm), teacher_of(warm), {"method": asking.TRACE, "query": rows, "target": "label"})[
        0
    ]
    assert told["error"] == "SettingsError"


def test_both_sides_mean_the_same_method() -> None:
    assert asking.TRACE == tracing.METHOD


def test_what_is_under_way_is_not_remembered(wine: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    query = int(wine.plan("label")[6])
    frames = [({"going": {"share": share, "note": "n", "seconds_left": None}}, {}) for share in (0.0, 0.5)]
    monkeypatch.setattr(asking, "_helpers", asking._Helpers())
    monkeypatch.setattr(helper.Helper, "ask", lambda *_: frames.pop(0))
    assert asking.trace(wine, query, "label") == UnderWay(0.0, "n", None)
    assert asking.trace(wine, query, "label") == UnderWay(0.5, "n", None)
