"""Data value embedding: the paper's recursion written out, and the metagradient where its curvature is the true one."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from explorer.contracts import Objective, Queries, Recipe, Subject
from explorer.errors import Cancelled, DataError, ModelError, SettingsError
from explorer.influence import value_embedding
from explorer.influence.metagradient import Metagradient
from explorer.influence.trajectory import Adam, Sgd, Trajectory
from explorer.influence.value_embedding import DataValueEmbedding, Sketch, curvature_shares
from explorer.objectives import CrossEntropy, SquaredError
from explorer.training import train_epochs
from tests import oracles, problems
from tests.fakes import ListExamples, blobs, line
from tests.influence.trainings import CancelAt, state_of

WRITTEN_OUT = 1e-5
"""Share of a query's largest score: float32 products and sums over some dozen steps against float64."""
SAME = 1e-5
"""Share of a query's largest score: two ways to the same float32 numbers."""
N, ASKED = 29, 4
RECIPE = Recipe(epochs=3, rate=0.05, momentum=0.0, weight_decay=0.0, batch_size=8, seed=2)


@pytest.fixture(autouse=True)
def one_thread():
    with problems.one_thread():
        yield


def trained(
    model: nn.Module, objective: Objective, train: ListExamples, test: ListExamples, recipe: Recipe
) -> tuple[Subject, Trajectory]:
    initial = copy.deepcopy(model.state_dict())
    for _ in train_epochs(model, objective, train, test, recipe):
        pass
    return Subject(model, train, objective, recipe.weight_decay, "k"), Trajectory.by_recipe(initial, recipe, len(train))


def mlp(recipe: Recipe = RECIPE, classes: int = 3) -> tuple[Subject, Trajectory, ListExamples]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, classes))
    test = blobs(ASKED, classes=classes, seed=1, prefix="t")
    return *trained(model, CrossEntropy(), blobs(N, classes=classes), test, recipe), test


def linear(kind: str, recipe: Recipe) -> tuple[Subject, Trajectory, ListExamples]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "squares":
            model, objective, train, test = nn.Linear(4, 1), SquaredError(), line(N), line(ASKED, seed=1, prefix="t")
        else:
            model, objective = nn.Linear(6, 2), CrossEntropy()
            train, test = blobs(N, classes=2), blobs(ASKED, classes=2, seed=1, prefix="t")
    return *trained(model, objective, train, test, recipe), test


def asked(test: ListExamples, target: str = "label", rows: list[int] | None = None) -> Queries:
    return Queries(test, np.array(range(len(test)) if rows is None else rows, dtype=np.int64), target)


def error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float(((actual.double() - expected.double()).abs().amax(-1) / expected.double().abs().amax(-1)).max())


def gradient(model: nn.Module, loss: Tensor, names: list[str]) -> Tensor:
    chosen = [p for name, p in model.named_parameters() if name in names]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, chosen)])


def written_out(subject: Subject, log: Trajectory, test: ListExamples, names: list[str]) -> Tensor:
    """The recursion of MATHS.md in float64, one example at a time, on the states of a training run once more."""
    model = copy.deepcopy(subject.model).double()
    model.load_state_dict({name: t.double() for name, t in log.initial.items()})
    x, y = torch.stack(subject.train.inputs).double(), torch.tensor(subject.train.labels)
    states, seen = [], []
    for epoch in range(RECIPE.epochs):
        order = np.random.default_rng([RECIPE.seed, epoch + 1]).permutation(N).tolist()
        seen += [order[start : start + RECIPE.batch_size] for start in range(0, N, RECIPE.batch_size)]
    rates = [RECIPE.rate * (1 + np.cos(np.pi * k / len(seen))) / 2 for k in range(len(seen))]
    for rows, rate in zip(seen, rates, strict=True):
        states.append(copy.deepcopy(model))
        loss = oracles.losses(model(x[rows]), y[rows]).mean()
        with torch.no_grad():
            for p, g in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
                p -= rate * g
    size = len(gradient(model, oracles.losses(model(x[:1]), y[:1]).sum(), names))
    M, E = torch.zeros(size, size, dtype=torch.float64), torch.zeros(N, size, dtype=torch.float64)
    for state, rows, rate in zip(states[::-1], seen[::-1], rates[::-1], strict=True):
        own = [gradient(state, oracles.losses(state(x[[i]]), y[[i]])[0], names) for i in rows]
        added = [rate * (g - M @ g) / len(rows) for g in own]
        M = M + sum(torch.outer(e, g) for e, g in zip(added, own, strict=True))
        for i, e in zip(rows, added, strict=True):
            E[i] += e
    xt, yt = torch.stack(test.inputs).double(), torch.tensor(test.labels)
    queries = [gradient(model, oracles.losses(model(xt[[q]]), yt[[q]])[0], names) for q in range(len(test))]
    return torch.stack(queries) @ E.T


