"""The metagradient: equal to unrolled autograd, to finite differences of real trainings, and to inverses where they are true."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from explorer.contracts import Queries, Recipe, Subject
from explorer.errors import Cancelled, DataError, ModelError, SettingsError
from explorer.influence import metagradient
from explorer.influence.metagradient import FittedMetagradient, Metagradient
from explorer.influence.trajectory import Adam, Optimizer, Sgd, Step, Trajectory
from explorer.objectives import SquaredError
from explorer.training import evaluate, train_epochs
from tests import oracles, problems
from tests.fakes import ListExamples, line
from tests.influence.trainings import (
    ASKED,
    OPTIMIZERS,
    CancelAt,
    Case,
    N,
    asked,
    batches,
    case,
    mean_loss,
    really_trained,
    state_of,
    trained,
)

UNROLLED = 1e-6
"""Share of a query's largest score: both are float64 derivatives of the same arithmetic; scores are handed out in float32."""
DIFFERENCES = 2e-5
"""As UNROLLED, plus the error of central differences with a step of 1e-4 (its square, times third derivatives below 1e3)."""
STEP = 1e-4
LINEAR, SLOPE = 0.99, (0.95, 1.15)
"""Pearson with, and slope of, leave-one-out on the estimate: removing an example also removes its own curvature, so the true
effect is about 1/(1 − leverage) of the first-order one, a few per cent more in 8 weights and 240 rows."""
each_optimizer = pytest.mark.parametrize("kind", OPTIMIZERS)
each_removal = pytest.mark.parametrize("removal", ["leaves", "zero"])


@pytest.fixture(autouse=True)
def one_thread():
    with problems.one_thread():
        yield


def measured(made: Case, model: nn.Module, answers: Tensor | None = None) -> Tensor:
    x, y = made.stacked(made.test)
    with torch.no_grad():
        outputs = model(x)
    return oracles.measures(outputs, y if answers is None else answers, "label").detach()


def fitted(name: str, kind: str, **settings: object) -> tuple[Case, FittedMetagradient]:
    made = case(name)
    subject, log = trained(made, OPTIMIZERS[kind])
    return made, Metagradient(**settings).along(subject, log)


def error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float(((actual.double() - expected).abs().amax(-1) / expected.abs().amax(-1)).max())


# --- equal to something independent


@each_removal
@pytest.mark.parametrize(
    ("name", "kind"),
    [*(("mlp", kind) for kind in OPTIMIZERS), ("conv", "sgd"), ("attention", "sgd"), ("attention", "adamw")],
)
def test_is_the_slope_of_real_trainings_with_weighed_examples(name: str, kind: str, removal: str) -> None:
    made, method = fitted(name, kind, removal=removal)
    values = method.score(asked(made)).values
    rows = [0, 7, 12, 20]
    slopes = []
    for i in rows:
        moved = []
        for sign in (1, -1):
            weights = torch.ones(N, dtype=torch.float64)
            weights[i] += sign * STEP
            moved.append(measured(made, really_trained(made, weights, OPTIMIZERS[kind], removal)))
        slopes.append((moved[0] - moved[1]) / (2 * STEP))
    size = values.double().abs().amax(1, keepdim=True)
    assert ((values[:, rows].double() - torch.stack(slopes, 1)).abs() <= DIFFERENCES * size).all()


