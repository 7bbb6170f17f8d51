"""What pretraining examples do to a fine-tuned model: against training both stages again without each of them, on ridge and
softmax regression, whose optima are unique; and against dense algebra on networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from explorer.contracts import TARGETS, Queries, Subject, Target
from explorer.errors import Cancelled, DataError, ModelError, SettingsError
from explorer.influence import METHODS, backward, directional
from explorer.influence.ekfac import EKFAC
from explorer.influence.kfac import KFAC
from explorer.influence.two_stage import Stage, TwoStage
from explorer.objectives import CrossEntropy, SquaredError
from tests.influence.networks import Network, gradient_loop, loss, network, state
from tests.problems import TensorExamples

PROXIMAL, DECAY = 0.3, (0.05, 0.02)
"""α, and the weight decay of both stages."""
N, FEW, ASKED = 120, 30, 8
"""Examples of the pretraining, of the fine-tuning, and queries."""
EXACT = 1e-6
"""Share of a query's largest |score|: models, gradients and inverses in float64, the answer rounded to float32."""
LINEAR = 0.99
"""Pearson of estimate and retraining: what is missing is the leverage of one of 120 examples, a few per cent at most."""
SLOPE = (0.95, 1.2)
"""Slope of retraining on the estimate: 1/(1 − leverage) for average and larger leverages (see test_truth)."""


@pytest.fixture(autouse=True)
def _named(monkeypatch: pytest.MonkeyPatch) -> None:
    for method in (EKFAC, KFAC):
        monkeypatch.setitem(METHODS, method.name, method)


# ---- two stages of a linear model, solved by Newton in float64 ----


def _objective(theta: Tensor, x: Tensor, y: Tensor, weights: Tensor, pulls: list[tuple[float, Tensor]]) -> Tensor:
    """(1/n) Σ w l + Σ (c/2)‖θ − center‖²; θ is `[outputs, inputs + 1]`."""
    out = x @ theta[:, :-1].T + theta[:, -1]
    held = sum(c / 2 * (theta - center).square().sum() for c, center in pulls)
    return (weights * loss(out, y)).sum() / len(y) + held


def _minimum(shape: tuple[int, int], *parts: Any) -> Tensor:
    theta = torch.zeros(shape, dtype=torch.float64)
    for _ in range(50):
        point = theta.clone().requires_grad_(True)
        gradient = torch.autograd.grad(_objective(point, *parts), point)[0]
        if gradient.abs().max() < 1e-13:
            return theta
        H = torch.autograd.functional.hessian(lambda t: _objective(t, *parts), theta, vectorize=True)
        theta = theta - torch.linalg.solve(H.reshape(theta.numel(), -1), gradient.flatten()).reshape(shape)
    raise AssertionError("Newton did not converge")