@pytest.mark.parametrize("parameters", ["all", "last-layer"])
def test_is_the_recursion_of_the_paper_written_out(parameters: str) -> None:
    subject, log, test = mlp()
    method = DataValueEmbedding(parameters=parameters, curvature="gradients").along(subject, log)
    names = [name for name, _ in subject.model.named_parameters() if parameters == "all" or name.startswith("2.")]
    assert error(method.score(asked(test)).values, written_out(subject, log, test, names)) < WRITTEN_OUT
    assert method.stats["length"] == method.stats["gradient"] == (53 if parameters == "all" else 18)
    assert method.stats["replay_error"] == 0


@pytest.mark.parametrize("parameters", ["all", "last-layer"])
@pytest.mark.parametrize("target", ["label", "prediction"])
@pytest.mark.parametrize("kind", ["squares", "two-classes"])
def test_is_the_metagradient_where_gauss_newton_is_the_hessian(kind: str, target: str, parameters: str) -> None:
    """One output or two classes on a linear model: momentum, decay, rates and batches are then followed exactly."""
    subject, log, test = linear(kind, Recipe(epochs=4, rate=0.05, momentum=0.9, weight_decay=0.02, batch_size=8))
    expected = Metagradient(removal="zero").along(subject, log).score(asked(test, target)).values
    method = DataValueEmbedding(parameters=parameters).along(subject, log)
    assert error(method.score(asked(test, target)).values, expected) < WRITTEN_OUT


def test_curvature_shares_are_the_curvature_along_the_loss_gradient() -> None:
    torch.manual_seed(0)
    for objective, k in ((CrossEntropy(), 2), (CrossEntropy(), 5), (SquaredError(), 1)):
        outputs = torch.randn(20, k, dtype=torch.float64)
        targets = torch.randn(20) if k == 1 else torch.arange(20) % k
        shares = curvature_shares(objective, outputs, targets)
        for o, t, c in zip(outputs, targets, shares, strict=True):
            hessian = torch.autograd.functional.hessian(lambda z, t=t: oracles.losses(z[None], t[None])[0], o)
            r = torch.autograd.functional.jacobian(lambda z, t=t: oracles.losses(z[None], t[None])[0], o)
            step = 1e-4 * float(c)
            gaps = [float((hessian - s * torch.outer(r, r)).norm()) for s in (c, c - step, c + step)]
            assert gaps[0] == min(gaps)
            if k <= 2:
                rounding = 1e-12
                assert gaps[0] < rounding
    assert curvature_shares(SquaredError(), torch.ones(1, 1), torch.ones(1)) == 0


# --- the sketch


def test_a_sketch_keeps_inner_products_on_average() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 1000)
    x += 0.5 * y
    found = torch.tensor([float(s(x[None])[0] @ s(y[None])[0]) for s in (Sketch(1000, 64, k) for k in range(400))])
    one = float((x.norm().square() * y.norm().square() + (x @ y).square()).sqrt()) / 64**0.5  # its deviation, at most
    standard_errors = 4
    assert abs(float(found.mean()) - float(x @ y)) < standard_errors * one / 400**0.5
    assert float(found.std()) < 1.1 * one


def test_a_sketch_is_one_signed_coordinate_to_one_sum_evenly() -> None:
    matrix = Sketch(130, 16, 3)(torch.eye(130))
    assert (matrix.abs().sum(1) == 1).all()
    assert matrix.abs().sum(0).sort().values.tolist() == [8.0] * 14 + [9.0] * 2
    assert (matrix.sum(0) != matrix.abs().sum(0)).any()
    assert torch.equal(Sketch(130, 16, 3)(torch.eye(130)), matrix)
    assert not torch.equal(Sketch(130, 16, 4)(torch.eye(130)), matrix)
    assert torch.equal(Sketch(130, 130, 3)(torch.eye(130)), torch.eye(130))