def unrolled(made: Case, optimizer: Optimizer, removal: str, target: str) -> Tensor:
    """∂m_q/∂w `[q, n]` by autograd through the whole loop, the updates written out by their formulas."""
    (x, y), (xt, yt) = made.stacked(made.train), made.stacked(made.test)
    names = [name for name, _ in made.model.named_parameters()]
    theta = {name: p.detach().clone().requires_grad_(True) for name, p in made.model.named_parameters()}
    weights = torch.ones(N, dtype=torch.float64, requires_grad=True)
    first = {name: torch.zeros_like(p) for name, p in theta.items()}
    second = {name: torch.zeros_like(p) for name, p in theta.items()}
    for k, (rows, rate) in enumerate(batches(), start=1):
        outputs = torch.func.functional_call(made.model, theta, (x[rows],))
        loss = mean_loss(oracles.losses(outputs, y[rows]), weights[rows], removal)
        gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        for name, g in zip(names, gradients, strict=True):
            g = g + optimizer.weight_decay * theta[name]
            if isinstance(optimizer, Sgd):
                first[name] = optimizer.momentum * first[name] + g
                theta[name] = theta[name] - rate * first[name]
            else:
                b1, b2 = optimizer.beta1, optimizer.beta2
                first[name] = b1 * first[name] + (1 - b1) * g
                second[name] = b2 * second[name] + (1 - b2) * g**2
                root = (second[name] / (1 - b2**k)).sqrt()
                theta[name] = theta[name] - rate * (first[name] / (1 - b1**k)) / (root + optimizer.eps)
    measures = oracles.measures(torch.func.functional_call(made.model, theta, (xt,)), yt, target)
    return torch.stack([torch.autograd.grad(m, weights, retain_graph=True)[0] for m in measures])


@each_removal
@pytest.mark.parametrize("target", ["label", "prediction"])
@pytest.mark.parametrize(
    ("name", "kind"), [("mlp", "sgd"), ("regression", "sgd"), ("regression", "adam"), ("conv", "adam")]
)
def test_is_autograd_through_the_whole_training(name: str, kind: str, target: str, removal: str) -> None:
    made, method = fitted(name, kind, removal=removal)
    expected = unrolled(made, OPTIMIZERS[kind], removal, target)
    assert error(method.score(asked(made, target)).values, expected) < UNROLLED


def linear_training(name: str, recipe: Recipe) -> tuple[problems.Problem, Subject, Trajectory]:
    """A linear problem trained from zero by the project's own loop."""
    made = problems.problem(name)
    for p in made.model.parameters():
        nn.init.zeros_(p)
    initial = {key: tensor.clone() for key, tensor in made.model.state_dict().items()}
    recipe = replace(recipe, weight_decay=made.weight_decay)
    for _ in train_epochs(made.model, made.objective, made.train, made.test, recipe):
        pass
    return made, made.subject(), Trajectory.by_recipe(initial, recipe, len(made.train))


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("ridge", Recipe(60, 0.5, 0.5, batch_size=300)), ("softmax", Recipe(250, 0.3, 0.9, batch_size=300))],
)
def test_is_the_inverse_hessian_where_training_has_converged(name: str, recipe: Recipe) -> None:
    """Full batches to the optimum of a strongly convex problem: −(1/n) ∇mᵀ H⁻¹ g, whatever way led there."""
    made, subject, log = linear_training(name, recipe)
    queries = Queries(made.test, np.arange(len(made.test), dtype=np.int64))
    values = Metagradient(removal="zero").along(subject, log).score(queries).values
    converged = 2e-3  # what steps of a falling rate leave over, and float32
    assert error(values, oracles.last_layer_scores(made, "label", 0.0)) < converged


def test_is_leaving_one_out_and_training_again_on_a_convex_problem() -> None:
    """Small batches in one order, by `train_epochs(rows=...)`: the retraining that `leaves` estimates."""
    recipe = Recipe(epochs=6, rate=0.1, batch_size=16)
    made, subject, log = linear_training("binary", recipe)
    recipe = replace(recipe, weight_decay=made.weight_decay)
    queries = Queries(made.test, np.arange(len(made.test), dtype=np.int64))
    values = Metagradient().along(subject, log).score(queries).values.numpy()
    removed = np.argsort(np.abs(values).max(0))[[0, 60, 120, 180, -40, -20, -10, -5, -3, -2, -1]]
    full = measures_of(made, made.model)
    effects = []
    for i in removed:
        model = problems.copy.deepcopy(made.model)
        model.load_state_dict(log.initial)
        for _ in train_epochs(
            model, made.objective, made.train, made.test, recipe, rows=np.delete(np.arange(len(made.train)), i)
        ):
            pass
        effects.append(full - measures_of(made, model))
    truth = np.stack(effects, axis=1)
    for estimate, effect in zip(values[:, removed], truth, strict=True):
        assert np.corrcoef(estimate, effect)[0, 1] > LINEAR
        assert SLOPE[0] < np.polyfit(estimate, effect, 1)[0] < SLOPE[1]