@cache
def _data(kind: str) -> tuple[tuple[int, int], list[tuple[Tensor, Tensor]]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = 1 if kind == "ridge" else 3
        truth = torch.randn(outputs, 4)
        sets = []
        for count, turn in ((N, 0.0), (FEW, 0.4), (ASKED, 0.4)):  # fine-tuning is another task, but not by much
            x = torch.randn(count, 4)
            out = x @ (truth + turn * torch.randn(outputs, 4)).T + 0.5 * torch.randn(count, outputs)
            sets.append((x.double(), out[:, 0].double() if outputs == 1 else out.argmax(1)))
    return (outputs, 5), sets


def _two_stages(kind: str, weights: Tensor) -> tuple[Tensor, Tensor]:
    """θ and φ with these weights of the pretraining examples."""
    shape, ((x1, y1), (x2, y2), _) = _data(kind)
    zero = torch.zeros(shape, dtype=torch.float64)
    theta = _minimum(shape, x1, y1, weights, [(DECAY[0], zero)])
    ones = torch.ones(FEW, dtype=torch.float64)
    return theta, _minimum(shape, x2, y2, ones, [(DECAY[1], zero), (PROXIMAL, theta)])


def _model(theta: Tensor) -> nn.Linear:
    model = nn.Linear(theta.shape[1] - 1, len(theta)).double()
    with torch.no_grad():
        model.weight.copy_(theta[:, :-1])
        model.bias.copy_(theta[:, -1])
    return model


def _examples(x: Tensor, y: Tensor, prefix: str) -> TensorExamples:
    return TensorExamples(x, y, prefix)


@cache
def _solved(kind: str) -> tuple[Tensor, Tensor]:
    return _two_stages(kind, torch.ones(N, dtype=torch.float64))


def _subjects(kind: str) -> tuple[Subject, Subject, Queries]:
    _, sets = _data(kind)
    objective = SquaredError() if kind == "ridge" else CrossEntropy()
    parts = zip(_solved(kind), sets, DECAY, ("pre", "fine"), strict=False)
    first, second = (Subject(_model(t), _examples(*s, p), objective, wd, p) for t, s, wd, p in parts)
    return first, second, Queries(_examples(*sets[2], "test"), np.arange(ASKED, dtype=np.int64))


def _measures(kind: str, phi: Tensor, target: Target) -> Tensor:
    x, y = _data(kind)[1][2]
    out = x @ phi[:, :-1].T + phi[:, -1]
    if target == "label":
        return -loss(out, y)
    answer = (x @ _solved(kind)[1][:, :-1].T + _solved(kind)[1][:, -1]).argmax(1)
    return out[:, 0] if kind == "ridge" else -loss(out, answer)


@cache
def _retrained(kind: str) -> list[Tensor]:
    """φ after both stages, without each pretraining example in turn."""
    found = []
    for i in range(N):
        weights = torch.ones(N, dtype=torch.float64)
        weights[i] = 0
        found.append(_two_stages(kind, weights)[1])
    return found


def _method(kind: str, of: str = "") -> TwoStage:
    return TwoStage(PROXIMAL, of=of or ("ekfac" if kind == "ridge" else "last-layer"), settings={"damping": 0.0})


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["ridge", pytest.param("softmax", marks=pytest.mark.slow)])
def test_agrees_with_training_both_stages_again_without_each_example(kind: str, target: Target) -> None:
    first, second, queries = _subjects(kind)
    estimate = _method(kind).over(first, second).score(replace(queries, target=target)).values.double()
    full = _measures(kind, _solved(kind)[1], target)
    truth = torch.stack([full - _measures(kind, phi, target) for phi in _retrained(kind)], 1)
    for s, loo in zip(estimate.numpy(), truth.numpy(), strict=True):
        assert np.corrcoef(s, loo)[0, 1] > LINEAR
        assert SLOPE[0] < np.polyfit(s, loo, 1)[0] < SLOPE[1]