def test_longer_sketches_come_closer_to_the_exact_embedding() -> None:
    subject, log, test = mlp(replace(RECIPE, momentum=0.9))
    exact = DataValueEmbedding().along(subject, log).score(asked(test)).values

    def away(dimension: int) -> float:
        tries = [DataValueEmbedding(dimension, seed=seed).along(subject, log) for seed in range(6)]
        gaps = [float((m.score(asked(test)).values - exact).norm() / exact.norm()) for m in tries]
        return float(np.mean(gaps))

    assert away(40) < away(10)
    assert away(53) == 0


# --- what every method promises


def test_queries_blocks_and_sums_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, log, test = mlp(replace(RECIPE, momentum=0.9, weight_decay=0.01))
    for parameters in ("all", "last-layer"):
        method = DataValueEmbedding(40, parameters).along(subject, log)
        scores = method.score(asked(test))
        assert scores.values.dtype == torch.float32
        assert list(scores.train_ids) == list(subject.train.ids)
        assert list(method.score(asked(test, rows=[2, 0])).query_ids) == ["t2", "t0"]
        weights = torch.randn(3, ASKED, generator=torch.Generator().manual_seed(0))
        assert error(method.weighted(asked(test), weights), weights @ scores.values) < SAME
        own = method.score(Queries(subject.train, np.arange(N, dtype=np.int64))).values.diagonal().clamp(min=0)
        assert error(method.self_influence()[None], own[None]) < SAME
        room = torch.full((2, ASKED, N), torch.nan)
        assert method.score(asked(test), out=room[1]).values.data_ptr() == room[1].data_ptr()
        assert room[0].isnan().all()
        with monkeypatch.context() as patch:
            patch.setattr(value_embedding, "ROWS", 3)
            patch.setattr(value_embedding, "ELEMENTS", 3 * 53)
            again = DataValueEmbedding(40, parameters).along(subject, log)
            assert error(again.score(asked(test)).values, scores.values) < SAME
            assert error(again.self_influence()[None], own[None]) < SAME


@pytest.mark.parametrize("parameters", ["all", "last-layer"])
def test_saved_and_reloaded_gives_the_same_bytes(parameters: str, tmp_path: Path) -> None:
    subject, log, test = mlp()
    method = DataValueEmbedding(16, parameters, seed=5).along(subject, log)
    save_file(method.tensors(), tmp_path / "fitted.safetensors")
    stats = json.loads(json.dumps(dict(method.stats)))
    again = DataValueEmbedding().restore(subject, load_file(tmp_path / "fitted.safetensors"), stats)
    assert dict(again.stats) == dict(method.stats)
    assert torch.equal(again.score(asked(test)).values, method.score(asked(test)).values)
    assert torch.equal(again.self_influence(), method.self_influence())


@pytest.mark.parametrize("parameters", ["all", "last-layer"])
def test_work_leaves_the_model_as_it_was_cancelled_or_not(parameters: str) -> None:
    subject, log, test = mlp()
    subject.model[1].train()
    settings = DataValueEmbedding(16, parameters)
    method = settings.along(subject, log)
    before = state_of(subject.model)
    works: dict[str, Callable[[CancelAt], object]] = {
        "along": lambda progress: settings.along(subject, log, progress),
        "score": lambda progress: method.score(asked(test), progress),
        "weighted": lambda progress: method.weighted(asked(test), torch.ones(1, ASKED), progress),
        "self_influence": lambda progress: method.self_influence(progress),
    }
    for what, work in works.items():
        whole = CancelAt(10**9)
        work(whole)
        assert state_of(subject.model) == before, what
        assert whole.calls >= 1
        for k in range(whole.calls):
            with pytest.raises(Cancelled):
                work(CancelAt(k))
            assert state_of(subject.model) == before, f"{what} cancelled at call {k}"


def test_what_it_cannot_do_is_a_message() -> None:
    subject, log, test = mlp()
    with pytest.raises(SettingsError, match="metagradient"):
        DataValueEmbedding().along(subject, replace(log, optimizer=Adam()))
    with pytest.raises(ModelError, match="norm away"):
        DataValueEmbedding().along(subject, replace(log, optimizer=Sgd(0.5)))
    for wrong in ({"dimension": 0}, {"dimension": 10**5}, {"seed": -1}, {"memory": 0.0}):
        with pytest.raises(SettingsError, match="Expected"):
            DataValueEmbedding(**wrong)
    with pytest.raises(DataError, match="query"):
        DataValueEmbedding().along(subject, log).score(asked(test, rows=[]))