def measures_of(made: problems.Problem, model: nn.Module) -> np.ndarray:
    outputs = evaluate(model, made.test).double()
    return oracles.measures(outputs, made.test.targets, "label").numpy()


# --- what every method promises


def test_queries_and_blocks_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    made, method = fitted("mlp", "sgd")
    together = method.score(asked(made)).values
    single = torch.cat([method.score(asked(made, rows=[q])).values for q in range(ASKED)])
    assert error(single, together.double()) < UNROLLED
    monkeypatch.setattr(metagradient, "MOST_AT_ONCE", 3)
    assert error(method.score(asked(made)).values, together.double()) < UNROLLED
    monkeypatch.setattr(FittedMetagradient, "_directions", lambda self: 3)
    assert error(method.score(asked(made)).values, together.double()) < UNROLLED
    room = torch.full((2, ASKED, N), torch.nan)
    scores = method.score(asked(made), out=room[1])
    assert scores.values.data_ptr() == room[1].data_ptr()
    assert error(room[1], together.double()) < UNROLLED
    assert room[0].isnan().all()
    assert list(scores.query_ids) == [f"t{q}" for q in range(ASKED)]
    assert list(scores.train_ids) == list(made.train.ids)


def test_weighted_sums_and_self_influence_are_those_of_the_scores() -> None:
    made, method = fitted("mlp", "adam")
    values = method.score(asked(made)).values.double()
    weights = torch.randn(3, ASKED, generator=torch.Generator().manual_seed(0))
    assert error(method.weighted(asked(made), weights), weights.double() @ values) < UNROLLED
    own = method.score(Queries(made.train, np.arange(N, dtype=np.int64))).values.diagonal()
    assert (own > 0).sum() > N / 2
    assert error(method.self_influence()[None], own.clamp(min=0).double()[None]) < UNROLLED


@each_optimizer
def test_saved_and_reloaded_gives_the_same_bytes(kind: str, tmp_path: Path) -> None:
    made, method = fitted("mlp", kind, removal="zero", memory=3.0)
    save_file(method.tensors(), tmp_path / "fitted.safetensors")
    stats = json.loads(json.dumps(dict(method.stats)))
    again = Metagradient().restore(method.subject, load_file(tmp_path / "fitted.safetensors"), stats)
    assert dict(again.stats) == dict(method.stats)
    assert again.unit == method.unit
    assert torch.equal(again.score(asked(made)).values, method.score(asked(made)).values)


def test_work_leaves_the_model_as_it_was_cancelled_or_not() -> None:
    made = case("mlp")
    subject, log = trained(made, OPTIMIZERS["sgd"])
    subject.model[1].train()
    subject.model[2].eval()
    subject.model[0].bias.requires_grad_(True)
    method = Metagradient().along(subject, log)
    before = state_of(subject.model)
    weights = torch.ones(1, ASKED)

    def fresh() -> FittedMetagradient:
        return Metagradient().restore(subject, method.tensors(), method.stats)

    works: dict[str, Callable[[CancelAt], object]] = {
        "along": lambda progress: Metagradient().along(subject, log, progress),
        "score": lambda progress: fresh().score(asked(made), progress),
        "weighted": lambda progress: method.weighted(asked(made), weights, progress),
        "self_influence": lambda progress: method.self_influence(progress),
    }
    for what, work in works.items():
        whole = CancelAt(10**9)
        work(whole)
        assert state_of(subject.model) == before, what
        assert whole.calls >= 9, f"{what} does not ask at every step whether to stop"
        for k in range(whole.calls):
            with pytest.raises(Cancelled):
                work(CancelAt(k))
            assert state_of(subject.model) == before, f"{what} cancelled at call {k}"