@pytest.mark.parametrize(("kind", "of"), [("ridge", "ekfac"), ("ridge", "last-layer"), ("softmax", "last-layer")])
def test_is_the_derivative_of_both_stages_in_the_weight_of_an_example(kind: str, of: str) -> None:
    """Dense Hessians by autograd at both optima; exact, because EK-FAC and the last layer are exact here."""
    first, second, queries = _subjects(kind)
    (theta, phi), (shape, ((x1, y1), (x2, y2), _)) = _solved(kind), _data(kind)
    zero = torch.zeros(shape, dtype=torch.float64)
    size = theta.numel()

    def hessian(at: Tensor, x: Tensor, y: Tensor, pulls: list[tuple[float, Tensor]]) -> Tensor:
        ones = torch.ones(len(y), dtype=torch.float64)
        found = torch.autograd.functional.hessian(lambda t: _objective(t, x, y, ones, pulls), at, vectorize=True)
        return found.reshape(size, size)

    H1 = hessian(theta, x1, y1, [(DECAY[0], zero)])
    H2 = hessian(phi, x2, y2, [(DECAY[1], zero), (PROXIMAL, theta)])

    def rows(at: Tensor, value: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.autograd.functional.jacobian(value, at).reshape(-1, size)

    g = rows(theta, lambda t: loss(x1 @ t[:, :-1].T + t[:, -1], y1))
    fitted = _method(kind, of).over(first, second)
    for target in TARGETS:
        m = rows(phi, lambda t, target=target: _measures(kind, t, target))
        expected = -PROXIMAL / N * m @ torch.linalg.inv(H2) @ torch.linalg.inv(H1) @ g.T
        asked = replace(queries, target=target)
        _close(fitted.score(asked).values, expected)
        weights = torch.randn(2, ASKED, generator=torch.Generator().manual_seed(0))
        room = (weights.double().abs() @ expected.abs()).max()
        assert (fitted.weighted(asked, weights) - weights.double() @ expected).abs().max() < EXACT * room
    own = rows(phi, lambda t: loss(x1 @ t[:, :-1].T + t[:, -1], y1))
    inverse = torch.linalg.inv(H2) @ torch.linalg.inv(H1)
    expected = PROXIMAL / N * ((own @ inverse) * g).sum(1).clamp_min(0)
    _close(fitted.self_influence(), expected)


def _close(found: Tensor, expected: Tensor, tolerance: float = EXACT) -> None:
    assert found.shape == expected.shape
    error = (found.double() - expected).abs().amax(-1) / expected.abs().amax(-1)
    assert error.max() <= tolerance, f"{error.max():.1e}"


def test_a_stronger_hold_inherits_more_and_in_the_end_all_of_the_pretraining() -> None:
    """α → ∞ keeps φ at θ: the influence is then that of the first stage alone on these queries."""
    first, second, queries = _subjects("softmax")
    tight = TwoStage(1e9, of="last-layer", settings={"damping": 0.0})
    limit = tight.over(first, replace(second, model=first.model)).score(queries).values
    expected = METHODS["last-layer"](damping=0.0).fit(first).score(queries).values
    _close(limit, expected.double(), 1e-5)  # 1/α of the fine-tuning's own curvature, and float32
    sizes = [TwoStage(a, of="last-layer").over(first, second).score(queries).values.norm() for a in (0.01, 0.1, 1.0)]
    assert sizes[0] < sizes[1] < sizes[2]


# ---- networks ----


def _other_head(made: Network) -> Subject:
    """The network fine-tuned to two classes: every layer but the last has the same name and shape."""
    model = network(made.name, torch.float64).model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model[-1] = nn.Linear(model[-1].in_features, 2).double()
        targets = torch.randint(2, (len(made.test),))
    return made.subject(model=model, train=TensorExamples(made.test.inputs, targets, "fine"), weight_decay=0.02)


def _matrix(stage: Stage) -> Tensor:
    """The stage's inverse as a dense matrix over its layers, row by row."""
    sizes = [layer.size for layer in stage.layers.layers]
    unit = torch.eye(sum(sizes), dtype=torch.float64).split(sizes, 1)
    shapes = [(layer.width_out, layer.width_in) for layer in stage.layers.layers]
    found = stage.inverse.apply([u.reshape(-1, *shape) for u, shape in zip(unit, shapes, strict=True)])
    return torch.cat([part.flatten(1) for part in found], 1)


@pytest.mark.parametrize("of", ["ekfac", "kfac", "last-layer"])
@pytest.mark.parametrize("new_head", [False, True])
def test_two_inverses_meet_in_the_layers_that_both_models_share(of: str, new_head: bool) -> None:
    made = network("mlp", torch.float64)
    first = made.subject()
    second = _other_head(made) if new_head else made.subject(train=made.test, weight_decay=0.02)
    if of == "last-layer" and new_head:
        with pytest.raises(
            ModelError, match=r"layer that both models have.*found 5 in the pretrained and 5 in the fine"
        ):
            TwoStage(PROXIMAL, of=of).over(first, second)
        return
    fitted = TwoStage(PROXIMAL, of=of).over(first, second)
    names = [[layer.name for layer in stage.layers.layers] for stage in (fitted.first, fitted.second)]
    y, y2 = made.train.targets, second.train.labels
    x, x2 = made.train.inputs.double(), second.train.batch(np.arange(4)).double()
    g = gradient_loop(first.model, names[0], x, lambda out, i: loss(out, y[i : i + 1])[0])
    m = gradient_loop(second.model, names[1], x2, lambda out, q: -loss(out, torch.from_numpy(y2[q : q + 1]))[0])
    G, M = (torch.cat([part.flatten(1) for part in rows], 1) for rows in (g, m))
    # each stage's dense inverse is that of its own method: the method's scores say so
    for stage, rows in ((fitted.first, G), (fitted.second, -M)):
        n = len(stage.fitted.subject.train)
        own = stage.fitted.score(Queries(stage.fitted.subject.train, np.arange(n, dtype=np.int64))).values
        _close(own, rows @ _matrix(stage) @ rows.T / n, 2e-6)  # eigenvectors turn by rounding
    through = M @ _matrix(fitted.second)
    if new_head:
        assert fitted.stats["shared"] == ["0", "3"]
        through[:, sum(layer.size for layer in fitted.first.layers.layers[:2]) :] = 0
        through = torch.nn.functional.pad(through, (0, G.shape[1] - through.shape[1]))
    expected = -PROXIMAL / len(y) * through @ _matrix(fitted.first) @ G.T
    queries = Queries(second.train, np.arange(4, dtype=np.int64))
    _close(fitted.score(queries).values, expected, 2e-6)
    assert fitted.stats["stage2"]["weight_decay"] == pytest.approx(0.02 + PROXIMAL)


def test_blocks_change_nothing_whether_kept_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    made = network("conv")
    second = made.subject(train=made.test)
    queries, weights = made.queries(), torch.ones(1, 4)
    fitted = TwoStage(PROXIMAL).over(made.subject(), second)
    expected = [w.double() for w in (fitted.score(queries).values, fitted.weighted(queries, weights))]
    own = fitted.self_influence().double()
    monkeypatch.setattr(backward, "BATCH", 3)
    monkeypatch.setattr(directional, "QUERY_ELEMENTS", 4 * fitted.second.layers.size)
    for kept in (2**30, 0):
        monkeypatch.setattr(directional, "KEEP_BYTES", kept)
        again = TwoStage(PROXIMAL).restore(replace(second, pretrained=made.subject()), fitted.tensors(), fitted.stats)
        for _ in range(2):
            reordered = 2e-5  # float32 sums in another order, through two damped inverses
            _close(again.score(queries).values, expected[0], reordered)
            _close(again.weighted(queries, weights), expected[1], reordered)
            assert (again.self_influence() - own).abs().max() < reordered * own.max()


@pytest.mark.parametrize("of", ["ekfac", "last-layer"])
def test_saved_and_reloaded_gives_the_same_bits(of: str, tmp_path: Path) -> None:
    made = network("norms")
    method = TwoStage(PROXIMAL, of=of)
    fitted = method.over(made.subject(), made.subject(train=made.test))
    save_file(fitted.tensors(), tmp_path / "fitted.safetensors")
    stats = json.loads(json.dumps(dict(fitted.stats)))
    other = network("norms")
    staged = other.subject(train=made.test, pretrained=other.subject())
    restored = method.restore(staged, load_file(tmp_path / "fitted.safetensors"), stats)
    assert dict(restored.stats) == dict(fitted.stats)
    for target in TARGETS:
        queries = made.queries(target)
        room = torch.full((2, 4, len(made.train)), torch.nan)
        values = fitted.score(queries, out=room[1]).values
        assert values.data_ptr() == room[1].data_ptr()
        assert torch.equal(restored.score(queries).values, values)
    assert torch.equal(restored.self_influence(), fitted.self_influence())


def test_work_leaves_both_models_as_they_were_cancelled_or_not() -> None:
    made, other = network("norms"), network("norms")
    second = other.subject(train=made.test)
    fitted = TwoStage(PROXIMAL).over(made.subject(), second)
    before = state(made.model), state(other.model)
    works: dict[str, Callable[[Any], object]] = {
        "fit": lambda p: TwoStage(PROXIMAL).over(made.subject(), second, p),
        "score": lambda p: fitted.score(made.queries(), p),
        "weighted": lambda p: fitted.weighted(made.queries(), torch.ones(1, 4), p),
        "self_influence": lambda p: fitted.self_influence(p),
    }
    for what, work in works.items():
        said: list[str] = []

        def progress(done: int, total: int, note: str, said: list[str] = said) -> None:
            assert 0 <= done <= total
            assert note
            said.append(note)

        fitted._kept = directional.Kept()
        work(progress)
        assert said
        for stop in range(len(said)):

            def cancel(done: int, total: int, note: str, left: list[int] = [stop]) -> None:  # noqa: B006
                left[0] -= 1
                if left[0] < 0:
                    raise Cancelled

            fitted._kept = directional.Kept()
            with pytest.raises(Cancelled):
                work(cancel)
            assert (state(made.model), state(other.model)) == before, f"{what} cancelled at {stop}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"proximal": 0.0},
        {"proximal": float("inf")},
        {"of": "gradient-dot"},
        {"settings": {"unknown": 1}},
        {"settings": {"damping": -1.0}},
    ],
)
def test_settings_out_of_range_are_messages(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"Expected .*found"):
        TwoStage(**({"proximal": 1.0} | wrong))


def test_no_query_is_a_message() -> None:
    first, second, queries = _subjects("ridge")
    none = replace(queries, rows=np.array([], dtype=np.int64))
    fitted = _method("ridge").over(first, second)
    for work in (lambda: fitted.score(none), lambda: fitted.weighted(none, torch.zeros(1, 0))):
        with pytest.raises(DataError, match="query"):
            work()