def test_frozen_parameters_and_buffers_stay_what_they_were() -> None:
    made = case("mlp")
    made.model[0].weight.requires_grad_(False)
    body = nn.Sequential(nn.BatchNorm1d(6).double().eval(), *made.model)
    body[0].train = lambda mode=True: body[0]  # a batch norm that stays in evaluation mode is no randomness
    body[0].requires_grad_(False)
    body[0].running_mean.fill_(0.3)
    subject, log = trained(replace(made, model=body), Sgd(0.9, 0.02))
    values = Metagradient().along(subject, log).score(asked(made)).values
    folded = replace(made, model=problems.copy.deepcopy(made.model))  # the same model with its inputs moved
    scale = (body[0].running_var + body[0].eps).rsqrt().float()
    moved = [
        ListExamples([(x - 0.3) * scale for x in e.inputs], e.labels, e.ids[0][:-1]) for e in (made.train, made.test)
    ]
    folded = replace(folded, train=moved[0], test=moved[1])
    again, log = trained(folded, Sgd(0.9, 0.02))
    float32_inputs = 1e-5
    assert error(values, Metagradient().along(again, log).score(asked(folded)).values.double()) < float32_inputs


# --- what is refused


def test_a_training_that_cannot_be_repeated_is_refused() -> None:
    made = case("mlp")
    subject, log = trained(made, Sgd(0.9, 0.02))
    for layer in (nn.Dropout(0.2), nn.BatchNorm1d(5).double()):
        model = nn.Sequential(made.model[0], layer, *made.model[1:]).eval()
        other = Trajectory(model.state_dict(), log.steps, log.optimizer)
        with pytest.raises(ModelError, match="replayed"):
            Metagradient().along(replace(subject, model=model), other)
        assert not model.training


def test_a_log_of_another_training_is_refused() -> None:
    made = case("mlp")
    subject, log = trained(made, Sgd(0.9, 0.02))
    with pytest.raises(ModelError, match="norm away"):
        Metagradient().along(subject, replace(log, optimizer=Sgd(0.5, 0.02)))
    with pytest.raises(ModelError, match="initial weights"):
        Metagradient().along(subject, replace(log, initial={}))
    with pytest.raises(DataError, match="row 21"):
        Metagradient().along(subject, replace(log, steps=(Step(np.array([21]), 0.1),)))
    for steps in ((), (Step(np.array([], dtype=np.int64), 0.1),), (Step(np.array([0]), float("nan")),)):
        with pytest.raises(DataError, match="step"):
            replace(log, steps=steps)
    method = Metagradient().along(subject, log)
    with pytest.raises(DataError, match="query"):
        method.score(asked(made, rows=[]))
    with pytest.raises(DataError, match="query"):
        method.weighted(asked(made, rows=[]), torch.zeros(1, 0))


def test_a_derivative_without_bound_is_a_message() -> None:
    """A model that starts without any error stays where it is at any rate, and each step multiplies the derivative."""
    with torch.no_grad():
        model = nn.Linear(4, 1)
        model.weight.copy_(torch.tensor([[0.0, 0, 0, 1]]))
        model.bias.zero_()
    inputs = [x * torch.tensor([1.0, 1, 1, 0]) for x in line(N).inputs]
    train = ListExamples(inputs, np.zeros(N, dtype=np.float32))
    log = Trajectory(model.state_dict(), tuple(Step(np.arange(N), 1e3) for _ in range(40)), Sgd(0.0, 0.0))
    method = Metagradient().along(Subject(model, train, SquaredError(), 0.0, "k"), log)
    with pytest.raises(ModelError, match="without bound"):
        method.score(Queries(line(3, seed=1), np.arange(3)))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Metagradient(memory=0.0),
        lambda: Sgd(1.0),
        lambda: Sgd(weight_decay=-1.0),
        lambda: Adam(beta2=1.0),
        lambda: Adam(eps=0.0),
    ],
)
def test_settings_out_of_range_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(SettingsError, match="Expected"):
        wrong()
